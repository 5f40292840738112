"""Both neighbours of the proxy as bare protocols, quick enough for tens of thousands of exchanges.

Their reading is as strict as that of the other simulated peers (`tests.support.http1`); what they gain is
that nothing waits: a message is read as its bytes come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

from tests.support import http1


class Message(NamedTuple):
    """A request or an answer as it arrived; `start` is its first line, the body is without its framing.

    `whole` is False for an answer that was cut, `last` is True if nothing may follow on its connection.
    """

    start: str
    headers: http1.Headers
    body: bytes
    whole: bool = True
    last: bool = False

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def header(self, name: str) -> str | None:
        return http1.header(self.headers, name)


class Reading:
    """Messages out of bytes, in whatever pieces those come."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self._buffer = bytearray()
        self._body = bytearray()
        self._head: tuple[str, http1.Headers] | None = None
        self._step: Callable[[], Message | bool] = self._read_head
        self._left = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. Raises `http1.Malformed`."""
        self._buffer += data
        while found := self._step():
            if isinstance(found, Message):
                yield found

    def end(self) -> Message | None:
        """What the end of the connection completes, or cuts."""
        if self._step == self._read_to_end:
            return self._done(last=True)
        if self._head is None and not self._buffer:
            return None
        start, headers = self._head or ("HTTP/1.1 000 cut in its head", ())
        return Message(start, headers, bytes(self._body), whole=False, last=True)

    def _read_head(self) -> Message | bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > http1.HEAD_LIMIT:
                raise http1.Malformed("a head without an end")
            return False
        self._head = start, headers = http1.parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        chunked, length = http1.framing(headers)
        self._left = length or 0
        if chunked:
            self._step = self._read_size
        elif length is None and self._answers and start.split(" ")[1] not in ("204", "304"):
            self._step = self._read_to_end
        else:
            self._step = self._read_length
        return True

    def _read_length(self) -> Message | bool:
        if len(self._buffer) < self._left:
            return False
        self._take(self._left)
        return self._done()

    def _read_to_end(self) -> Message | bool:
        self._take(len(self._buffer))
        return False

    def _read_size(self) -> Message | bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        self._left = http1.chunk_size(bytes(self._buffer[: end + 2]))
        del self._buffer[: end + 2]
        self._step = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> Message | bool:
        if len(self._buffer) < self._left + 2:
            return False
        self._take(self._left)
        if self._buffer[:2] != b"\r\n":
            raise http1.Malformed("a chunk that is longer than its size")
        del self._buffer[:2]
        self._step = self._read_size
        return True

    def _read_trailer(self) -> Message | bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        del self._buffer[: end + 2]
        return self._done() if end == 0 else True

    def _take(self, size: int) -> None:
        self._body += self._buffer[:size]
        del self._buffer[:size]

    def _done(self, *, last: bool = False) -> Message:
        assert self._head is not None
        start, headers = self._head
        closes = last or "close" in http1.tokens(headers, "connection")
        message = Message(start, headers, bytes(self._body), last=closes)
        self._head, self._body, self._step = None, bytearray(), self._read_head
        return message


Write = bytes | float | None


class Feeder:
    """An upstream that answers each request with the writes that `play` has for it.

    Each write is a send of its own, with a turn of the loop in between, or with a pause if there is a
    number of seconds; None closes the connection. What no strict reader takes for HTTP/1.1 is kept in
    `failures`, which is to stay empty; `received` has every byte that came if `recording`.
    """

    def __init__(self, play: Callable[[Message], Iterable[Write]], *, recording: bool = False) -> None:
        self.play = play
        self.recording = recording
        self.received = bytearray()
        self.failures: list[BaseException] = []
        self.served = 0
        self.open: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Fed(self), "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in tuple(self.open):
            transport.abort()
        await self._server.wait_closed()


class _Fed(asyncio.Protocol):
    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self._reading = Reading(answers=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._feeder.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._feeder.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        feeder = self._feeder
        if feeder.recording:
            feeder.received += data
        try:
            for request in self._reading.feed(data):
                feeder.served += 1
                self._write_next(iter(feeder.play(request)))
        except Exception as failure:  # noqa: BLE001 - whatever it is, the test raises it
            feeder.failures.append(failure)
            self._transport.abort()

    def _write_next(self, pieces: Iterator[Write]) -> None:
        for piece in pieces:
            if self._transport.is_closing():
                return
            if piece is None:
                self._transport.close()
                return
            loop = asyncio.get_running_loop()
            if isinstance(piece, float):
                loop.call_later(piece, self._write_next, pieces)
            else:
                self._transport.write(piece)
                loop.call_soon(self._write_next, pieces)
            return


class Caller(asyncio.Protocol):
    """A client's connection, made anew when the one before is of no more use; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Message] | None = None

    async def ask(self, *pieces: bytes) -> Message:
        """Send a request in these writes and wait for its answer, whole or cut."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._reading = Reading(answers=True)
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        assert self._transport is not None
        self._answer = loop.create_future()
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(0)
            self._transport.write(piece)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._reading.feed(data):
                self._settle(answer)
        except http1.Malformed as wrong:
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(wrong)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            left = self._reading.end() or Message("HTTP/1.1 000 no answer", (), b"", whole=False, last=True)
            # A reset is no end: only a proper one completes what the connection delimits.
            self._answer.set_result(left if exc is None else left._replace(whole=False))
        self._transport = None

    def _settle(self, answer: Message) -> None:
        if self._answer is None or self._answer.done():
            raise http1.Malformed("an answer that nobody asked for")
        if answer.last and self._transport is not None:
            self._transport.close()
        self._answer.set_result(answer)


def cut(data: bytes, sizes: Iterable[int], most: int) -> list[bytes]:
    """`data` in pieces of these sizes, over and over; of larger ones if there would be more than `most`."""
    wanted = tuple(sizes)
    if not data or not wanted:
        return [data] if data else []
    grow = max(1, -(-len(data) * len(wanted) // (sum(wanted) * most)))
    pieces = []
    start = number = 0
    while start < len(data):
        end = start + wanted[number % len(wanted)] * grow
        pieces.append(data[start:end])
        start, number = end, number + 1
    return pieces
