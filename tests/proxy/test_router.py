"""The seven rules of routing, and what no table can make them do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import Route, Table
from middlewares.exchange import Rung
from middlewares.faults import ClientFault
from proxy.router import Choice, Named, Router


def table(routes: dict[str, dict[str, Any]], **rest: Any) -> Table:
    made = {name: Route(upstream="demo", **options) for name, options in routes.items()}
    return Table(version=1, routes=made, **rest)


ROUTES: dict[str, dict[str, Any]] = {
    "kimi": {"explicit_only": True},
    "openrouter": {"serves": ("gpt-4o", "anthropic/*")},
    "ollama": {"serves": ("gpt-*", "llama3", "q?en")},
}
ROUTER = Router(
    table(
        ROUTES,
        models={"review": ("openrouter/a/b", "ollama/c"), "alias": ("ollama/d",), "kimi-k2": ("ollama/k2",)},
        default_route="openrouter",
    )
)
BARE = Router(table(ROUTES))


@pytest.mark.parametrize(
    ("named", "rule", "routes"),
    [
        (Named(path="kimi", header="ollama", provider="openrouter", model="alias"), "path", ["kimi"]),
        (Named(header="kimi", provider="ollama", model="alias"), "header", ["kimi"]),
        (Named(provider="kimi", model="alias"), "provider", ["kimi"]),
        (Named(model="alias"), "models", ["ollama"]),
        (Named(model="review"), "models", ["openrouter", "ollama"]),
        (Named(model="kimi/kimi-for-coding"), "prefix", ["kimi"]),
        (Named(model="ollama/gpt-4o"), "prefix", ["ollama"]),
        (Named(model="gpt-4o"), "serves", ["openrouter"]),
        (Named(model="gpt-5"), "serves", ["ollama"]),
        (Named(model="qwen"), "serves", ["ollama"]),
        (Named(model="anthropic/claude/x"), "serves", ["openrouter"]),
        (Named(model="something-else"), "default_route", ["openrouter"]),
        (Named(model="moonshotai/kimi-k2"), "default_route", ["openrouter"]),
        (Named(), "default_route", ["openrouter"]),
    ],
)
def test_the_first_rule_that_matches_decides(named: Named, rule: str, routes: list[str]) -> None:
    choice = ROUTER.choose(named)

    assert choice.rule == rule
    assert [rung.route for rung in choice.rungs] == routes


def test_a_target_replaces_the_clients_model_and_keeps_its_route() -> None:
    choice = ROUTER.choose(Named(model="review"))

    assert choice == Choice(
        "models", (Rung("openrouter", "openrouter/a/b"), Rung("ollama", "ollama/c")), "review"
    )


@pytest.mark.parametrize(
    ("named", "code", "hint"),
    [
        (Named(path="kimmi", model="alias"), "model_not_found", "'kimi'"),
        (Named(header="KIMI", model="alias"), "model_not_found", "'kimi'"),
        (Named(provider="kimmi", model="alias"), "model_not_found", "'kimi'"),
        (Named(provider="", model="alias"), "model_not_found", ""),
        (Named(model="kimmi/kimi-for-coding"), "model_not_found", "'kimi/kimi-for-coding'"),
        (Named(model="Kimi/kimi-for-coding"), "model_not_found", "'kimi/kimi-for-coding'"),
        (Named(model="kimi"), "model_not_found", "'kimi/<model>'"),
        (Named(model="openruter/x"), "model_not_found", "'openrouter/x'"),
    ],
)
def test_a_name_that_names_nothing_does_not_fall_through(named: Named, code: str, hint: str) -> None:
    with pytest.raises(ClientFault) as raised:
        ROUTER.choose(named)

    assert raised.value.code == code
    assert hint in raised.value.message


@pytest.mark.parametrize(
    ("named", "code"),
    [(Named(), "invalid_request"), (Named(model="something-else"), "model_not_found")],
)
def test_without_a_default_route_nothing_is_guessed(named: Named, code: str) -> None:
    with pytest.raises(ClientFault) as raised:
        BARE.choose(named)

    assert raised.value.code == code


NAMES = st.sampled_from(["kimi", "a", "b", "c", "kimi-for-coding", "kimi/x", "k*", "*", "a/x", "gpt-4o", "?"])
MODELS = st.one_of(NAMES, st.text(max_size=12), st.from_regex(r"\A[a-c]/[a-z]{1,4}\Z"))
OPEN = st.sampled_from(["a", "b", "c"])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of a private route and open ones, with whatever else may claim names.

    The private route's own claims break the rules of loading on purpose: routing must not rely on them.
    """
    routes: dict[str, dict[str, Any]] = {
        "kimi": {"explicit_only": True, "serves": tuple(draw(st.lists(NAMES, max_size=3)))},
        **{name: {"serves": tuple(draw(st.lists(NAMES, max_size=3)))} for name in ("a", "b", "c")},
    }
    targets = st.lists(st.builds("{}/{}".format, OPEN, NAMES), min_size=1, max_size=3).map(tuple)
    models = draw(st.dictionaries(st.text(min_size=1, max_size=8) | NAMES, targets, max_size=3))
    default = draw(st.none() | st.sampled_from(["a", "b", "c", "kimi"]))
    return table(routes, models=models, default_route=default)


@given(tables(), MODELS | st.none())
def test_no_table_leads_to_a_private_route_that_was_not_named(made: Table, model: str | None) -> None:
    named_it = model is not None and model.startswith("kimi/")
    try:
        choice = Router(made).choose(Named(model=model))
    except ClientFault:
        return
    reached = {rung.route for rung in choice.rungs}

    assert "kimi" not in reached or (named_it and choice.rule == "prefix")


@given(tables(), MODELS)
def test_naming_a_route_always_reaches_that_route_alone(made: Table, model: str) -> None:
    for field in ("path", "header", "provider"):
        named = dataclasses.replace(Named(model=model), **{field: "kimi"})

        assert Router(made).choose(named).rungs == (Rung("kimi"),)
