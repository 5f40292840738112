"""Comments that keep a client, and the load balancers on the way to it, waiting for a stream.

A comment is one line, `: ping`, with no empty line after it: some clients take an empty line after
anything for an event without data, and fail on it.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (comments).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from middlewares.clocks import Timer

PING = b": ping\n"


class Patience:
    """Calls `ping` whenever nothing was sent for so many seconds; `since` is when something was."""

    __slots__ = ("_every", "_handle", "_ping", "_timer", "since")

    def __init__(
        self, every: float, timer: Timer, ping: Callable[[], None], *, since: float | None = None
    ) -> None:
        self._every = every
        self._timer = timer
        self._ping = ping
        self.since = timer.time() if since is None else since
        self._handle: asyncio.TimerHandle | None = timer.call_at(self.since + every, self._look)

    def moved(self) -> None:
        """Something was sent."""
        self.since = self._timer.time()

    def stop(self) -> None:
        """No more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        if self._timer.time() - self.since >= self._every:
            self.since = self._timer.time()
            self._ping()
        if self._handle is not None:
            self._handle = self._timer.call_at(self.since + self._every, self._look)
