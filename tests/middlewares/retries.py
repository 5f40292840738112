"""A retry that hurries, and the rest of a chain that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from middlewares.exchange import Exchange, Reply
from middlewares.faults import Fault, UpstreamFault
from middlewares.retry import Retry
from middlewares.retry_options import Backoff, Options
from tests.middlewares.fakes import deps_of, reply_of

QUICK = Backoff(initial=0.001, max=0.002)
CONNECT = UpstreamFault("upstream_connect", "no connection")
RESET = UpstreamFault("upstream_reset", "reset")
CUT = UpstreamFault("upstream_cut", "cut")

Step = Reply | Fault


class Rest:
    """The rest of the chain: one outcome a call; keeps what each was given, and whether it was let go."""

    def __init__(self, *steps: Step) -> None:
        self._steps = list(steps)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.let_go: list[bool] = []
        self.held_at_start: list[int] = []

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def __call__(self, exchange: Exchange) -> Reply:
        number = self.calls
        self.held_at_start.append(self.let_go.count(False))
        self.let_go.append(False)
        exchange.stack.callback(lambda: self.let_go.__setitem__(number, True))
        assert exchange.fields is not None
        self.headers.append(dict(exchange.headers))
        self.bodies.append(exchange.fields.encode())
        exchange.fields.set("model", "changed")
        exchange.headers["X-Changed"] = "yes"
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if isinstance(step, Fault):
            step.spent = False  # faults are made once for all of these tests
            raise step
        return step


def answer(status: int, *body: bytes | asyncio.Event | BaseException, **headers: str) -> Reply:
    return reply_of(*(body or (b"{}",)), status=status, kind="application/json", headers=headers)


def made(chance: Callable[[], float] = lambda: 1.0, **options: Any) -> Retry:
    return Retry(Options(**{"backoff": QUICK, **options}), deps_of(), chance=chance)
