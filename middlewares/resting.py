"""Keys that a provider wants left alone for a while, by a name that is no key: a digest, say.

Of one process, and of all that share a store: what is said here is told to the others, and theirs is heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Resting:
    """Times are of a clock that nobody sets."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._news: set[str] = set()

    def rest(self, name: str, seconds: float) -> None:
        """Leave it alone for so long from now on."""
        self._forget()
        self._until[name] = self._now() + seconds
        self._news.add(name)

    def wake(self, name: str) -> None:
        """It was taken: there is no reason to leave it alone."""
        if self._until.pop(name, None) is not None:
            self._news.add(name)

    def left(self, name: str) -> float:
        """For how many seconds it rests; 0 if it may be used."""
        return max(0.0, self._until.get(name, 0.0) - self._now())

    def news(self) -> dict[str, float]:
        """What was said here since this was asked last, in seconds to go; 0 is awake."""
        news = {name: self.left(name) for name in self._news}
        self._news.clear()
        return news

    def again(self) -> None:
        """Whoever was told has forgotten it: all of it is news."""
        self._news.update(self._until)

    def hear(self, told: Mapping[str, float]) -> None:
        """How things are for all, but for what is news here."""
        now = self._now()
        mine = {name: until for name, until in self._until.items() if name in self._news}
        self._until = {name: now + seconds for name, seconds in told.items() if name not in self._news} | mine

    def _forget(self) -> None:
        now = self._now()
        for name in [name for name, until in self._until.items() if until <= now]:
            del self._until[name]
