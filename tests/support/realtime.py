"""A provider that speaks WebSocket, on aiohttp's own server: another implementation than what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import WSMsgType, web

Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


async def echo(socket: web.WebSocketResponse) -> None:
    """Send back every message as it came, until the client says good-bye."""
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)


class RealtimeProvider:
    """Answers handshakes and has `talk` do the rest; a `refusal` is a status to answer instead.

    `requests` are the handshakes as they arrived, `closed` the close code that each talk ended with.
    """

    def __init__(self, talk: Talk = echo, *, refusal: int | None = None, deflate: bool = False) -> None:
        self.requests: list[web.BaseRequest] = []
        self.closed: asyncio.Queue[int | None] = asyncio.Queue()
        self._talk = talk
        self._refusal = refusal
        self._deflate = deflate

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self._refusal is not None:
            return web.json_response({"error": {"message": "no"}}, status=self._refusal)
        socket = web.WebSocketResponse(
            protocols=("realtime",), autoping=False, compress=self._deflate, max_msg_size=0, timeout=2.0
        )
        await socket.prepare(request)
        try:
            await self._talk(socket)
        finally:
            self.closed.put_nowait(socket.close_code)
        return socket
