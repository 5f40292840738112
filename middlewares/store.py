"""Where limits are counted: what is asked of a store, and the one in this process's memory.

All limits of one demand are decided together: nothing is taken unless all of them admit it. What is granted
is ended exactly once, however the exchange ends; so slots always come back. Buckets that are full again are
forgotten, so that memory holds those in use and no others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from config.units import Rate
from middlewares.buckets import Bucket, wait_for

Kind = Literal["requests", "tokens", "concurrent"]

SLOT_RETRY_S = 1.0
"""Nobody knows when an answer will be over; what waits in a client costs nothing here."""
_MOST_BUCKETS = 200_000
"""Beyond it the oldest are forgotten, full or not: strangers must not fill the memory."""
_LOOKED_AT = 2
"""Old buckets that each decision looks at: more than it adds, so that they cannot pile up."""


class Limits(Struct, frozen=True):
    """Those that hold together for one name; None where there is none."""

    requests: Rate | None = None
    tokens: Rate | None = None
    concurrent: int | None = None


class Charge(NamedTuple):
    """What is to be taken of one bucket."""

    kind: Kind
    rate: Rate
    cost: float


class Demand(NamedTuple):
    """One exchange that wants in. `name` is whom the limits are for; `tokens` what it may cost.

    No more tokens are asked for than the bucket holds: they would never be there.
    """

    name: str
    limits: Limits
    tokens: int = 0

    def charges(self) -> Iterator[Charge]:
        """The buckets, and what is to be taken of each."""
        if (rate := self.limits.requests) is not None:
            yield Charge("requests", rate, 1)
        if (rate := self.limits.tokens) is not None:
            yield Charge("tokens", rate, min(self.tokens, rate.count))

    @property
    def held(self) -> int:
        """How many tokens are held until it is known what it cost."""
        return 0 if self.limits.tokens is None else min(self.tokens, self.limits.tokens.count)


class Refused(NamedTuple):
    """Not now, and not before `wait` seconds have gone by. `kind` is None if nobody could count."""

    kind: Kind | None
    wait: float


class Grant(Protocol):
    """A demand that was granted. Its slot is held until `end`."""

    def end(self, tokens: int | None) -> None:
        """It is over; to be called once. `tokens` are what it cost; None: what was held stays taken."""


class Store(Protocol):
    """Where demands are decided."""

    async def take(self, demand: Demand, *, refuses: bool = False) -> Grant | Refused:
        """Decide. `refuses`: where it cannot be counted for everybody, refuse instead of counting here."""
        ...


class Fleet(Store, Protocol):
    """A store that this process shares with others, and what they tell each other through it."""

    async def may_probe(self, route: str) -> bool:
        """Whether this process is the one that may try a provider whose breaker was opened."""
        ...


class MemoryStore:
    """Counts for this process, which has no clock but a monotonic one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._slots: dict[str, int] = {}

    @property
    def buckets(self) -> int:
        """How many are remembered."""
        return len(self._buckets)

    def in_use(self, name: str) -> int:
        """Slots that are held for a name."""
        return self._slots.get(name, 0)

    async def take(self, demand: Demand, *, refuses: bool = False) -> Grant | Refused:  # noqa: ARG002  # it always counts
        """Decide at once."""
        return self.decide(demand)

    def decide(self, demand: Demand) -> MemoryGrant | Refused:
        """The same, without a loop."""
        now, limits = self._now(), demand.limits
        taken: list[tuple[str, Charge, float]] = []
        refused: Refused | None = None
        for charge in demand.charges():
            key = bucket_name(demand.name, charge.kind, charge.rate)
            bucket = self._buckets.get(key)
            level = 0.0 if bucket is None else bucket.level(charge.rate, now)
            wait = wait_for(level, charge.rate, charge.cost)
            if wait and (refused is None or wait > refused.wait):
                refused = Refused(charge.kind, wait)
            taken.append((key, charge, level + charge.cost))
        if (
            refused is None
            and limits.concurrent is not None
            and self.in_use(demand.name) >= limits.concurrent
        ):
            refused = Refused("concurrent", SLOT_RETRY_S)
        if refused is not None:
            return refused
        for key, charge, used in taken:
            self._fill(key, used, charge.rate, now)
        if limits.concurrent is not None:
            self.hold(demand.name)
        return MemoryGrant(self, demand)

    def hold(self, name: str) -> None:
        """One more slot is in use, whoever granted it."""
        self._slots[name] = self._slots.get(name, 0) + 1

    def let_go(self, name: str) -> None:
        """One fewer."""
        left = self._slots[name] - 1
        if left:
            self._slots[name] = left
        else:
            del self._slots[name]

    def correct(self, name: str, rate: Rate, tokens: int) -> None:
        """So many tokens more were used than were held, or fewer."""
        key, now = bucket_name(name, "tokens", rate), self._now()
        bucket = self._buckets.get(key)
        level = 0.0 if bucket is None else bucket.level(rate, now)
        self._fill(key, level + tokens, rate, now)

    def _fill(self, key: str, used: float, rate: Rate, now: float) -> None:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket()
            self._forget(now)
        bucket.fill(used, rate, now)

    def _forget(self, now: float) -> None:
        """Let go of old buckets that are full; the newest, which is not filled yet, is not looked at."""
        for _ in range(min(_LOOKED_AT, len(self._buckets) - 1)):
            key, bucket = next(iter(self._buckets.items()))
            if bucket.full_at <= now:
                del self._buckets[key]
            else:
                self._buckets.move_to_end(key)
        while len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)


@dataclass(slots=True)
class MemoryGrant:
    """Counted here."""

    store: MemoryStore
    demand: Demand

    def end(self, tokens: int | None) -> None:
        """Give the slot back, and charge what it cost."""
        limits = self.demand.limits
        if limits.concurrent is not None:
            self.store.let_go(self.demand.name)
        if limits.tokens is not None and tokens is not None and tokens != self.demand.held:
            self.store.correct(self.demand.name, limits.tokens, tokens - self.demand.held)


def bucket_name(name: str, kind: Kind, rate: Rate) -> str:
    """Of the bucket: another count keeps it, another period begins a new one."""
    return f"{name}:{kind}:{rate.seconds:g}"
