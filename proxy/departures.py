"""Who leaves while nothing is read of them.

A socket that is not read tells nobody that its peer has gone: the event loop does not look at it. The
kernel can be asked about all such sockets at once, through an epoll of our own that the loop watches as
one file; it wakes only when somebody leaves.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress


class Watched:
    """One socket that is looked at. A descriptor may be another connection's by the time it is let go."""

    __slots__ = ("descriptor", "left")

    def __init__(self, descriptor: int, left: Callable[[], None]) -> None:
        self.descriptor = descriptor
        self.left = left


class Departures:
    """Of one process; to be made and closed in a running loop. Without epoll, nobody is noticed."""

    def __init__(self) -> None:
        self._watched: dict[int, Watched] = {}
        self._poll = select.epoll() if hasattr(select, "epoll") else None
        self._loop = asyncio.get_running_loop()
        if self._poll is not None:
            self._loop.add_reader(self._poll.fileno(), self._look)

    def watch(self, sock: socket.socket, left: Callable[[], None], *, half: bool) -> Watched | None:
        """Call `left` once when the peer has reset the connection, or with `half` when it sent its FIN.

        Where bytes of the peer find no room here, its FIN waits behind them and cannot be known.
        """
        if self._poll is None:
            return None
        watched = Watched(sock.fileno(), left)
        # Errors and a full close are always told. A descriptor that was closed is no longer registered.
        self._poll.register(watched.descriptor, select.EPOLLRDHUP if half else 0)
        self._watched[watched.descriptor] = watched
        return watched

    def forget(self, watched: Watched) -> None:
        """Look at it no more."""
        if self._poll is None or self._watched.get(watched.descriptor) is not watched:
            return
        del self._watched[watched.descriptor]
        with suppress(OSError):  # it is closed already, and the kernel has forgotten it
            self._poll.unregister(watched.descriptor)

    def close(self) -> None:
        """Nobody is noticed any more."""
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
            self._watched.clear()

    def _look(self) -> None:
        assert self._poll is not None
        for descriptor, _ in self._poll.poll(0):
            watched = self._watched[descriptor]
            self.forget(watched)
            watched.left()
