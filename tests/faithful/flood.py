"""Many connections at once to a unix socket, each with a few inputs, left in one way or another."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from tests.faithful.mutations import Mutator

AT_ONCE = 40
_MOST_MILD = 12
_PATIENCE_S = 0.1
"""How long a connection waits for an answer: many inputs are half a request, and get none."""
_STUCK_S = 20


@dataclass
class Tally:
    """What was sent and looked at, and the first status of each connection, 0 if there was none.

    Of inputs behind each other those count that were answered, and the one after.
    """

    inputs: int = 0
    connections: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


class _Line:
    """One connection: some odd requests, and when they were answered, something that may be none."""

    def __init__(self, path: str, mild: list[bytes], wild: list[bytes], leaves: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _STUCK_S, 0))
        self.socket.connect(path)  # waits for its turn, unlike one with a timeout of Python's
        self.got = b""
        self.until = time.monotonic() + _PATIENCE_S
        self._mild = len(mild)
        self._wild = wild
        self._leaves = leaves
        if mild:
            self._send([b"".join(mild)])
        else:
            self._send_wild()

    @property
    def looked_at(self) -> int:
        """Inputs that were answered, and the next; each answer has that header."""
        return min(self.got.count(b"\r\nx-tidegate-id: "), self._mild) + 1

    def take(self, data: bytes) -> bool:
        """Bytes of the answers; False when there is nothing left to do here."""
        self.got += data
        if self._wild and self.looked_at > self._mild:
            self._send_wild()
            return self._leaves != "at once"
        return bool(self._wild) or self._leaves == "closed"

    def _send_wild(self) -> None:
        self._send(self._wild)
        self._wild = []
        if self._leaves == "half":
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def _send(self, pieces: list[bytes]) -> None:
        # Refused before its end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                self.socket.sendall(piece)


class Flood:
    """So many inputs from a seed."""

    def __init__(self, path: str, seed: int) -> None:
        self.tally = Tally()
        self._path = path
        self._mutator = Mutator(seed)
        self._chance = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._lines: deque[_Line] = deque()

    def run(self, inputs: int) -> Tally:
        while self.tally.inputs < inputs:
            while len(self._lines) < AT_ONCE:
                self._open()
            self._read()
            now = time.monotonic()
            while self._lines and (self._lines[0].until < now or self._lines[0].socket.fileno() < 0):
                self._leave(self._lines.popleft())
        for line in self._lines:
            self._leave(line)
        self._selector.close()
        return self.tally

    def _open(self) -> None:
        chance, mutator = self._chance, self._mutator
        mild = [mutator.mild() for _ in range(chance.randrange(_MOST_MILD))]
        leaves = chance.choice(("answered",) * 10 + ("closed",) * 4 + ("half", "at once"))
        line = _Line(self._path, mild, mutator.pieces(mutator.wild()), leaves)
        self._lines.append(line)
        self._selector.register(line.socket, selectors.EVENT_READ, line)

    def _read(self) -> None:
        for key, _ in self._selector.select(0.005):
            line: _Line = key.data
            try:
                data = line.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data or not line.take(data):
                self._leave(line)

    def _leave(self, line: _Line) -> None:
        if line.socket.fileno() < 0:
            return
        self._selector.unregister(line.socket)
        line.socket.close()
        self.tally.connections += 1
        self.tally.inputs += line.looked_at
        self.tally.statuses[int(line.got[9:12]) if line.got else 0] += 1
