"""The rungs of one exchange, tried in order until one answers or stops it.

Every rung runs its route's chain from the request as the top level left it: nothing that one rung's
chain added can reach another. With a single rung, which is the usual case, an error answer passes
straight through; it is held only while there is somewhere left to go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from middlewares.bodies import HeldBody
from middlewares.clocks import Clocks, Timer, Watch
from middlewares.envelope import Envelope
from middlewares.exchange import Exchange, Handler, Reply, Rung
from middlewares.faults import ClientFault, Fault
from middlewares.observation import decode

_MOVES_ON = frozenset({401, 402, 408, 429})
_MOVES_ON_CODES = frozenset({"context_length_exceeded", "model_not_found"})
_HELD_AT_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    """One route, compiled: its chain around its upstream, and what else is decided at load."""

    name: str
    chain: Handler
    clocks: Clocks
    explicit_only: bool
    usable: Callable[[], bool]
    listed: tuple[str, ...] | None
    """The models that `/v1/models` shows; None: ask the upstream."""


class Ladder:
    """The innermost handler of the top-level chain."""

    def __init__(self, routes: Mapping[str, Route], timer: Timer) -> None:
        self._routes = routes
        self._timer = timer

    async def __call__(self, exchange: Exchange) -> Reply:
        """The reply to send, already worth committing. Raises the first rung's Fault if all fail.

        Each run is appended to `exchange.runs` before it begins.
        """
        if len(exchange.rungs) == 1:
            return await self._run(exchange, exchange.rungs[0])
        first: Reply | Fault | None = None
        for rung in exchange.rungs:
            outcome = await self._try(exchange, rung)
            if isinstance(outcome, ClientFault):
                raise outcome
            if isinstance(outcome, Reply) and not await _moves_on(outcome):
                return outcome
            first = first or outcome
        if isinstance(first, Reply):
            return first
        assert first is not None
        raise first

    async def _try(self, exchange: Exchange, rung: Rung) -> Reply | Fault:
        try:
            return await self._run(exchange, rung)
        except Fault as fault:
            return fault

    async def _run(self, exchange: Exchange, rung: Rung) -> Reply:
        route = self._routes[rung.route]
        watch = Watch(route.clocks, self._timer)
        stack = AsyncExitStack()
        stack.callback(watch.close)
        run = _fresh(exchange, rung, watch, stack)
        exchange.runs.append(run)
        exchange.stack.push_async_callback(stack.aclose)
        watch.start("total")
        async with watch.guard():
            reply = await route.chain(run)
        reply.origin = run
        return reply


def _fresh(exchange: Exchange, rung: Rung, watch: Watch, stack: AsyncExitStack) -> Exchange:
    """A rung's own copy of the request."""
    body = exchange.body.copy() if isinstance(exchange.body, Envelope) else exchange.body
    run = Exchange(
        inbound=exchange.inbound,
        route=rung.route,
        headers=exchange.headers.copy(),
        credentials=exchange.credentials,
        body=body,
        query=exchange.query,
        watch=watch,
        stack=stack,
        encoded=exchange.encoded,
    )
    if rung.model is not None:
        run.rename_model(rung.model)
    return run


async def _moves_on(reply: Reply) -> bool:
    """Whether another rung may do better. Reads an error's body, and lets go of the connection."""
    if reply.status < 400:
        return False
    pieces: list[bytes] = []
    size = 0

    def hold(piece: bytes) -> None:
        nonlocal size
        pieces.append(piece)
        size += len(piece)
        if size > _HELD_AT_MOST:
            reply.body.halt()

    try:
        ended = await reply.body.pump(hold)
    except Fault:
        return True
    reply.body = HeldBody(pieces, None if ended else reply.body)
    if reply.status in _MOVES_ON or reply.status >= 500:
        return True
    error = decode(b"".join(pieces)).get("error")
    return isinstance(error, dict) and error.get("code") in _MOVES_ON_CODES
