"""Gigabytes from one blocking socket to another; in threads, since neither side waits for a loop."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from itertools import chain
from typing import Any

PIECE = 1 << 20
_TIMEOUT_S = 60.0


def pieces(size: int) -> Iterator[memoryview]:
    """`size` bytes, no piece like another; each is good only until the next."""
    block = bytearray(os.urandom(PIECE))
    for number in range(-(-size // PIECE)):
        block[:8] = number.to_bytes(8, "big")
        yield memoryview(block)[: min(PIECE, size - number * PIECE)]


class Sink:
    """An upstream for one upload: reads its head, then hashes so many bytes of body, then answers.

    `go` set lets it read the body; `head` is there once `asked` is set.
    """

    def __init__(self, size: int) -> None:
        self.go = threading.Event()
        self.asked = threading.Event()
        self.head = b""
        self.digest = ""
        self._size = size
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_TIMEOUT_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_TIMEOUT_S)
        with connection, connection.makefile("rb", 1 << 16) as file:
            self.head = b"".join(iter(file.readline, b"\r\n"))
            self.asked.set()
            assert self.go.wait(_TIMEOUT_S)
            digest = hashlib.sha256()
            if b"transfer-encoding: chunked" in self.head.lower():
                while size := int(file.readline().partition(b";")[0], 16):
                    _hash(digest, file, size)
                    assert file.readline() == b"\r\n"
                assert file.readline() == b"\r\n"
            else:
                _hash(digest, file, self._size)
            self.digest = digest.hexdigest()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndone"
            )

    def close(self) -> None:
        self._listener.close()


def _hash(digest: Any, file: Any, size: int) -> None:
    while size:
        data = file.read1(min(size, PIECE))
        assert data, f"{size} bytes are missing"
        digest.update(data)
        size -= len(data)


class Upload:
    """A client that sends `head` and so many bytes of body in their framing; `sent` grows meanwhile."""

    def __init__(
        self, head: bytes, size: int, *, chunked: bool, before: bytes = b"", after: bytes = b""
    ) -> None:
        self.sent = 0
        self.digest = ""
        self.status = b""
        self._head = head
        self._size = size
        self._chunked = chunked
        self._edges = before, after

    @property
    def length(self) -> int:
        """Of the body."""
        return self._size + sum(map(len, self._edges))

    def run(self, port: int) -> None:
        digest = hashlib.sha256()
        framing = b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % self.length
        before, after = self._edges
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection:
            connection.sendall(self._head + framing + b"\r\n\r\n")
            for piece in chain((memoryview(before),), pieces(self._size), (memoryview(after),)):
                if not piece:
                    continue
                digest.update(piece)
                if self._chunked:
                    connection.sendall(b"%x\r\n" % len(piece))
                connection.sendall(piece)
                if self._chunked:
                    connection.sendall(b"\r\n")
                self.sent += len(piece)
            if self._chunked:
                connection.sendall(b"0\r\n\r\n")
            self.digest = digest.hexdigest()
            self.status = connection.recv(1 << 16)
