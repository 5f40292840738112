"""One exchange as a simulated upstream sees it: `Seen` is what arrived, `Wire` is what can be answered."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.support import http1

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class PeerGone(ConnectionError):
    """The peer left while the answer was being written; ends a behaviour without being a failure."""


@dataclass(frozen=True)
class Seen:
    """A request exactly as it arrived. `at` is the loop time at which its head was complete."""

    method: str
    target: str
    headers: http1.Headers
    body: bytes
    at: float
    connection: int

    def header(self, name: str) -> str | None:
        return http1.header(self.headers, name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


def sse_event(data: bytes | str | Mapping[str, Any]) -> bytes:
    """One event of an event stream; bytes are passed on as they are, to be as malformed as a test needs."""
    if isinstance(data, bytes):
        return data
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


DONE = sse_event("[DONE]")


def header_pairs(headers: HeaderItems | None) -> http1.Headers:
    """Headers given as a mapping or as pairs, as pairs."""
    return tuple(headers.items() if isinstance(headers, Mapping) else headers or ())


class Wire:
    """The answering side of one exchange. Writes return when the kernel has taken every byte."""

    def __init__(self, writer: asyncio.StreamWriter, gone: asyncio.Future[float], method: str) -> None:
        self.sent_at: list[float] = []
        self.complete = False
        self.closed = False
        self.keep_alive = True
        self._writer = writer
        self._gone = gone
        self._bodiless = method == "HEAD"
        self._chunked = False

    @property
    def over(self) -> bool:
        """Whether the answer was finished, or ended on purpose: from here on a peer may leave."""
        return self.complete or self.closed

    async def head(self, status: int, headers: HeaderItems = (), reason: str | None = None) -> None:
        """Status line and headers; an answer that nothing delimits is chunked."""
        pairs = header_pairs(headers)
        names = {name.lower() for name, _ in pairs}
        if not names & {"content-length", "transfer-encoding"} and status not in (204, 304):
            pairs += (("Transfer-Encoding", "chunked"),)
        self._chunked = "chunked" in http1.tokens(pairs, "transfer-encoding") and not self._bodiless
        self.keep_alive = "close" not in http1.tokens(pairs, "connection")
        phrase = _phrase(status) if reason is None else reason
        lines = (f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in pairs), "", "")
        await self.raw("\r\n".join(lines).encode("latin-1"))

    async def chunk(self, data: bytes) -> None:
        """One HTTP chunk in one write (the plain bytes if the head gave a Content-Length)."""
        if not data:
            raise ValueError("an empty chunk would end the answer; use finish()")
        self.sent_at.append(asyncio.get_running_loop().time())
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def raw(self, data: bytes) -> None:
        if self._gone.done():
            raise PeerGone
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        """The proper end of the answer: the terminating chunk, where chunks are used."""
        self.complete = True
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    async def json(self, status: int, obj: Any, headers: HeaderItems | None = None) -> None:
        """A whole answer with Content-Length."""
        body = json.dumps(obj, ensure_ascii=False).encode()
        own = (("Content-Type", "application/json"), ("Content-Length", str(len(body))))
        await self.head(status, (*own, *header_pairs(headers)))
        if not self._bodiless:
            await self.raw(body)
        await self.finish()

    async def sse(
        self, *events: bytes | Mapping[str, Any], done: bool = True, headers: HeaderItems | None = None
    ) -> None:
        """Head and one chunk for each event. `done` ends it with [DONE]; without, the answer stays open."""
        await self.head(200, (("Content-Type", "text/event-stream"), *header_pairs(headers)))
        for event in events:
            await self.chunk(sse_event(event))
        if done:
            await self.chunk(DONE)
            await self.finish()

    def reset(self) -> None:
        """Drop the connection with an RST."""
        self.closed = True
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection with a FIN, wherever the answer stands."""
        self.closed = True
        self._writer.close()

    async def client_gone(self) -> float:
        """Wait until the peer closes its side; the loop time at which that was seen."""
        return await asyncio.shield(self._gone)

    async def pause(self, seconds: float) -> None:
        """Work for so long; a peer that leaves meanwhile ends it at once with PeerGone."""
        if seconds > 0:
            await asyncio.wait({self._gone}, timeout=seconds)
        if self._gone.done():
            raise PeerGone


Behaviour = Callable[[Seen, Wire], Awaitable[None]]


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
