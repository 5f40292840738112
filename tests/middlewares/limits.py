"""Limits for tests: demands, a clock by hand, and what buckets are in exact numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from config.units import Rate
from middlewares.store import Demand, Limits


class Clock:
    """Seconds, as the test says; whole tenths, which every clock can tell apart."""

    def __init__(self) -> None:
        self.tenths = 17_000_000_000

    def __call__(self) -> float:
        return self.tenths / 10


def demand(
    name: str = "ci",
    *,
    requests: Rate | None = None,
    tokens: Rate | None = None,
    concurrent: int | None = None,
    cost: int = 0,
) -> Demand:
    return Demand(name, Limits(requests, tokens, concurrent), cost)


@dataclass
class Model:
    """One name's buckets and slots, in fractions: nothing is ever rounded."""

    used: dict[tuple[str, float], tuple[Fraction, Fraction, int]] = field(default_factory=dict)
    slots: int = 0

    def level(self, kind: str, rate: Rate, now: Fraction) -> Fraction:
        used, at, of = self.used.get((kind, rate.seconds), (Fraction(0), now, rate.count))
        passed = (now - at) / Fraction(rate.seconds)
        levels = [min(used, Fraction(rate.count)) - passed * rate.count, used - passed * of]
        level = min(levels) if of > rate.count else used - passed * rate.count
        return max(Fraction(0), level)

    def fill(self, kind: str, rate: Rate, now: Fraction, used: Fraction) -> None:
        self.used[kind, rate.seconds] = (max(Fraction(0), used), now, rate.count)

    def take(self, wanted: Demand, now: Fraction) -> tuple[str, Fraction] | None:
        """Which limit refuses, and for how long; None: it is granted."""
        waits = [
            (
                kind,
                (self.level(kind, rate, now) + Fraction(cost) - rate.count)
                * Fraction(rate.seconds)
                / rate.count,
            )
            for kind, rate, cost in wanted.charges()
        ]
        over = [(kind, wait) for kind, wait in waits if wait > 0]
        if over:
            return max(over, key=lambda one: one[1])
        limit = wanted.limits.concurrent
        if limit is not None and self.slots >= limit:
            return "concurrent", Fraction(1)
        for kind, rate, cost in wanted.charges():
            self.fill(kind, rate, now, self.level(kind, rate, now) + Fraction(cost))
        self.slots += limit is not None
        return None

    def end(self, wanted: Demand, tokens: int | None, now: Fraction) -> None:
        self.slots -= wanted.limits.concurrent is not None
        rate = wanted.limits.tokens
        if rate is not None and tokens is not None:
            self.fill("tokens", rate, now, self.level("tokens", rate, now) + tokens - wanted.held)
