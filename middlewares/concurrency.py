"""`concurrency`: so many exchanges at one time on a route, each held to its last byte; others queue.

Slots are given in the order of asking. One that was given to somebody who left at that very moment
goes on to the next, so that none is ever lost.

In a fleet a slot of this process is not enough, and one of all processes together is taken besides. Who
waits for that asks again and again, one at a time in each process: whichever asks first after one came free
has it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Annotated

from msgspec import Meta, Struct

from config.units import Duration
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import Refusal
from middlewares.store import Demand, Fleet, Grant, Limits, Refused

_ASKED_EVERY_S = (0.02, 0.06)
"""How long a wait of somebody who has to ask the fleet again; uneven, so that processes take turns."""
_RETRY_AFTER_S = 1
"""Nobody knows when an answer will be over; what waits in a client costs nothing here."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`queue` is how many may wait, `wait` for how long (seconds)."""

    limit: Annotated[int, Meta(ge=1)]
    queue: Annotated[int, Meta(ge=0)] = 0
    wait: Duration = 30.0


class Slots:
    """`limit` of them, of which `in_use` are held; more than `limit` may be, after `resize`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.turn = asyncio.Lock()
        """Of those who have a slot here and wait for one of the fleet."""
        self.lining_up = 0

    @property
    def free(self) -> int:
        """How many can be had at once."""
        return max(0, self.limit - self.in_use)

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return len(self._waiting) + self.lining_up

    async def take(self, wait: float) -> bool:
        """Take one; False if none came free within `wait` seconds."""
        if self.free:
            self.in_use += 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(wait):
                await turn
        except TimeoutError:
            self._withdraw(turn)
            return False
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise
        return True

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled():
            # It was our turn, and in the same moment we left or the wait was over.
            self.give_back()

    def give_back(self) -> None:
        """Let the next one have it."""
        self.in_use -= 1
        self._serve()

    def resize(self, limit: int) -> None:
        """There are more or fewer from now on; those that are held stay held."""
        self.limit = limit
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.free:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)


class Concurrency:
    """The slots of one route."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._options = options
        self._route, self._fleet = deps.route, deps.fleet
        self.slots = deps.states.keep(Slots, deps.route, lambda: Slots(options.limit))

    @property
    def shared(self) -> bool:
        """Whether the limit is that of a fleet."""
        return self._fleet is not None

    def adopt(self) -> None:
        """This table is in force: exchanges in flight keep their slots."""
        self.slots.resize(self._options.limit)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raises Refusal `queue_full`, when there is no place to wait or the wait is over."""
        limits, slots = self._options, self.slots
        if not slots.free and slots.queued >= limits.queue:
            raise self._refusal(f"{limits.limit} exchanges are in flight and {slots.queued} wait")
        late = asyncio.get_running_loop().time() + limits.wait
        if not await slots.take(limits.wait):
            raise self._too_late()
        exchange.stack.callback(slots.give_back)
        if self._fleet is not None:
            granted = await self._take_of_fleet(self._fleet, late)
            exchange.stack.callback(granted.end, None)
        return await call_next(exchange)

    async def _take_of_fleet(self, fleet: Fleet, late: float) -> Grant:
        """A slot of all processes together. Raises Refusal `queue_full`."""
        limits, slots = self._options, self.slots
        demand = Demand(f"slots|{self._route}", Limits(concurrent=limits.limit))
        if not slots.lining_up:
            granted = await fleet.take(demand)
            if not isinstance(granted, Refused):
                return granted
        if slots.queued >= limits.queue:
            raise self._refusal(f"{limits.limit} exchanges are in flight and {slots.queued} wait")
        slots.lining_up += 1
        try:
            async with asyncio.timeout_at(late), slots.turn:
                while True:
                    granted = await fleet.take(demand)
                    if not isinstance(granted, Refused):
                        return granted
                    # Whoever gives one back may be on another machine: there is nobody here to tell us.
                    await asyncio.sleep(random.uniform(*_ASKED_EVERY_S))  # noqa: S311  # no secret
        except TimeoutError:
            raise self._too_late() from None
        finally:
            slots.lining_up -= 1

    def _too_late(self) -> Refusal:
        limits = self._options
        return self._refusal(f"none of {limits.limit} exchanges ended within {limits.wait:g} s")

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(
            "queue_full", f"The route {self._route!r} is busy: {reason}.", retry_after=_RETRY_AFTER_S
        )
