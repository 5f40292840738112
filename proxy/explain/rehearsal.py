"""The dry run: a request goes the way of every request, up to the moment of sending.

The table is compiled as it is for serving, with three differences. Where a provider would be called, it is
noted what would be sent; what counts or waits (breaker, concurrency, retry) is left out; and stand-ins go
where keys would. No provider but the last of a ladder can be reached, so that every rung is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import structs
from multidict import CIMultiDict

from config import schema
from config.secrets import KeySource, SecretStore
from middlewares.bodies import FixedBody
from middlewares.clocks import Watch
from middlewares.exchange import Deps, Exchange, Handler, Reply, Rung, Unreadable
from middlewares.faults import Fault, Refusal, UpstreamFault
from middlewares.key import Key, Source
from middlewares.states import States
from proxy.explain.question import Thought
from proxy.explain.redaction import StandIns
from proxy.intake import take_body
from proxy.logs import where
from proxy.opening import Head, begin, names_of, read_head
from proxy.router import RULES, Choice, Named, Router, Rule
from proxy.sending import address, outgoing
from proxy.table import OWN_AGENT, STATEFUL, RouteTable, Surroundings, compile_table, host_of
from proxy.wire import split_target

_REMOTE = "127.0.0.1"
_PROBES = ("/healthz", "/readyz")


class Sent(NamedTuple):
    """What a provider would get. `target` follows its base URL; `model` is None where none is named."""

    target: str
    headers: CIMultiDict[str]
    model: str | None
    changes: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, exchange: Exchange) -> Sent:
        """As the exchange is now."""
        model = None if isinstance(exchange.body, Unreadable) else exchange.model
        return cls(address("", exchange), outgoing(exchange).headers, model, dict(exchange.changes))


@dataclass(slots=True)
class Step:
    """One rung of the ladder.

    `sent` is what its provider would get. None: nothing would, and `why` tells the reason; `partly` is then
    how far the request came, None if it never came here. `answered` has no provider because a middleware
    answers in its place. `key_missing` is why the route has no usable key, in the words of its 503.
    """

    rung: Rung
    key_missing: str | None
    sent: Sent | None = None
    partly: Sent | None = None
    why: str = "not tried: the request ends before it"
    answered: bool = False


@dataclass(slots=True)
class Rehearsed:
    """How far a request came.

    `fault` says why nothing serves it; without a choice no route was found. `ours` is a page of tidegate's
    own, for which no route is asked.
    """

    ours: bool = False
    verdicts: dict[Rule, Choice | Fault | None] = field(default_factory=dict)
    choice: Choice | None = None
    steps: list[Step] = field(default_factory=list)
    fault: Fault | None = None


async def rehearse(request: Thought, table: schema.Table, secrets: SecretStore) -> Rehearsed:
    """Have `request` go through `table`. Raises `config.catalog.Unusable`, as compiling does."""
    told = Rehearsed()
    if request.method in ("GET", "HEAD") and split_target(request.raw_path)[0] in _PROBES:
        told.ours = True
        return told
    try:
        head = read_head(request)
        told.ours = head.listing is not None
        if not told.ours:
            await _run(request, head, table, secrets, told)
    except Fault as fault:
        told.fault = fault
    if any(step.sent is not None or step.answered for step in told.steps):
        told.fault = None
    return told


async def _run(
    request: Thought, head: Head, table: schema.Table, secrets: SecretStore, told: Rehearsed
) -> None:
    taken = await take_body(request, head.target.path, table.server, lambda _size: None)
    named = names_of(head, taken.body)
    router = Router(table)
    told.verdicts = {rule: _verdict(router, rule, named) for rule in RULES}
    told.choice = choice = router.choose(named)
    told.steps = [Step(rung, key_missing(table, rung.route, secrets)) for rung in choice.rungs]
    stage, timer = _Stage(), asyncio.get_running_loop()
    stand_ins = StandIns(secrets, _excused(told.steps, table))
    around = Surroundings(stand_ins, timer, States())
    compiled = compile_table(_without_state(table), stage.innermost, around)
    watch = Watch(compiled.clocks, timer)
    stage.exchange = exchange = begin(request, head, taken, _REMOTE, watch, AsyncExitStack())
    exchange.rungs = choice.rungs
    last: Fault | None = None
    try:
        await _through(compiled, exchange)
    except Fault as fault:
        last = fault
        raise
    finally:
        _note(told.steps, exchange, stage, last)


async def _through(compiled: RouteTable, exchange: Exchange) -> None:
    watch = exchange.watch
    try:
        async with exchange.stack as stack:
            stack.callback(watch.close)
            watch.start("total")
            async with watch.guard():
                await compiled.chain(exchange)
    except Fault:
        raise
    except Exception as error:
        # As in the handler: a middleware failed that nobody foresaw. Its text may quote what it was given.
        raise Refusal(
            "internal_error", f"A middleware failed: {type(error).__name__} at {where(error)}."
        ) from error


def _note(steps: list[Step], exchange: Exchange, stage: _Stage, last: Fault | None) -> None:
    """Tell each rung what became of it; `last` is what the request ended with."""
    for i, (step, run) in enumerate(zip(steps, exchange.runs, strict=False)):
        step.sent = stage.sent.get(i)
        if step.sent is None:
            step.partly = Sent.of(run)
            if run.failure is not None:
                step.why = f"refused by a middleware: {run.failure}"
            elif last is not None:
                step.why = last.message
            else:
                step.why, step.answered = "a middleware answers by itself", True


def _verdict(router: Router, rule: Rule, named: Named) -> Choice | Fault | None:
    try:
        return router.apply(rule, named)
    except Fault as fault:
        return fault


class _Stage:
    """Stands where the providers are called."""

    exchange: Exchange

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        """By the number of the rung."""

    def innermost(self, _route: schema.Route) -> Handler:
        """For any route."""
        return self._call

    async def _call(self, exchange: Exchange) -> Reply:
        # The run that began last, whatever its middlewares hand on.
        self.sent.setdefault(len(self.exchange.runs) - 1, Sent.of(exchange))
        if exchange.more_rungs:
            raise UpstreamFault("upstream_connect", "Nothing is sent.")
        return Reply(200, CIMultiDict({"Content-Type": "application/json"}), FixedBody(b"{}"))


def _excused(steps: list[Step], table: schema.Table) -> dict[KeySource, str]:
    """The sources of keys that are missing, with the host that each would be for."""
    routes = [table.routes[step.rung.route] for step in steps if step.key_missing is not None]
    return {source: host_of(route) for route in routes for source in key_sources(route)}


def _without_state(table: schema.Table) -> schema.Table:
    routes = {
        name: structs.replace(route, middlewares=_plain(route.middlewares))
        for name, route in table.routes.items()
    }
    return structs.replace(table, routes=routes, middlewares=_plain(table.middlewares))


def _plain(uses: tuple[schema.MiddlewareUse, ...]) -> tuple[schema.MiddlewareUse, ...]:
    return tuple(use for use in uses if use.name not in STATEFUL)


def key_missing(table: schema.Table, name: str, secrets: SecretStore) -> str | None:
    """Why the route has no usable key, in the words of its 503; None where it has one, or needs none."""
    route = table.routes[name]
    for options in _key_options(route):
        try:
            Key(options, Deps(name, host_of(route), secrets, OWN_AGENT)).next_key()
        except Refusal as refusal:
            return refusal.message
    return None


def keys_of(route: schema.Route) -> Iterator[Source]:
    """Every source of a key that the route names, in turn."""
    for options in _key_options(route):
        yield from options if isinstance(options, tuple) else (options,)


def key_sources(route: schema.Route) -> list[KeySource]:
    """The places of its keys."""
    return [source.place for source in keys_of(route) if not source.pass_]


def _key_options(route: schema.Route) -> Iterator[Source | tuple[Source, ...]]:
    yield from (use.options for use in route.middlewares if use.name == "key")
