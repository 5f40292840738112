"""aiohttp's low-level server, set up so that nothing about it is left to its defaults.

A handler is cancelled when its client leaves, bodies are not decompressed, nothing is logged twice,
and a request that is not HTTP is answered in our shape with no word of it in the log: aiohttp would
echo the offending header, key and all.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from middlewares.exchange import ReplyBody
from middlewares.faults import ClientFault, openai_error

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_SETTINGS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "lingering_time": 2.0,
    "max_field_size": 32 * 1024,
    "max_headers": 128,
    "max_line_size": 16 * 1024,
    "read_bufsize": 2**16,
}


class ClientConnection(RequestHandler):
    """A client's connection; passes its backpressure on to the body that it is being sent."""

    __slots__ = ("_emptied", "_pending", "readers")

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, keepalive: float) -> None:
        super().__init__(server, loop=loop, keepalive_timeout=keepalive, **_SETTINGS)
        self.readers: ReplyBody | None = None
        """The body whose pieces are written here, while there is one."""
        self._emptied: asyncio.Event | None = None
        self._pending = 0

    async def emptied(self) -> None:
        """Wait until the kernel has every byte that was written; a clean stop must not lose the last."""
        transport = self.transport
        if transport is None or transport.get_write_buffer_size() == 0:
            return
        self._emptied = asyncio.Event()
        transport.set_write_buffer_limits(high=0)
        try:
            await self._emptied.wait()
        finally:
            self._emptied = None
            transport.set_write_buffer_limits()

    def took_bytes(self) -> bool:
        """Whether the client, slow as it is, took anything since this was asked last."""
        before, self._pending = self._pending, self._unsent()
        return self.writing_paused and self._pending < before

    def _unsent(self) -> int:
        """Bytes that the client has not acknowledged: in our buffer and in the kernel's.

        The kernel holds megabytes and says that there is room again only when a third is free, so a
        client of a few KB/s would seem to stand still if our own buffer were all that is looked at.
        """
        if self.transport is None:
            return 0
        queued = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + queued[0]

    def pause_writing(self) -> None:
        """The client takes less than comes."""
        super().pause_writing()
        self._pending = self._unsent()
        if self.readers is not None:
            self.readers.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._emptied is not None:
            self._emptied.set()
        if self.readers is not None:
            self.readers.resume()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept, unless there are as many as there may be."""
        super().connection_made(transport)
        server = self._manager
        if isinstance(server, Server) and server.is_full and self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let whoever waits for the client wait no longer."""
        super().connection_lost(exc)
        if self._emptied is not None:
            self._emptied.set()
        if self.readers is not None:
            self.readers.resume()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused. What it says of the reason may quote a key, so it is not told."""
        fault = ClientFault("invalid_request", "This is not a well-formed HTTP request.")
        response = web.Response(
            status=fault.status,
            body=msgspec.json.encode(openai_error(fault)) + b"\n",
            headers={"Content-Type": "application/json", "x-tidegate-error": fault.code},
        )
        response.force_close()
        return response


class Server(web.Server):
    """Makes `ClientConnection`s for one handler."""

    def __init__(self, handle: Handle, *, keepalive: float, max_connections: int) -> None:
        super().__init__(handle, request_factory=_request, handler_cancellation=True)
        self._keepalive = keepalive
        self._max_connections = max_connections

    @property
    def is_full(self) -> bool:
        """More connections than allowed, the newest included."""
        return len(self._connections) > self._max_connections

    def __call__(self) -> RequestHandler:
        """A connection; unlike the original, a wrong setting is an error and not dropped."""
        return ClientConnection(self, asyncio.get_running_loop(), self._keepalive)


def _request(
    message: RawRequestMessage,
    content: StreamReader,
    protocol: RequestHandler,
    writer: Any,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    # Limits are ours (`proxy.intake`), so aiohttp's own is out of the way.
    return web.BaseRequest(
        message, content, protocol, writer, task, asyncio.get_running_loop(), client_max_size=2**62
    )
