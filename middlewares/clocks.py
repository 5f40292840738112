"""The five clocks of an attempt, kept by one timer.

Each clock is a deadline in a small dict; the timer sleeps until the earliest of them and looks
again when it wakes, so that pushing `idle` on for each chunk costs one dict store. The clock that
ran out names itself in a `TimeoutFault`, raised at the innermost `guard()` of the waiting task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, Protocol

from msgspec import Struct

from middlewares.faults import TimeoutFault

Clock = Literal["connect", "first_byte", "first_token", "idle", "total"]

_TOLD = {
    "connect": "no connection to the provider after {}",
    "first_byte": "the provider sent nothing for {} after it had the whole request",
    "first_token": "the provider's stream brought no content for {}",
    "idle": "nothing moved for {}",
    "total": "the exchange took longer than {}",
}


class Timer(Protocol):
    """What an event loop offers of time; tests bring their own."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle: ...


class Clocks(Struct, frozen=True):
    """Limits in seconds; None means that the clock does not run."""

    connect: float | None = 10.0
    first_byte: float | None = None
    first_token: float | None = None
    idle: float | None = None
    total: float | None = None


class Watch:
    """Runs the clocks of one rung; not to be shared between tasks."""

    __slots__ = ("_aimed", "_due", "_fired", "_guards", "_handle", "_timer", "_wakes_at", "clocks", "moved")

    def __init__(self, clocks: Clocks, timer: Timer) -> None:
        self.clocks = clocks
        self.moved: Callable[[], bool] | None = None
        """Asked before `idle` fires: did the client take bytes since it was asked last?"""
        self._timer = timer
        self._due: dict[Clock, float] = {}
        self._fired: Clock | None = None
        self._aimed: asyncio.Timeout | None = None
        self._guards: list[asyncio.Timeout] = []
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0

    def start(self, clock: Clock) -> None:
        """(Re)start `clock` from now; without a limit it does nothing."""
        limit: float | None = getattr(self.clocks, clock)
        if limit is not None:
            due = self._due[clock] = self._timer.time() + limit
            if self._handle is None:
                self._wake_when_due()
            elif due < self._wakes_at:
                self._sleep_until(due)

    def left(self, clock: Clock) -> float | None:
        """Seconds until `clock` fires, None while it does not run."""
        due = self._due.get(clock)
        return None if due is None else due - self._timer.time()

    @property
    def fired(self) -> bool:
        """Whether a clock has just run out, and the cancellation that is seen now is its doing."""
        return self._fired is not None

    def stop(self, *clocks: Clock) -> None:
        """These have done their work."""
        for clock in clocks:
            self._due.pop(clock, None)

    def new_attempt(self) -> None:
        """All but `total` start anew for each attempt."""
        self.stop("first_byte", "first_token", "idle")
        self.start("connect")

    def close(self) -> None:
        """Nothing fires any more."""
        self._due.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Around every wait that a clock may end: raises its TimeoutFault.

        A cancellation from elsewhere stays what it is. A clock that ran out in the very turn in which
        the wait ended by itself is not lost: it fires at the next guard.
        """
        scope = asyncio.timeout(None)
        self._guards.append(scope)
        self._wake_when_due()
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._fault() from None
        finally:
            self._guards.remove(scope)
            if self._aimed is scope:
                self._fired = self._aimed = None
            self._wake_when_due()

    def _wake_when_due(self) -> None:
        if self._handle is None and self._due:
            self._sleep_until(min(self._due.values()))

    def _sleep_until(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_at = due
        self._handle = self._timer.call_at(due, self._wake)

    def _wake(self) -> None:
        self._handle = None
        if self._due and self._guards and self._fired is None:
            clock = min(self._due, key=self._due.__getitem__)
            if self._due[clock] > self._timer.time() or self._postponed(clock):
                self._wake_when_due()
            else:
                self._fired, self._aimed = clock, self._guards[-1]
                self._aimed.reschedule(0.0)

    def _postponed(self, clock: Clock) -> bool:
        """Nothing came from the upstream, but the client is still taking what came before."""
        if clock != "idle" or self.moved is None or not self.moved():
            return False
        self.start("idle")
        return True

    def _fault(self) -> TimeoutFault:
        clock = self._fired
        assert clock is not None
        self.close()
        limit: float = getattr(self.clocks, clock)
        return TimeoutFault(clock, f"{clock} timeout: " + _TOLD[clock].format(f"{limit:g} s") + ".")
