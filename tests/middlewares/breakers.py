"""A breaker with a time of its own, and requests that go through it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from middlewares.breaker import Breaker, Options
from middlewares.exchange import Exchange, Reply
from middlewares.faults import ClientGone, Fault, Outcome, UpstreamFault
from tests.middlewares.fakes import deps_of, exchange_of, reply_of

FAILURES = 3
COOLDOWN = 30.0
RESET = UpstreamFault("upstream_reset", "reset")

Step = int | BaseException | Reply


class Scene:
    """A breaker, its time, and what stands behind it."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.calls = 0
        options = {"failures": FAILURES, "cooldown": COOLDOWN, **options}
        self.breaker = Breaker(Options(**options), deps_of(), now=lambda: self.now)

    @property
    def state(self) -> str:
        return self.breaker.circuit.state

    async def begin(self, step: Step, exchange: Exchange | None = None) -> tuple[Exchange, Reply]:
        """One request, as far as its answer's head; it is in flight until `end`."""
        exchange = exchange or exchange_of()

        async def rest(_exchange: Exchange) -> Reply:
            self.calls += 1
            if isinstance(step, BaseException):
                raise step
            return step if isinstance(step, Reply) else reply_of(b"{}", status=step, kind="application/json")

        try:
            return exchange, await self.breaker(exchange, rest)
        except BaseException:
            await exchange.stack.aclose()
            raise

    async def end(self, exchange: Exchange, reply: Reply, outcome: Outcome = "ok") -> None:
        await exchange.stack.aclose()
        for tap in reply.taps:
            tap.finish(outcome)

    async def ask(self, step: Step, outcome: Outcome = "ok") -> str:
        """A whole request; what its client was told."""
        try:
            await self.end(*await self.begin(step), outcome)
        except Fault as fault:
            return fault.code
        except (asyncio.CancelledError, ClientGone):
            return "gone"
        return "answered"

    async def open(self) -> None:
        """Have it opened."""
        for _ in range(FAILURES):
            await self.ask(RESET)
        assert self.state == "open"

    async def half_open(self) -> None:
        """Have it opened, and the cooldown over."""
        await self.open()
        self.now += COOLDOWN
        assert self.state == "half_open"


def limited(body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Reply:
    return reply_of(body, status=429, kind="application/json", headers=headers)
