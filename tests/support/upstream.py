"""A scripted upstream on a real socket: a test says how it behaves and reads exactly what arrived.

A behaviour is called once for each request with what was `Seen` and the `Wire` to answer on. Returning
without having finished the answer closes the connection. A behaviour that fails, and a request that is no
proper HTTP/1.1, are kept in `failures`; the first is raised when the upstream closes.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from tests.support import http1
from tests.support.behaviours import (
    answer,
    chat,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
    stream,
)
from tests.support.waiting import Bell
from tests.support.wire import DONE, Behaviour, PeerGone, Seen, Wire, sse_event

__all__ = [
    "DONE",
    "Behaviour",
    "PeerGone",
    "ScriptedUpstream",
    "Seen",
    "Wire",
    "answer",
    "chat",
    "cut_after",
    "garbage",
    "head_then_silent",
    "reset_before_head",
    "silent",
    "sse_event",
    "stream",
]


class ScriptedUpstream:
    """Listens on a free port of 127.0.0.1; `url` is its base URL, `seen` and `wires` what happened so far."""

    def __init__(self, behaviour: Behaviour | None = None, *, base: str = "/v1") -> None:
        self.base = base
        self.seen: list[Seen] = []
        self.wires: list[Wire] = []
        self.gone: list[float] = []
        self.failures: list[BaseException] = []
        self.connections = 0
        self._answering = 0
        self._script: list[Behaviour] = [behaviour or chat()]
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closing = False
        self._bell = Bell()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None, "the upstream is not listening"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.origin + self.base

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def behaviour(self) -> Behaviour:
        """What the next request meets; setting it forgets what was scripted."""
        return self._script[0]

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._script = [behaviour]

    def script(self, *behaviours: Behaviour) -> None:
        """One behaviour for each of the next requests; the last one stays."""
        if not behaviours:
            raise ValueError("a script needs a behaviour")
        self._script = list(behaviours)

    async def wait_seen(self, count: int, within: float = 5.0) -> list[Seen]:
        """Wait until `count` requests have arrived whole, and return them all."""
        await self._bell.until(
            lambda: len(self.seen) >= count, within, lambda: f"{len(self.seen)} of {count} requests"
        )
        return list(self.seen)

    async def wait_gone(self, count: int, within: float = 5.0) -> list[float]:
        """Wait until `count` peers have left before their answer was finished, and return the times."""
        await self._bell.until(
            lambda: len(self.gone) >= count, within, lambda: f"{len(self.gone)} of {count} peers gone"
        )
        return list(self.gone)

    async def wait_open(self, count: int, within: float = 5.0) -> None:
        """Wait until exactly `count` connections are open."""
        await self._bell.until(
            lambda: self.open_connections == count,
            within,
            lambda: f"{self.open_connections} open connections",
        )

    async def forget(self, within: float = 5.0) -> None:
        """Wait until no request is being answered, then forget what arrived, for the next test.

        An answer that does not end is dropped, and that raised; else the first of the failures so far.
        """
        problems: list[BaseException] = []
        try:
            await self._bell.until(
                lambda: not self._answering, within, lambda: f"{self._answering} requests are being answered"
            )
        except TimeoutError as error:
            problems.append(error)
            for writer in self._open.values():
                writer.transport.abort()
        problems += self.failures
        for record in (self.seen, self.wires, self.gone, self.failures):
            record.clear()
        if problems:
            raise problems[0]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._closing = True
        self._server.close()
        tasks, writers = tuple(self._open), tuple(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # a task cancelled before its first step has closed nothing
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await self._server.wait_closed()
        if error is None and self.failures:
            raise self.failures[0]

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:
            writer.transport.abort()
            return
        self.connections += 1
        connection = _Connection(self, self.connections, reader, writer)
        task = asyncio.create_task(connection.run())
        self._open[task] = writer
        task.add_done_callback(self._left)
        self._bell.ring()

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.failures.append(failure)
        self._bell.ring()

    def arrived(self, seen: Seen, wire: Wire) -> Behaviour:
        """Record a request (called by its connection); the behaviour that is to answer it."""
        self.seen.append(seen)
        self.wires.append(wire)
        self._answering += 1
        self._bell.ring()
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def answered(self) -> None:
        """A behaviour came to its end, however (called by its connection)."""
        self._answering -= 1
        self._bell.ring()

    def departed(self, at: float) -> None:
        """Record a peer that left too early (called by its connection)."""
        self.gone.append(at)
        self._bell.ring()


class _Connection:
    """One accepted connection: its requests in turn, while a pump watches for the peer's leaving."""

    def __init__(
        self,
        upstream: ScriptedUpstream,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._upstream = upstream
        self._number = number
        self._reader = reader
        self._writer = writer
        self._received = asyncio.StreamReader(limit=http1.HEAD_LIMIT)
        self._gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._wire: Wire | None = None
        writer.transport.set_write_buffer_limits(high=0)  # so that a drained write has left the process

    async def run(self) -> None:
        pump = asyncio.create_task(self._pump())
        try:
            while await self._exchange():
                pass
            self._wire = None
            self._writer.close()
            await self._writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._peer_left()  # a failed write may tell before the pump does
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            self._writer.transport.abort()
            await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def _pump(self) -> None:
        """Move what arrives into the parser's reader at once, so that the end of it is seen at once too."""
        try:
            while data := await self._reader.read(1 << 16):
                self._received.feed_data(data)
        except ConnectionError:
            pass
        self._peer_left()
        self._received.feed_eof()

    def _peer_left(self) -> None:
        if self._gone.done():
            return
        now = asyncio.get_running_loop().time()
        self._gone.set_result(now)
        if self._wire is not None and not self._wire.over:
            self._upstream.departed(now)

    async def _exchange(self) -> bool:
        """Read one request and have it answered; whether the connection may carry another."""
        head = await http1.read_head(self._received)
        if head is None:
            return False
        at = asyncio.get_running_loop().time()
        start, headers = head
        method, target, version = _request_line(start)
        wire = self._wire = Wire(self._writer, self._gone, method)
        if "100-continue" in http1.tokens(headers, "expect"):
            await wire.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await http1.read_body(self._received, headers, to_end=False)
        seen = Seen(method, target, headers, body, at, self._number)
        behaviour = self._upstream.arrived(seen, wire)
        try:
            await behaviour(seen, wire)
        finally:
            self._upstream.answered()
        self._wire = None
        persistent = version == "HTTP/1.1" and "close" not in http1.tokens(headers, "connection")
        return persistent and wire.keep_alive and wire.complete and not wire.closed


def _request_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not all(parts) or parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise http1.Malformed(f"request line {line!r}")
    return parts[0], parts[1], parts[2]
