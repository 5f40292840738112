"""`breaker`: a provider that fails again and again is left alone for a while.

Closed, it counts failures in a row. Open, it refuses at once, so that a ladder moves on without asking.
After the cooldown one request is let through, the probe: if it is answered the breaker closes, on
parole until that answer came to its end, and if it fails the breaker opens anew.

What is no fault of the provider counts neither way: a 4xx, our own refusals, a client that left or did
not take its bytes. A 429 that is a quota and not a burst opens it for as long as the quota lasts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.units import Duration
from middlewares.bodies import FixedBody, HeldBody, read_up_to
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import Fault, Outcome, Refusal, TimeoutFault, UpstreamFault
from middlewares.waits import asked_to_wait

State = Literal["closed", "open", "half_open"]

_QUOTA_S = 3600.0
"""How long a quota is taken to last when nothing says so."""
_READ_AT_MOST = 64 * 1024
_QUOTA_WORDS = (
    b"session usage limit",
    b"weekly usage limit",
    b"insufficient_quota",
    b"exceeded your current quota",
)
"""Of Ollama Cloud, and of OpenAI: waiting a second will not help."""
_PROBE_RETRY_S = 1


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`failures` in a row open it; `cooldown` in seconds."""

    failures: Annotated[int, Meta(ge=1)] = 5
    cooldown: Duration = 30.0


class Circuit:
    """The state of one breaker."""

    def __init__(self, options: Options, now: Callable[[], float]) -> None:
        self._options = options
        self._now = now
        self._row = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """What it would do with a request now, as the metrics show it."""
        if self._open_until is None:
            return "closed"
        return "open" if self._now() < self._open_until and not self._probing else "half_open"

    def enter(self) -> bool:
        """Let a request through; True if it is the probe. Raises Refusal `breaker_open`."""
        if self._open_until is None:
            return False
        left = self._open_until - self._now()
        if left > 0 or self._probing:
            after = max(_PROBE_RETRY_S, math.ceil(left))
            raise Refusal("breaker_open", "This provider fails again and again.", retry_after=after)
        self._probing = True
        return True

    def leave(self) -> None:
        """The probe is over, whatever became of it."""
        self._probing = False

    def answered(self, *, probe: bool) -> None:
        """An answer has begun: after a cooldown that is enough, but one more failure is too many.

        One that was asked for before it opened says nothing of what opened it.
        """
        if self._open_until is not None and (probe or self._now() >= self._open_until):
            self._open_until = None
            self._row = self._options.failures - 1

    def succeeded(self) -> None:
        """An answer came to its end."""
        self._row = 0

    def failed(self) -> None:
        """One more failure."""
        self._row += 1
        if self._row >= self._options.failures or self._probing:
            self.open(self._options.cooldown)

    def open(self, seconds: float) -> None:
        """Let nobody through for so long."""
        until = self._now() + seconds
        self._open_until = max(until, self._open_until or until)
        self._row = 0
        self._probing = False


class Breaker:
    """One route's."""

    def __init__(self, options: Options, deps: Deps, *, now: Callable[[], float] = time.monotonic) -> None:
        self._longest_wait = deps.retry_after_max
        self.circuit = Circuit(options, now)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raises Refusal `breaker_open` without asking anybody."""
        circuit = self.circuit
        probe = circuit.enter()
        if probe:
            exchange.stack.callback(circuit.leave)
        try:
            reply = await call_next(exchange)
        except (UpstreamFault, TimeoutFault):
            circuit.failed()
            raise
        except asyncio.CancelledError:
            # The clock `total` looks like a client that leaves, from in here.
            if exchange.watch.fired:
                circuit.failed()
            raise
        if reply.refuses_content:
            pass  # as a 4xx: a provider that judges is well
        elif reply.status >= 500:
            circuit.failed()
        elif reply.status == 429:
            await self._judge_limit(reply)
        elif reply.status < 400:
            circuit.answered(probe=probe)
            reply.taps.append(_End(circuit, exchange))
        return reply

    async def _judge_limit(self, reply: Reply) -> None:
        """Open it for a quota; a burst is for a retry to wait out."""
        wait = asked_to_wait(reply.headers)
        if wait is not None and wait > self._longest_wait:
            self.circuit.open(wait)
            return
        try:
            pieces, ended = await read_up_to(_READ_AT_MOST, reply.body)
        except Fault:
            self.circuit.failed()
            raise
        said = b"".join(pieces)
        reply.body = FixedBody(said) if ended else HeldBody(pieces, reply.body)
        if any(words in said.lower() for words in _QUOTA_WORDS):
            self.circuit.open(wait if wait is not None else _QUOTA_S)


class _End:
    """Learns how an answer ended."""

    def __init__(self, circuit: Circuit, exchange: Exchange) -> None:
        self._circuit = circuit
        self._exchange = exchange

    def feed(self, chunk: bytes) -> None:
        """Nothing of it matters but its end."""

    def finish(self, outcome: Outcome) -> None:
        """Count it, unless it was the client who was slow."""
        if outcome == "ok":
            self._circuit.succeeded()
        elif outcome in ("cut", "upstream_error") or (
            outcome == "timeout" and not self._exchange.client_stalled
        ):
            self._circuit.failed()
