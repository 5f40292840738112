"""A bare HTTP/1.1 client for tests: it sends the bytes it is given and shows the answer as it was framed."""

from __future__ import annotations

import asyncio
import json as jsonlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from tests.support import http1
from tests.support.disclosure import note_sent
from tests.support.wire import HeaderItems, header_pairs


class RawClient:
    """One connection, open while its context lasts.

    A truncated answer raises asyncio.IncompleteReadError, a reset one ConnectionResetError. A small
    `receive_buffer` (bytes, for the kernel) makes a client that takes its time felt at the other end soon.
    Under `tls` the server has to be localhost.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._receive_buffer = receive_buffer
        self._bodiless = False
        self._headers: http1.Headers = ()

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        connection = socket.socket(family)
        connection.setblocking(False)
        try:
            if self._receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            await asyncio.get_running_loop().sock_connect(connection, self._address)
            name = None if self._tls is None else "localhost"
            self._reader, self._writer = await asyncio.open_connection(
                sock=connection, ssl=self._tls, server_hostname=name
            )
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transport = self._writer.transport
        if not transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()  # one that is closed already would stumble over it
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def send(self, data: bytes) -> None:
        note_sent(data)
        self._writer.write(data)
        await self._writer.drain()

    async def read_head(self, *, bodiless: bool = False) -> tuple[int, list[tuple[str, str]]]:
        """Status and headers in their order and spelling, 1xx included; `bodiless` after a HEAD request."""
        head = await http1.read_head(self._reader)
        if head is None:
            raise asyncio.IncompleteReadError(b"", None)
        start, self._headers = head
        version, _, rest = start.partition(" ")
        status = rest[:3]
        if version not in ("HTTP/1.0", "HTTP/1.1") or not status.isdecimal():
            raise http1.Malformed(f"status line {start!r}")
        self._bodiless = bodiless or status in ("204", "304") or status.startswith("1")
        return int(status), list(self._headers)

    async def read_chunks(self) -> AsyncIterator[tuple[float, bytes]]:
        """The chunks as they come, each with the loop time at which it was whole."""
        chunked, _ = http1.framing(self._headers)
        if not chunked:
            raise http1.Malformed("the answer is not chunked")
        loop = asyncio.get_running_loop()
        while data := await http1.read_chunk(self._reader):
            yield loop.time(), data

    async def read_body(self) -> bytes:
        """The whole decoded body, up to the end of the connection if nothing else delimits it."""
        if self._bodiless:
            return b""
        return await http1.read_body(self._reader, self._headers, to_end=True)

    async def read_until_closed(self) -> bytes:
        """Every byte that still comes, as it is."""
        return await self._reader.read()

    async def read_some(self) -> bytes:
        """What is there of the next bytes, as they are; empty at the end."""
        return await self._reader.read(1 << 16)

    def reset(self) -> None:
        """Leave with an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def vanish(self) -> None:
        """Leave with a FIN and no good-bye of TLS before it, as a program that ends does."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Leave with a FIN."""
        self._writer.close()


def header(headers: list[tuple[str, str]], name: str) -> str | None:
    """The first value of a header of `read_head`, whatever its spelling."""
    return http1.header(tuple(headers), name)


def post(path: str, json: Any, headers: HeaderItems = (), *, host: str = "tidegate.test") -> bytes:
    """A POST request with a JSON body, as bytes to send; `headers` take the place of our own."""
    body = json if isinstance(json, bytes) else jsonlib.dumps(json).encode()
    own = (("Host", host), ("Content-Type", "application/json"), ("Content-Length", str(len(body))))
    given = header_pairs(headers)
    replaced = {name.lower() for name, _ in given}
    kept = [pair for pair in own if pair[0].lower() not in replaced]
    fields = (f"{name}: {value}" for name, value in (*kept, *given))
    lines = (f"POST {path} HTTP/1.1", *fields, "", "")
    return "\r\n".join(lines).encode("latin-1") + body
