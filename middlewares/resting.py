"""Keys that a provider wants left alone for a while, by a digest: never by the key itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Resting:
    """Of one process, and of the others where a store is shared. `digest` is of the key, in hexadecimal."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._news: set[str] = set()

    def rest(self, digest: str, seconds: float) -> None:
        """Leave the key alone for so long; if it rests for longer already, that holds."""
        self._until[digest] = max(self._now() + seconds, self._until.get(digest, 0.0))
        self._news.add(digest)

    def wake(self, digest: str) -> None:
        """It was taken all the same: here it may be used again."""
        self._until.pop(digest, None)

    def left(self, digest: str) -> float:
        """For how many seconds the key rests; 0 if it may be used."""
        return max(0.0, self._until.get(digest, 0.0) - self._now())

    def news(self) -> dict[str, float]:
        """What was said here since this was asked last, in seconds to go."""
        news = {digest: left for digest in self._news if (left := self.left(digest))}
        self._news.clear()
        return news

    def again(self) -> None:
        """Whoever was told has forgotten it: all of it is news."""
        self._news.update(self._until)

    def hear(self, told: Mapping[str, float]) -> None:
        """What others said; and forget what is over."""
        now = self._now()
        for digest, seconds in told.items():
            self._until[digest] = max(now + seconds, self._until.get(digest, 0.0))
        for digest in [digest for digest, until in self._until.items() if until <= now]:
            del self._until[digest]
