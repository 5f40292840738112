from __future__ import annotations

import msgspec
import pytest

from middlewares import registry
from middlewares.exchange import Deps
from middlewares.registry import BUILT_IN, PLANNED
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of

PUBLISHED = {
    "prefix_rewrite",
    "headers",
    "key",
    "token_floor",
    "timeout",
    "retry",
    "breaker",
    "stream",
    "params",
    "concurrency",
    "client_keys",
    "rate_limit",
    "usage",
}
"""The names that the documentation promises."""

SMALLEST: dict[str, dict[str, object]] = {
    "client_keys": {"file": "clients.yaml"},
    "prefix_rewrite": {},
    "headers": {},
    "key": {"env": "KEY"},
    "token_floor": {"min": 1500},
    "timeout": {},
    "usage": {},
    "params": {"drop": ["temperature"]},
    "concurrency": {"limit": 1},
    "retry": {},
    "breaker": {},
    "stream": {},
    "rate_limit": {"requests": {"count": 60, "seconds": 60.0}},
}
"""The least that each must be given."""


def test_the_built_and_the_planned_are_together_what_is_published():
    assert PLANNED | BUILT_IN.keys() == PUBLISHED


def test_the_catalog_names_the_same_middlewares():
    catalog = registry.catalog()
    assert catalog.entries.keys() == BUILT_IN.keys()
    assert catalog.planned == PLANNED
    assert all(catalog.entries[name] is registered.entry for name, registered in BUILT_IN.items())


def test_headers_params_and_limits_may_stand_twice_in_a_list():
    assert {name for name, registered in BUILT_IN.items() if registered.entry.repeatable} == {
        "headers",
        "params",
        "rate_limit",
    }


def test_what_may_stand_at_the_top_and_with_which_options():
    top = {name: registered.entry.top_fields for name, registered in BUILT_IN.items()}
    assert top == {
        "client_keys": frozenset(),
        "prefix_rewrite": None,
        "headers": frozenset(),
        "key": None,
        "token_floor": None,
        "timeout": frozenset({"total"}),
        "usage": None,
        "params": None,
        "concurrency": None,
        "retry": None,
        "breaker": None,
        "stream": None,
        "rate_limit": frozenset(),
    }


def test_each_says_in_a_few_words_what_it_is_for():
    assert all(registered.entry.summary for registered in BUILT_IN.values())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
async def test_each_is_made_from_its_options_and_passes_a_request_on(name):
    registered = BUILT_IN[name]
    options = msgspec.convert(SMALLEST[name], registered.entry.options)
    deps: Deps = deps_of(environ={"KEY": "sk-canary"})
    call_next = FakeNext()
    reply = await registered.make(options, deps)(exchange_of(), call_next)
    assert reply is call_next.reply
    assert call_next.calls == 1
