"""What is known of a route's several keys: whose turn it is, and which rest.

It outlives tables (`middlewares.states`). A key is known here by a digest of its value, so that one that was
replaced is a new one, and no key is kept. Where a fleet shares a Redis, a key rests for all of it.
"""

from __future__ import annotations

from hashlib import sha256

from config.secrets import Secret
from middlewares.resting import Resting


def digest_of(secret: Secret) -> str:
    """What a key is known by, in hexadecimal."""
    return sha256(secret.reveal().encode()).hexdigest()


class Keyring:
    """Of one route. `turn` counts."""

    def __init__(self, resting: Resting) -> None:
        self.turn = 0
        self._resting = resting

    def rest(self, digest: str, seconds: float) -> None:
        """Leave a key alone for so long."""
        self._resting.rest(digest, seconds)

    def wake(self, digest: str) -> None:
        """It was taken: there is no reason to leave it alone."""
        self._resting.wake(digest)

    def left(self, digest: str) -> float:
        """Seconds for which a key still rests; 0 for one that does not."""
        return self._resting.left(digest)
