"""A service manager's end of sd_notify: a datagram socket, and what was said to it, in order."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

_LONGEST = 64 * 1024


class Manager:
    """Listens at `place`: a path, or an abstract name that begins with `@`, as in $NOTIFY_SOCKET."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + self.place[1:] if self.place.startswith("@") else self.place)

    @classmethod
    def abstract(cls) -> Self:
        """At a name that nobody else has."""
        return cls(f"@tidegate-test-{os.getpid()}-{os.urandom(6).hex()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Be gone: nobody listens at `place` any more."""
        self._socket.close()
        if not self.place.startswith("@"):
            Path(self.place).unlink(missing_ok=True)

    def heard(self) -> list[str]:
        """What was said since it was asked last."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(_LONGEST).decode())
            except BlockingIOError:
                return messages

    async def next(self, within: float = 10.0) -> str:
        """The next message. Raises TimeoutError."""
        async with asyncio.timeout(within):
            data = await asyncio.get_running_loop().sock_recv(self._socket, _LONGEST)
        return data.decode()

    def fill_up(self) -> int:
        """Have others say so much that nothing more is taken; how many messages that were."""
        said = 0
        with ExitStack() as stack:
            while True:
                other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                other.setblocking(False)
                mine = self._said_by(other)
                if not mine:
                    return said
                said += mine

    def _said_by(self, other: socket.socket) -> int:
        said = 0
        address = self._socket.getsockname()
        while True:
            try:
                other.sendto(b"STATUS=another", address)
            except BlockingIOError:
                return said
            said += 1
