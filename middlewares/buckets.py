"""Buckets that refill evenly: `60/min` holds 60, and one more every second until it is full again.

Pure arithmetic over times that the caller brings, in seconds of any clock. `middlewares.redis_scripts` does
the same in Lua, with the same operations in the same order. A clock that goes back refills nothing and takes
nothing. Of a limit that is lowered no more than the whole is taken as used; otherwise what was used stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from config.units import Rate

TOLERANCE = 1e-9
"""Of a bucket's size. Whoever comes back at the very moment that was named must not fail by a rounding."""


@dataclass(slots=True)
class Bucket:
    """`used` of it at the time `at`, when it held `of`."""

    used: float = 0.0
    at: float = 0.0
    of: int = 0
    full_at: float = 0.0
    """When nothing of it is used any more, and it is as good as a new one."""

    def level(self, rate: Rate, now: float) -> float:
        """How much of it is used now. What answers cost in the end may be more than it holds."""
        passed = max(0.0, now - self.at)
        if self.of <= rate.count:
            return max(0.0, self.used - passed * rate.count / rate.seconds)
        # It was lowered. One that would be full again by the old rate is, since it may be forgotten by then.
        before = self.used - passed * self.of / rate.seconds
        return max(0.0, min(before, min(self.used, rate.count) - passed * rate.count / rate.seconds))

    def fill(self, used: float, rate: Rate, now: float) -> None:
        """So much of it is used from now on."""
        self.used, self.at, self.of = max(0.0, used), now, rate.count
        self.full_at = now + self.used * rate.seconds / rate.count


def wait_for(level: float, rate: Rate, cost: float) -> float:
    """Seconds until `cost` more fits; 0 when it fits now. What is more than the whole never does."""
    lacking = level + cost - rate.count
    return 0.0 if lacking <= rate.count * TOLERANCE else lacking * rate.seconds / rate.count
