"""Connections are accepted here, one listening socket at a time, and handed to whoever serves them.

Accepting is our own, not the event loop's server's: what is accepted may be for another process, and meets
the certificate that is in force at that moment.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from proxy.listeners import Listener
from proxy.logs import Journal

_AT_ONCE = 64
"""Accepted in one turn of the event loop; those that are served shall have theirs, too."""
_REST_S = 0.5
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_GONE = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM})
"""The client was gone before it was accepted, or a firewall had a word: Linux tells it here."""

Take = Callable[[Listener, socket.socket], None]


class Acceptor:
    """Hands each connection of one listener to `take`, which owns it from then on."""

    def __init__(self, listener: Listener, take: Take, journal: Journal) -> None:
        self.listener = listener
        self._take = take
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._rests: asyncio.TimerHandle | None = None
        self._open = self._paused = False

    def start(self) -> None:
        """Accept from now on."""
        self._open, self._paused = True, False
        self._loop.add_reader(self.listener.sock.fileno(), self._accept)

    def pause(self) -> None:
        """Accept no more for now: nobody could serve it, and the kernel's queue is the place to wait."""
        if self._open:
            self.stop()
            self._paused = True

    def go_on(self) -> None:
        """Go on after `pause`."""
        if self._paused:
            self.start()

    def stop(self) -> None:
        """Accept no more; the socket stays open."""
        self._open = self._paused = False
        if self._rests is not None:
            self._rests.cancel()
            self._rests = None
        self._loop.remove_reader(self.listener.sock.fileno())

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                sock, _ = self.listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if error.errno not in _NO_ROOM:
                    raise
                self._rest(error)
                return
            sock.setblocking(False)
            self._take(self.listener, sock)

    def _rest(self, error: OSError) -> None:
        """Nothing can be opened just now; to try again at once would only turn in a circle."""
        self._loop.remove_reader(self.listener.sock.fileno())
        self._journal.error("cannot_accept", address=self.listener.name, reason=error.strerror)
        self._rests = self._loop.call_later(_REST_S, self.start)
