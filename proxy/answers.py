"""One answer of a provider: parsed as it arrives, and its body pushed on without a stop in between.

llhttp (by httptools) finds head, body and end; each piece of the body goes straight to the sink, in the same
turn of the event loop in which it came. What arrives while nobody pumps is kept, and the connection is not
read while too much of it is.

Framing follows RFC 9112, section 6.3. A body without a length ends with its connection, and only by a proper
end of that; every other end before its time is a cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import httptools
from multidict import CIMultiDict

from middlewares.exchange import Sink
from middlewares.faults import UpstreamFault

_KEPT_AT_MOST = 64 * 1024
"""Bytes of a body for which there is no reader yet."""
_LONGEST_FIELD = 32 * 1024
_MOST_FIELDS = 128
_LONGEST_HEAD = _MOST_FIELDS * _LONGEST_FIELD
_BODILESS = frozenset({204, 304})

RawHeaders = list[tuple[bytes, bytes]]


class Line(Protocol):
    """The connection, as its answer sees it."""

    def read_no_more(self) -> None: ...

    def read_on(self) -> None: ...

    def spoil(self) -> None:
        """It carries no further request."""

    def over(self) -> None:
        """The answer has come to its end."""

    def switched(self, rest: bytes) -> None:
        """It speaks another protocol from here on; `rest` are the first bytes of that."""


class Answer:
    """To be fed by its connection `line`. `status` is 0 until the head is there."""

    __slots__ = (
        "_begun",
        "_fault",
        "_fed",
        "_framed",
        "_gone",
        "_head_is_all",
        "_kept",
        "_let_go",
        "_parser",
        "_paused",
        "_route",
        "_sink",
        "_size",
        "_stopped",
        "_turn",
        "broken_by",
        "ended",
        "halted",
        "headers",
        "line",
        "raw_headers",
        "status",
    )

    between_events = False

    def __init__(self, line: Line, route: str, *, head_only: bool) -> None:
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.raw_headers: RawHeaders = []
        self.ended = False
        self.halted = False
        self.broken_by: Callable[[], BaseException | None] = _nobody
        """Asked when the answer breaks off: whose fault is it, if not the provider's?"""
        self.line = line
        self._route = route
        self._head_is_all = head_only
        self._framed = self._begun = False
        self._fed = 0
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._sink: Sink | None = None
        self._gone: BaseException | None = None
        self._fault: UpstreamFault | None = None
        self._turn: asyncio.Future[None] | None = None
        self._paused = self._stopped = self._let_go = False
        self._parser = _parser(self)

    # ---- for who reads it

    async def head(self) -> None:
        """Wait until the head is there. Raises UpstreamFault."""
        while not self.status and self._fault is None:
            await self._wait()
        if not self.status:
            assert self._fault is not None
            raise self._fault

    async def pump(self, sink: Sink) -> bool:
        """Hand over each piece as it arrives: True at the end, False after `halt`. Raises `upstream_cut`."""
        self.halted = False
        while self._kept and not self.halted:
            piece = self._kept.popleft()
            self._size -= len(piece)
            sink(piece)
        self._sink = sink
        try:
            if self._stopped and not self.halted:
                self._stopped = False
                self._flow()
            while not (self.ended or self.halted or self._gone or self._fault):
                await self._wait()
        finally:
            self._sink = None
        if self._gone is not None:
            raise self._gone
        if self._fault is not None:
            # Also when it was to stop here: nobody has been told anything yet that would make it a cut.
            raise self.broken_by() or self._fault
        return not self.halted

    async def _wait(self) -> None:
        self._turn = asyncio.get_running_loop().create_future()
        try:
            await self._turn
        finally:
            self._turn = None

    def _wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def halt(self) -> None:
        """Stop after the current piece."""
        self.halted = True
        self._wake()

    def pause(self) -> None:
        """The reader of the sink is slow."""
        self._paused = True
        self._flow()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._flow()

    def _flow(self) -> None:
        if self._let_go:
            return
        if self._paused or self._stopped:
            self.line.read_no_more()
        else:
            self.line.read_on()

    def close(self) -> None:
        """Let go of it; a connection on which more of it would come is closed."""
        self._sink = None
        self._kept.clear()
        if not self.ended:
            self.line.spoil()
        self._leave()

    # ---- for its connection

    def feed(self, data: bytes) -> None:
        """Bytes of the provider."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.line.switched(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._break(error)
        # What breaks in the bytes that it begins with has never begun.
        self._begun = self.status != 0
        if not self.status:
            self._fed += len(data)
            if self._fed > _LONGEST_HEAD:
                self._break(None)

    def lost(self, error: BaseException | None) -> None:
        """The connection is gone; with `error` it is no proper end, whatever the framing."""
        if self.ended or self._fault is not None:
            return
        if self.status and not self._framed and error is None:
            self._end()
            return
        if self.status:
            self._fault = _cut()
        else:
            self._fault = UpstreamFault(
                "upstream_reset", f"The provider of {self._route!r} closed the connection without an answer."
            )
        self._fault.__cause__ = error
        self._wake()

    def _break(self, cause: BaseException | None) -> None:
        """What came is no HTTP. After the end it is nobody's answer, and only the connection is spoiled."""
        self.line.spoil()
        if self.ended or self._fault is not None:
            return
        if self._begun:
            self._fault = _cut()
        else:
            self._fault = UpstreamFault(
                "upstream_protocol", f"The provider of {self._route!r} did not answer in HTTP."
            )
        self._fault.__cause__ = cause
        self._wake()

    def _end(self) -> None:
        self.ended = True
        self._wake()
        self._leave()

    def _leave(self) -> None:
        """Let go of the connection, once: from then on it may be another answer's."""
        if not self._let_go:
            self._let_go = True
            self.line.over()

    # ---- what httptools calls

    def on_message_begin(self) -> None:
        """A head begins; behind a whole answer it is nobody's."""
        if self.ended:
            self.line.spoil()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is let go of."""
        if self.status:
            return
        if len(self.raw_headers) >= _MOST_FIELDS or len(name) + len(value) > _LONGEST_FIELD or b"\0" in value:
            raise ValueError("this head is not to be passed on")
        self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there, unless it announces another."""
        if self.ended:
            return
        status: int = self._parser.get_status_code()
        if status < 100:
            raise ValueError("this is no status")
        if status < 200 and status != 101:
            self.raw_headers.clear()
            return
        headers = self.headers
        for name, value in self.raw_headers:
            headers.add(name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        self._framed = "content-length" in headers or "transfer-encoding" in headers
        self.status = status
        self._wake()
        if self._head_is_all and status != 101:
            # llhttp would wait for the body that the head speaks of.
            self._end()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body; behind its end it is nobody's."""
        if self.ended:
            self.line.spoil()
            return
        if self._sink is not None and not self.halted:
            try:
                self._sink(piece)
            except Exception as gone:
                # Here nobody could catch it, the event loop least of all; whoever pumps can.
                self._gone, self._sink = gone, None
                self._wake()
            return
        self._kept.append(piece)
        self._size += len(piece)
        if self._size > _KEPT_AT_MOST and not self._stopped:
            self._stopped = True
            self._flow()

    def on_message_complete(self) -> None:
        """The end of a body, or of a head that only announced another."""
        if not self.status or self.ended or self.status == 101:
            return
        if not self._parser.should_keep_alive():
            self.line.spoil()
        self._end()


def _parser(answer: Answer) -> httptools.HttpResponseParser:
    parser = httptools.HttpResponseParser(answer)
    # As aiohttp does, and for the providers that live by it.
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _cut() -> UpstreamFault:
    return UpstreamFault("upstream_cut", "The provider broke off its answer.")


def _nobody() -> BaseException | None:
    return None
