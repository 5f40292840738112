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
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.units import Duration
from middlewares.bodies import FixedBody, HeldBody, read_up_to
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import Fault, Outcome, Refusal, TimeoutFault, UpstreamFault
from middlewares.store import Fleet
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


def refusal(after: int) -> Refusal:
    """What a request is told that is not let through."""
    return Refusal("breaker_open", "This provider fails again and again.", retry_after=after)


class Circuit:
    """The state of one breaker; `options` are those of the table in force."""

    def __init__(self, options: Options, now: Callable[[], float]) -> None:
        self.options = options
        self.host: str | None = None
        """Of whom all this was learned."""
        self._now = now
        self._row = 0
        self._open_until: float | None = None
        self._openings = 0
        self._probe: Pass | None = None

    def forget(self) -> None:
        """It is another provider from now on; who was let through before tells nothing of it."""
        self._row = 0
        self._open_until = self._probe = None
        self._openings += 1

    @property
    def state(self) -> State:
        """What it would do with a request now, as the metrics show it."""
        if self._open_until is None:
            return "closed"
        return "open" if self._now() < self._open_until else "half_open"

    @property
    def openings(self) -> int:
        """How often it has opened."""
        return self._openings

    @property
    def is_open(self) -> bool:
        """Whether it is open, or waits for the end of its probe."""
        return self._open_until is not None

    @property
    def probing(self) -> bool:
        """Whether the probe is under way."""
        return self._probe is not None

    @property
    def row(self) -> int:
        """Failures in a row so far."""
        return self._row

    @property
    def left(self) -> float:
        """Seconds for which it lets nobody through any more; 0 unless it is open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._now())

    def enter(self) -> Pass:
        """Let a request through. Raises Refusal `breaker_open`."""
        entered = Pass(self, self._openings)
        if self._open_until is None:
            return entered
        left = self._open_until - self._now()
        if left > 0 or self._probe is not None:
            after = max(_PROBE_RETRY_S, math.ceil(left))
            raise refusal(after)
        self._probe = entered
        return entered

    def leave(self, entered: Pass) -> None:
        """Its request is over, whatever became of it: another may be the probe."""
        if self._probe is entered:
            self._probe = None

    def answered(self, entered: Pass) -> None:
        """The probe's answer has begun: that is enough, but one more failure is too many."""
        if self._probe is entered:
            self.heal()

    def heal(self) -> None:
        """The provider answers, here or to another process: closed, but one more failure is too many."""
        self._open_until = self._probe = None
        self._row = self.options.failures - 1

    def is_probe(self, entered: Pass) -> bool:
        """Whether that request is the probe."""
        return self._probe is entered

    def succeeded(self, entered: Pass) -> None:
        """An answer came to its end."""
        if entered.openings == self._openings:
            self._row = 0

    def failed(self, entered: Pass) -> None:
        """One more failure; what was asked before it opened tells nothing of the provider since then."""
        if entered.openings != self._openings:
            return
        self._row += 1
        if self._row >= self.options.failures or self._probe is entered:
            self.open(self.options.cooldown)

    def open(self, seconds: float) -> None:
        """Let nobody through for so long."""
        until = self._now() + seconds
        self._open_until = max(until, self._open_until or until)
        self._openings += 1
        self._row = 0
        self._probe = None

    def follow(self, seconds: float) -> None:
        """Another process has found it failing: nobody gets through for so long, and then a probe."""
        self._open_until = self._now() + seconds
        self._openings += 1
        self._row = 0
        self._probe = None


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One request that was let through, after so many openings."""

    circuit: Circuit
    openings: int

    def leave(self) -> None:
        """It is over."""
        self.circuit.leave(self)

    def answered(self) -> None:
        """Its answer has begun."""
        self.circuit.answered(self)

    def succeeded(self) -> None:
        """Its answer came to its end."""
        self.circuit.succeeded(self)

    def failed(self) -> None:
        """It failed."""
        self.circuit.failed(self)


class Breaker:
    """One route's."""

    def __init__(self, options: Options, deps: Deps, *, now: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._host = deps.host
        self._longest_wait = deps.retry_after_max
        self._route, self._fleet = deps.route, deps.fleet
        self.circuit = deps.states.keep(Circuit, deps.route, lambda: Circuit(options, now))

    def adopt(self) -> None:
        """This table is in force: what was learned stays, unless it was learned of another provider."""
        self.circuit.options = self._options
        if self.circuit.host != self._host:
            self.circuit.forget()
            self.circuit.host = self._host

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raises Refusal `breaker_open` without asking anybody."""
        entered = self.circuit.enter()
        exchange.stack.callback(entered.leave)
        if self._fleet is not None and self.circuit.is_probe(entered):
            await self._ask_the_others(entered, self._fleet)
        try:
            reply = await call_next(exchange)
        except (UpstreamFault, TimeoutFault):
            entered.failed()
            raise
        except asyncio.CancelledError:
            # The clock `total` looks like a client that leaves, from in here.
            if exchange.watch.fired:
                entered.failed()
            raise
        if reply.blames_request:
            pass  # as a 4xx: a provider that judges is well
        elif reply.status >= 500:
            entered.failed()
        elif reply.status == 429:
            await self._judge_limit(reply, entered)
        elif reply.status < 400:
            entered.answered()
            reply.taps.append(_End(entered, exchange))
        return reply

    async def _ask_the_others(self, entered: Pass, fleet: Fleet) -> None:
        """One probe for all processes. Raises Refusal `breaker_open`."""
        if not await fleet.may_probe(self._route):
            entered.leave()
            raise refusal(_PROBE_RETRY_S)

    async def _judge_limit(self, reply: Reply, entered: Pass) -> None:
        """Open it for a quota; a burst is for a retry to wait out."""
        wait = asked_to_wait(reply.headers)
        if wait is not None and wait > self._longest_wait:
            self.circuit.open(wait)
            return
        try:
            pieces, ended = await read_up_to(_READ_AT_MOST, reply.body)
        except Fault:
            entered.failed()
            raise
        said = b"".join(pieces)
        reply.body = FixedBody(said) if ended else HeldBody(pieces, reply.body)
        if any(words in said.lower() for words in _QUOTA_WORDS):
            self.circuit.open(wait if wait is not None else _QUOTA_S)


class _End:
    """Learns how an answer ended."""

    def __init__(self, entered: Pass, exchange: Exchange) -> None:
        self._entered = entered
        self._exchange = exchange

    def feed(self, chunk: bytes) -> None:
        """Nothing of it matters but its end."""

    def finish(self, outcome: Outcome) -> None:
        """Count it, unless it was the client who was slow."""
        if outcome == "ok":
            self._entered.succeeded()
        elif outcome in ("cut", "upstream_error") or (
            outcome == "timeout" and not self._exchange.client_stalled
        ):
            self._entered.failed()
