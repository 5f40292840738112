"""A provider that speaks WebSocket, on aiohttp's own server: another implementation than what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web

from tests.support.process import Tidegate, write_table

KEY = "canary-of-the-realtime-route"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

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


def realtime_table(folder: Path, url: str, **clocks: str) -> Path:
    """Two routes to one provider, an alias and a default."""
    chain: list[Any] = ["prefix_rewrite", {"key": {"env": "UP_KEY"}}, {"timeout": clocks}]
    routes = {
        "up": {"upstream": url, "middlewares": chain},
        "other": {"upstream": url + "/other", "middlewares": chain},
    }
    return write_table(folder, routes, models={"talk": "up/gpt-realtime"}, default_route="up")


@asynccontextmanager
async def serving(folder: Path, provider: RealtimeProvider, **clocks: str) -> AsyncIterator[Tidegate]:
    """A provider, and a real process in front of it."""
    async with (
        provider,
        Tidegate(realtime_table(folder, provider.url, **clocks), env={"UP_KEY": KEY}) as gate,
    ):
        yield gate


def handshake(path: str = "/v1/realtime?model=up/gpt-realtime") -> bytes:
    """The opening request of a WebSocket."""
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "",
        "",
    )
    return "\r\n".join(lines).encode()
