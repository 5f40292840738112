"""What is known of a route's several keys: whose turn it is, and which rest.

It outlives tables (`middlewares.states`). A key is known here by a digest of its value, so that one that was
replaced is a new one, and no key is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256

from config.secrets import Secret

_FORGOTTEN_AT = 64


def digest_of(secret: Secret) -> bytes:
    """What a key is known by."""
    return sha256(secret.reveal().encode()).digest()


class Keyring:
    """Of one route. `turn` counts; times are of a clock that nobody sets."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.turn = 0
        self._now = now
        self._until: dict[bytes, float] = {}

    def rest(self, digest: bytes, seconds: float) -> None:
        """Leave a key alone for so long."""
        if len(self._until) >= _FORGOTTEN_AT:
            # Keys that were replaced, most likely.
            self._until = {known: until for known, until in self._until.items() if until > self._now()}
        self._until[digest] = self._now() + seconds

    def wake(self, digest: bytes) -> None:
        """It was taken: there is no reason to leave it alone."""
        self._until.pop(digest, None)

    def left(self, digest: bytes) -> float:
        """Seconds for which a key still rests; 0 for one that does not."""
        until = self._until.get(digest)
        return 0.0 if until is None else max(0.0, until - self._now())
