"""A request on its way up: its head as bytes, and its body, held or still arriving.

Most requests leave in one write. A body of which the provider does not take all at once is written piece by
piece beside the answer, which may come before its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import aiohttp
from multidict import CIMultiDict

from middlewares.envelope import Envelope
from middlewares.exchange import Exchange, Unreadable, Upload
from middlewares.faults import ClientFault, ClientGone
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from proxy.pool import ProviderConnection
from proxy.wire import upward_query

_AT_ONCE = 64 * 1024
_PIECE = 256 * 1024
_WITHOUT_BODY = ("GET ", "HEAD ", "OPTIONS ")


def address(base: str, exchange: Exchange) -> str:
    """Where it goes: `base` without a slash at its end, what follows `/v1`, and the query that may go up."""
    query = upward_query(exchange.query) if exchange.query else ""
    return base + exchange.inbound.path + (f"?{query}" if query else "")


class Outgoing(NamedTuple):
    """What is sent, but for what frames it on its connection (`Host`, `Content-Length` and the like)."""

    headers: CIMultiDict[str]
    data: bytes | Upload | None


def outgoing(exchange: Exchange) -> Outgoing:
    """The headers and the body as they go up."""
    headers, body = exchange.headers.copy(), exchange.body
    if isinstance(body, Envelope | Unreadable):
        headers["Accept-Encoding"] = "identity"
    if isinstance(body, Envelope | Form):
        if exchange.encoded is not None and body.untouched:
            return Outgoing(headers, exchange.encoded)
        if exchange.encoded is not None:
            headers.popall("Content-Encoding", None)
        return Outgoing(headers, body.encode())
    if isinstance(body, Unreadable):
        return Outgoing(headers, exchange.encoded or body.raw)
    if isinstance(body, Handshake):
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"
        return Outgoing(headers, None)
    return Outgoing(headers, body)


def head_of(request_line: str, first: Iterable[str], parcel: Outgoing) -> bytes:
    """A request's head (RFC 9112, sections 3 and 5); the lines `first` come first.

    Raises ValueError for a line break in a header.
    """
    lines = [request_line, *first, *(f"{name}: {value}" for name, value in parcel.headers.items())]
    data = parcel.data
    if isinstance(data, Upload):
        lines.append(
            "Transfer-Encoding: chunked" if data.length is None else f"Content-Length: {data.length}"
        )
    elif data is not None:
        lines.append(f"Content-Length: {len(data)}")
    elif not request_line.startswith(_WITHOUT_BODY):
        lines.append("Content-Length: 0")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header holds a line break")
    return (text + "\r\n\r\n").encode("utf-8", "surrogateescape")


class Sending:
    """One request on one connection; `sent` is called when its last byte has left."""

    def __init__(self, connection: ProviderConnection, sent: Callable[[], None]) -> None:
        self._connection = connection
        self._sent = sent
        self._task: asyncio.Task[None] | None = None

    def send(self, head: bytes, data: bytes | Upload | None) -> None:
        """Send it, or begin to."""
        transport = self._connection.transport
        if transport is None:
            return  # its end is on the way to the answer
        if isinstance(data, Upload):
            transport.write(head)
            self._spawn(self._send_upload(data))
        elif data is None or len(data) <= _AT_ONCE:
            transport.write(head + data if data else head)
            if transport.get_write_buffer_size():
                self._spawn(self._flush())
            else:
                self._sent()
        else:
            transport.write(head)
            self._spawn(self._send_held(data))

    def stop(self) -> bool:
        """Send no more of it. False if that was not all."""
        if self._task is None or self._task.done():
            return True
        self._task.cancel()
        return False

    def _spawn(self, sending: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._until_lost(sending))

    async def _until_lost(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await sending
        except (aiohttp.ClientError, OSError):
            return  # the connection is gone, which the answer knows
        self._sent()

    async def _send_held(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            await self._write(view[start : start + _PIECE])
        await self._flush()

    async def _send_upload(self, upload: Upload) -> None:
        chunked = upload.length is None
        try:
            async for piece in upload.pieces:
                await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        except (ClientFault, ClientGone):
            # The client's side broke off: half a request must not look like a whole one.
            self._connection.give_up()
            raise ConnectionAbortedError from None
        if chunked:
            await self._write(b"0\r\n\r\n")
        await self._flush()

    async def _write(self, piece: bytes | memoryview) -> None:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionResetError
        transport.write(piece)
        await self._connection.drained()

    async def _flush(self) -> None:
        """Wait until the kernel has the last byte: from then on the provider thinks."""
        transport = self._connection.transport
        if transport is None or not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)
        try:
            await self._connection.drained()
        finally:
            if self._connection.transport is not None and not transport.is_closing():
                transport.set_write_buffer_limits()
