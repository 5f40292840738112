# ruff: noqa: E501 (messages are compared whole)
"""What no request comes to: told where it stands, and never told of what the router does reach."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.loader import Loaded
from middlewares.faults import ClientFault
from proxy.router import Named, Router
from tests.config.tables import load_text, told

ROUTES = """\
version: 1
routes:
  one: {upstream: demo, serves: [%s]}
  two: {upstream: demo, serves: [%s]}
"""


def loaded_with(one: str, two: str, more: str, folder: Path) -> Loaded:
    return load_text(ROUTES % (one, two) + more, folder)


@pytest.mark.parametrize(
    ("one", "two", "more", "place", "message"),
    [
        (
            "gpt-4o",
            "",
            "models: {gpt-4o: two/x}",
            (3, 34),
            "never reached: this name stands under models on line 5, which comes first: leave out one of the two",
        ),
        (
            "two/x",
            "",
            "",
            (3, 34),
            "never reached: what begins with 'two/' means the route 'two' already: leave it out",
        ),
        (
            "",
            '"two/*"',
            "",
            (4, 34),
            "never reached: what begins with 'two/' means the route 'two' already: leave it out",
        ),
        ("x, y, x", "", "", (3, 40), "never reached: it stands in this list already: leave it out"),
        (
            '"*", "gpt-*"',
            "",
            "",
            (3, 39),
            "never reached: '*' on line 3 takes these names first: move this before it, or leave it out",
        ),
        (
            '"gpt-*"',
            '"gpt-4*"',
            "",
            (4, 34),
            "never reached: 'gpt-*' of the route 'one' on line 3 takes these names first: move this before it, or leave it out",
        ),
        (
            '"a*", "*b"',
            '"a*b", "?b"',
            "",
            (4, 34),
            "never reached: 'a*' of the route 'one' on line 3 takes these names first: move this before it, or leave it out",
        ),
        (
            '"a?*", "*b"',
            '"a*"',
            "models: {a: two/x}",
            (4, 34),
            "never reached: what comes before it takes all of these names together: leave it out",
        ),
        (
            '"one?*/"',
            '"one*/"',
            "",
            (4, 34),
            "never reached: what comes before it takes all of these names together: leave it out",
        ),
        (
            "",
            '"*"',
            "default_route: one",
            (5, 16),
            "only requests that name no model come here: the globs of 'two' take every name",
        ),
        (
            "",
            "",
            "models: {m: [one/x, two/x, one/x]}",
            (5, 28),
            "'one/x' stands in this ladder already: to call it again, give its route the middleware retry",
        ),
        (
            "",
            "",
            'models: {"gpt-*": one/x}',
            (5, 10),
            "'gpt-*' means this very name: under models nothing is a glob; write globs under a route's serves",
        ),
    ],
)
def test_what_is_never_reached_is_told(
    one: str, two: str, more: str, place: tuple[int, int], message: str, tmp_path: Path
) -> None:
    loaded = loaded_with(one, two, more, tmp_path)

    assert (*place, message) in told(loaded)
    assert loaded.ok


@pytest.mark.parametrize(
    ("one", "two", "more"),
    [
        ('"gpt-4*", "gpt-*", "*"', "", ""),
        ('gpt-4o, "gpt-*"', "gpt-5", ""),
        ('"*"', "", "default_route: one"),
        ('"*/*"', "", "default_route: two"),
        ("one", "two", ""),
        ('"three/*"', "", "models: {three/x: one/x}"),
        ("", "", "models: {m: [one/x, one/y, two/x]}"),
    ],
)
def test_what_is_reached_is_not_blamed(one: str, two: str, more: str, tmp_path: Path) -> None:
    assert told(loaded_with(one, two, more, tmp_path)) == []


def test_a_claim_that_two_routes_make_is_told_once(tmp_path: Path) -> None:
    assert told(loaded_with('"a*"', '"a*"', "", tmp_path)) == [(4, 34, "'a*' is claimed by 'one' already")]


def test_what_an_explicit_only_route_may_not_claim_takes_nothing_from_others(tmp_path: Path) -> None:
    text = (ROUTES % ('"*"', '"a*"')).replace("upstream: demo,", "upstream: demo, explicit_only: true,", 1)

    assert told(load_text(text, tmp_path)) == [
        (3, 46, "'one' is explicit_only, so it cannot claim bare names with serves")
    ]


def test_a_claim_from_the_environment_is_shown_as_its_source(tmp_path: Path) -> None:
    text = ROUTES % ('"${CANARY}*"', '"${CANARY}b*"')
    (message,) = [said for *_, said in told(load_text(text, tmp_path, {"CANARY": "canary-"}))]

    assert message.startswith("never reached: '${CANARY}*' of the route 'one' on line 3")


# Two of the names are routes, so that prefixes come into it too.
LETTERS = "ab/z"
CLAIMS = st.text(alphabet="ab/*?", min_size=1, max_size=3)
NAMES = ["".join(letters) for n in range(7) for letters in product(LETTERS, repeat=n)]


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), CLAIMS, min_size=1),
    st.lists(
        CLAIMS.filter(lambda name: not name.startswith(("a/", "b/")) and name not in {"a", "b"}), max_size=2
    ),
    st.booleans(),
)
def test_a_claim_is_told_if_and_only_if_no_name_reaches_it(
    claims: Mapping[str, str], models: Sequence[str], default: bool
) -> None:
    """Each route makes one claim, so that the route that is chosen tells which one led there."""
    routes = {name: {"upstream": "demo", "serves": [claim]} for name, claim in claims.items()}
    routes["hidden"] = {"upstream": "demo"}
    table = {"version": 1, "routes": routes, "models": dict.fromkeys(models, "hidden/x")}
    if default:
        table["default_route"] = "hidden"
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_text(json.dumps(table, indent=1), Path(folder))
    if loaded.table is None:
        return  # two routes with one claim, or a name that is a route's
    router = Router(loaded.table)
    reached = {choice for name in NAMES if (choice := chosen(router, name)) is not None}
    silent = {
        ("serves", name)
        for name in claims
        if not any(p.code == "shadowed-claim" and p.line == line_of(loaded, name) for p in loaded.problems)
    }
    if default and not any(p.code == "shadowed-default" for p in loaded.problems):
        silent.add(("default_route", "hidden"))

    assert silent == {choice for choice in reached if choice[0] in {"serves", "default_route"}}


def chosen(router: Router, name: str) -> tuple[str, str] | None:
    try:
        choice = router.choose(Named(model=name))
    except ClientFault:
        return None
    return choice.rule, choice.rungs[0].route


def line_of(loaded: Loaded, route: str) -> int:
    return loaded.marks["routes", route, "serves", 0].line


@settings(deadline=None)
@given(CLAIMS, st.lists(CLAIMS, min_size=1, max_size=3), st.text(max_size=6))
def test_what_is_told_of_one_list_no_text_at_all_disproves(claim: str, before: list[str], name: str) -> None:
    """The same within the list of one route, for whatever a client may write."""
    routes = {"c": {"upstream": "demo", "serves": before}, "d": {"upstream": "demo", "serves": [claim]}}
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_text(json.dumps({"version": 1, "routes": routes}, indent=1), Path(folder))
    if loaded.table is None or line_of(loaded, "d") not in {p.line for p in loaded.problems}:
        return

    assert chosen(Router(loaded.table), name) != ("serves", "d")


def test_a_table_of_thousands_of_globs_is_read_in_a_moment(tmp_path: Path) -> None:
    claims = ", ".join(f'"*{n}?*"' for n in range(5000))

    assert loaded_with(claims, '"*"', "", tmp_path).ok
