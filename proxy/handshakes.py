"""TLS handshakes that fail, told: the event loop drops them without a word.

Whose it was cannot be known here, only why; so that strangers who knock do not fill the log, it is told
once a second, with the number of those in between.
"""

from __future__ import annotations

import ssl
import time
from typing import Any

from proxy.logs import Journal

_EVERY_S = 1.0


def tell_of_failures(context: ssl.SSLContext, journal: Journal) -> None:
    """Have the handshakes of a listener's connections watched."""
    told_at, untold = -_EVERY_S, 0

    def tell(error: ssl.SSLError) -> None:
        nonlocal told_at, untold
        untold += 1
        now = time.monotonic()
        if now - told_at >= _EVERY_S:
            journal.warning("tls_handshake_failed", reason=error.reason or "unknown", failures=untold)
            told_at, untold = now, 0

    class Handshake(ssl.SSLObject):
        """As ssl makes them, but for the word on failure."""

        def do_handshake(self, *arguments: Any) -> None:
            try:
                super().do_handshake(*arguments)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise  # it goes on
            except ssl.SSLError as error:
                tell(error)
                raise

    context.sslobject_class = Handshake
