"""The middlewares by name: what the loader may read, and how each is made.

An explicit table, so that importing a module never registers anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from config.catalog import Catalog, Entry, foreign
from middlewares import (
    breaker,
    client_keys,
    concurrency,
    headers,
    key,
    params,
    prefix_rewrite,
    rate_limit,
    retry_options,
    stream,
    third_party,
    timeout,
    token_floor,
    usage,
)
from middlewares.exchange import Deps, Middleware

PLANNED: frozenset[str] = frozenset()
"""In the contract, and not in this version: naming one is an error, never ignored."""


class Registered(Struct, frozen=True):
    """`make` builds the middleware from its options and what it depends on."""

    entry: Entry
    make: Callable[[Any, Deps], Middleware]


def _retry(options: Any, deps: Deps) -> Middleware:
    # Late: it brings an HTTP library along, and reading a table needs none.
    from middlewares.retry import Retry  # noqa: PLC0415

    return Retry(options, deps)


BUILT_IN: dict[str, Registered] = {
    "client_keys": Registered(
        Entry(
            client_keys.Options,
            top_fields=frozenset(),
            top_only=True,
            summary="only clients with a key, and for each what it may use",
        ),
        client_keys.ClientKeys,
    ),
    "prefix_rewrite": Registered(
        Entry(prefix_rewrite.Options, summary="the model name that the upstream sees"),
        prefix_rewrite.PrefixRewrite,
    ),
    "headers": Registered(
        Entry(
            headers.Options,
            top_fields=frozenset(),
            repeatable=True,
            summary="edits of request and answer headers; the User-Agent",
        ),
        headers.Headers,
    ),
    "key": Registered(
        Entry(key.Options, summary="the key that goes upstream"),
        key.Key,
    ),
    "token_floor": Registered(
        Entry(token_floor.Options, summary="a floor and a cap for max_tokens and its kin"),
        token_floor.TokenFloor,
    ),
    "timeout": Registered(
        Entry(
            timeout.Options,
            top_fields=frozenset({"total"}),
            summary="limits of the five clocks",
        ),
        timeout.Timeout,
    ),
    "params": Registered(
        Entry(params.Options, repeatable=True, summary="edits of a JSON body's top-level fields"),
        params.Params,
    ),
    "retry": Registered(
        Entry(retry_options.Options, summary="the same route again, before anything has reached the client"),
        _retry,
    ),
    "breaker": Registered(
        Entry(breaker.Options, summary="leaves a provider alone that fails again and again"),
        breaker.Breaker,
    ),
    "concurrency": Registered(
        Entry(concurrency.Options, summary="exchanges in flight on the route, and a queue for more"),
        concurrency.Concurrency,
    ),
    "rate_limit": Registered(
        Entry(
            rate_limit.Options,
            top_fields=frozenset(),
            repeatable=True,
            summary="requests, tokens and exchanges at a time, per client, route or address",
        ),
        rate_limit.RateLimit,
    ),
    "stream": Registered(
        Entry(stream.Options, summary="when an answer is committed; comments that keep a client patient"),
        stream.Stream,
    ),
    "usage": Registered(
        Entry(usage.Options, summary="tokens in the log and the metrics; asks streams for them"),
        usage.Usage,
    ),
}


def catalog() -> Catalog:
    """What the loader needs to know of all this; what is installed is looked up once for each."""
    registered = functools.cache(third_party.registered_names)
    return Catalog(
        entries={name: registered.entry for name, registered in BUILT_IN.items()},
        planned=PLANNED,
        third_party=functools.partial(_third_party, registered),
        registered=registered,
    )


def make(name: str, options: Any, deps: Deps) -> Middleware:
    """The middleware of that name. Raises `config.catalog.Unusable` if it is somebody else's and fails."""
    if name in BUILT_IN:
        return BUILT_IN[name].make(options, deps)
    with foreign(name):
        made: Middleware = third_party.find(name)(options, deps)
        return made


def _third_party(registered: Callable[[], tuple[str, ...]], name: str) -> Entry | None:
    module, colon, _ = name.partition(":")
    if name in PLANNED or (colon and module in BUILT_IN.keys() | PLANNED):
        return None  # `timeout:10s` is a slip, and no module
    if not colon and name not in registered():
        return None
    return Entry(third_party.options_of(name), top_fields=frozenset(), repeatable=True, summary="third-party")
