"""The rungs of one exchange, tried in order until one answers or stops it.

Every rung runs its route's chain from the request as the top level left it: nothing that one rung's
chain added can reach another. With a single rung, which is the usual case, an error answer passes
straight through; it is held only while there is somewhere left to go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from config import schema
from middlewares.bodies import FixedBody, HeldBody, read_up_to
from middlewares.breaker import Breaker
from middlewares.clocks import Clocks, Timer, Watch
from middlewares.concurrency import Concurrency
from middlewares.exchange import Commit, Exchange, Handler, Middleware, Reply, Rung
from middlewares.faults import ClientFault, Fault
from middlewares.observation import decode, refuses_content, wants_another_model

_MOVES_ON = frozenset({401, 402, 408, 429})
_HELD_AT_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    """One route, compiled: its chain around its upstream, and what else is decided at load."""

    name: str
    chain: Handler
    asking: Handler
    """The same without its slots: asking for the models takes nobody's place."""
    clocks: Clocks
    commit: Commit
    usable: Callable[[], bool]
    listed: tuple[str, ...] | None
    """The models that `/v1/models` shows; None: ask the upstream."""
    settings: schema.Route
    """What the table says of it."""
    middlewares: tuple[Middleware, ...]
    """Those that `settings` names, in the same order."""
    adopting: tuple[Breaker | Concurrency, ...] = ()
    """Those of its middlewares whose state outlives the table."""


class Ladder:
    """The innermost handler of the top-level chain."""

    def __init__(self, routes: Mapping[str, Route], timer: Timer) -> None:
        self._routes = routes
        self._timer = timer

    async def __call__(self, exchange: Exchange) -> Reply:
        """The reply to send, already worth committing. Raises the first rung's Fault if all fail.

        Each run is appended to `exchange.runs` before it begins; `exchange.told` is the last of them,
        or the first if none was better.
        """
        if len(exchange.rungs) == 1:
            return await self._run(exchange, exchange.rungs[0])
        first: Reply | Fault | None = None
        for rung in exchange.rungs:
            outcome = await self._try(exchange, rung)
            if isinstance(outcome, Reply):
                failed = await _read_failure(outcome) if outcome.status >= 400 else None
                if failed is None:
                    return outcome
                outcome = failed
            run = exchange.runs[-1]
            run.failure = str(outcome.status) if isinstance(outcome, Reply) else outcome.code
            if not isinstance(outcome, Reply) or isinstance(outcome.body, FixedBody):
                # Whatever the rung holds, connections and slots, is free before the next one begins.
                await run.stack.aclose()
            first = first or outcome
        exchange.told = exchange.runs[0]
        # Everybody was asked: a client that asks again would only have it all done again.
        if isinstance(first, Reply):
            first.headers["x-should-retry"] = "false"
            return first
        assert first is not None
        first.spent = True
        raise first

    async def _try(self, exchange: Exchange, rung: Rung) -> Reply | Fault:
        """A reply, or the fault for which the ladder moves on; any other fault stops it."""
        try:
            return await self._run(exchange, rung)
        except ClientFault:
            raise
        except Fault as fault:
            return fault

    async def _run(self, exchange: Exchange, rung: Rung) -> Reply:
        route = self._routes[rung.route]
        watch = Watch(route.clocks, self._timer)
        stack = AsyncExitStack()
        stack.callback(watch.close)
        run = exchange.fork(rung.route, watch, stack)
        run.commit = route.commit
        run.more_rungs = rung is not exchange.rungs[-1]
        if rung.model is not None:
            run.rename_model(rung.model)
        if route.commit.keepalive is not None and exchange.streaming and exchange.patience is not None:
            exchange.patience(route.commit.keepalive)
        exchange.runs.append(run)
        exchange.told = run
        # Once more at the very end: relaying an answer whose rung is over starts its clock again.
        exchange.stack.callback(watch.close)
        exchange.stack.push_async_callback(stack.aclose)
        watch.start("total")
        try:
            async with watch.guard():
                return await route.chain(run)
        except Fault as fault:
            run.note_fault(fault)
            raise


async def _read_failure(reply: Reply) -> Reply | Fault | None:
    """What is to be remembered of an error answer if another rung may do better; None: send it."""
    try:
        pieces, ended = await read_up_to(_HELD_AT_MOST, reply.body)
    except Fault as fault:
        return fault
    body = b"".join(pieces)
    reply.body = FixedBody(body) if ended else HeldBody(pieces, reply.body)
    return reply if _moves_on(reply.status, body) else None


def _moves_on(status: int, body: bytes) -> bool:
    value = decode(body)
    if refuses_content(value):
        return False
    return status in _MOVES_ON or status >= 500 or wants_another_model(value)
