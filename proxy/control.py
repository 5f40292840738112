"""What a supervisor and its workers say to each other: orders and connections one way, news the other.

A pair of sockets that keep messages apart (SOCK_SEQPACKET, unix(7)), which can carry descriptors; it ends
when either process does, and that is how each learns of the other's death.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from config.schema import ListenerTls
from proxy.listeners import Role

_LARGEST = 64 * 1024
"""Bytes of one message; a report that is longer comes in several."""
_PART = 48 * 1024
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Load(Struct, tag=True, frozen=True):
    """Serve by the files that come with it, as a descriptor: at the start and after an edit.

    `number` counts the tables; `tls` is what TLS listeners go on with where a table has none.
    """

    number: int
    path: str
    listen: str | None
    admin: str | None
    tls: ListenerTls | None


class Accepted(Struct, tag=True, frozen=True):
    """A connection for you, as a descriptor."""

    role: Role
    tls: bool


class Drain(Struct, tag=True, frozen=True):
    """Refuse new requests; or, when another process has taken over, answer and close."""

    taken_over: bool


class Finish(Struct, tag=True, frozen=True):
    """Let exchanges in flight end, then end yourself."""


class Hurry(Struct, tag=True, frozen=True):
    """Cut what is left."""


class Ping(Struct, tag=True, frozen=True):
    """Say that your event loop turns."""


class Ask(Struct, tag=True, frozen=True):
    """Say how you are: a report, of which `Report` is a part."""

    number: int


Order = Load | Accepted | Drain | Finish | Hurry | Ping | Ask


class Ready(Struct, tag=True, frozen=True):
    """The table of that number is in force."""

    number: int


class Refused(Struct, tag=True, frozen=True):
    """The table cannot be put in force; the one before it, if there was one, stays."""

    reason: str


class Left(Struct, tag=True, frozen=True):
    """So many of your connections are gone."""

    connections: int


class Pong(Struct, tag=True, frozen=True):
    """It does."""


class Report(Struct, tag=True, frozen=True):
    """A part of the answer to `Ask`."""

    number: int
    part: bytes
    last: bool


News = Ready | Refused | Left | Pong | Report


class Parcel(NamedTuple):
    """A message on its way, with a descriptor or without."""

    data: bytes
    descriptor: int | None


class Channel:
    """One end. `close` it in the loop that it was made in."""

    def __init__(
        self,
        sock: socket.socket,
        heard: Callable[[bytes, int | None], None],
        lost: Callable[[], None],
        cleared: Callable[[], object] = lambda: None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._heard = heard
        self._lost = lost
        self._cleared = cleared
        """Called when nothing waits any more."""
        self._waiting: deque[Parcel] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def clear(self) -> bool:
        """Whether nothing waits because the other end does not take it."""
        return not self._waiting

    def send(self, message: Order | News, descriptor: int | None = None) -> None:
        """Send it as soon as there is room. The descriptor is the channel's from here on."""
        parcel = Parcel(msgspec.msgpack.encode(message), descriptor)
        if self._waiting or not self._sent(parcel):
            if not self._waiting:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            self._waiting.append(parcel)

    def _sent(self, parcel: Parcel) -> bool:
        rights = () if parcel.descriptor is None else [_rights(parcel.descriptor)]
        try:
            self._sock.sendmsg([parcel.data], rights)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass  # its end is told by the reader
        if parcel.descriptor is not None:
            os.close(parcel.descriptor)
        return True

    def _flush(self) -> None:
        while self._waiting and self._sent(self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self._sock.fileno())
            self._cleared()

    def _read(self) -> None:
        while self._sock.fileno() >= 0:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, _LARGEST, 1, _CLOSE_ON_EXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.close()
                self._lost()
                return
            self._heard(data, descriptors[0] if descriptors else None)

    def close(self) -> None:
        """Say and hear no more; the other end learns of it."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        if self._waiting:
            self._loop.remove_writer(self._sock.fileno())
            for parcel in self._waiting:
                if parcel.descriptor is not None:
                    os.close(parcel.descriptor)
            self._waiting.clear()
        self._sock.close()


def _rights(descriptor: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes()


def in_parts(number: int, data: bytes) -> Iterable[Report]:
    """A report, cut so that each part is one message."""
    for start in range(0, max(len(data), 1), _PART):
        yield Report(number, data[start : start + _PART], last=start + _PART >= len(data))
