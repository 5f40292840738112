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
_PAUSE_S = 0.5
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
        self._pause: asyncio.TimerHandle | None = None
        self._open = False

    def start(self) -> None:
        """Accept from now on."""
        self._open = True
        self._loop.add_reader(self.listener.sock.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more; the socket stays open."""
        self._open = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
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
        self._pause = self._loop.call_later(_PAUSE_S, self.start)
