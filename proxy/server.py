"""aiohttp's low-level server, set up so that nothing about it is left to its defaults.

A handler is cancelled when its client leaves, bodies are not decompressed, nothing is logged twice,
and a request that is not HTTP is answered in our shape with no word of it in the log: aiohttp would
echo the offending header, key and all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from config.schema import ClientTimeouts
from middlewares.exchange import ReplyBody
from middlewares.faults import ClientFault, openai_error
from proxy.departures import Departures, Watched
from proxy.kernel import bytes_taken
from proxy.logs import Journal, Record
from proxy.metrics import Metrics
from proxy.trailers import Trailers

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
_HIGH_WATER = 64 * 1024
"""Bytes that may wait for a client in our own buffer before the answer's source is halted."""


class Connections:
    """How many connections are `open`; `limit` None is no limit. `left` is called when one is gone."""

    __slots__ = ("_left", "limit", "open")

    def __init__(self, limit: int | None, left: Callable[[], object] = lambda: None) -> None:
        self._left = left
        self.limit = limit
        self.open = 0

    def enter(self) -> bool:
        """Count one more; False if it is one too many."""
        self.open += 1
        return self.limit is None or self.open <= self.limit

    def leave(self) -> None:
        """One is gone."""
        self.open -= 1
        self._left()


class Shared(NamedTuple):
    """What the connections of one listener share with those of others."""

    journal: Journal
    connections: Connections
    departures: Departures
    metrics: Metrics


class ClientConnection(RequestHandler):
    """A client's connection; passes its backpressure on to the body that it is being sent."""

    __slots__ = (
        "_body",
        "_connections",
        "_departures",
        "_emptied",
        "_head_begun",
        "_head_by",
        "_head_timeout",
        "_journal",
        "_metrics",
        "_taken",
        "_trailers",
        "_unread",
        "made",
        "source",
    )

    def __init__(self, server: Server, shared: Shared, timeouts: ClientTimeouts) -> None:
        super().__init__(
            server, loop=asyncio.get_running_loop(), keepalive_timeout=timeouts.keepalive, **_SETTINGS
        )
        self.made = False
        """Whether it has come to stand: from then on it leaves the count by itself."""
        self.source: ReplyBody | None = None
        """The body whose pieces are written here, while there is one."""
        self._journal = shared.journal
        self._metrics = shared.metrics
        self._connections = shared.connections
        self._departures = shared.departures
        self._unread: Watched | None = None
        self._head_timeout = timeouts.header
        self._body: StreamReader | None = None
        self._head_begun = False
        self._head_by: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None
        self._trailers = Trailers()
        self._taken = 0

    @property
    def spent(self) -> bool:
        """Whether no further request may follow on this connection.

        The client asked for another protocol, and may speak it already; or the parser would take what
        it has of this request for a part of the next.
        """
        return self._upgraded or self._trailers.stained

    def hand_to(self, receiver: Any) -> None:
        """From here on what the client sends goes to `receiver.feed_data`; it is no HTTP any more."""
        self.set_parser(receiver)

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
            if self.transport is not None and not transport.is_closing():
                transport.set_write_buffer_limits(high=_HIGH_WATER)

    def took_bytes(self) -> bool:
        """Whether the client, slow as it is, took anything since this was asked last."""
        before, self._taken = self._taken, self._count_taken()
        return self.writing_paused and self._taken > before

    def _count_taken(self) -> int:
        if self.transport is None or self.transport.is_closing():
            return self._taken
        sock = self.transport.get_extra_info("socket")
        return bytes_taken(sock, self.transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        """The client takes less than comes."""
        super().pause_writing()
        self._taken = self._count_taken()
        if self.source is not None:
            self.source.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._stop_waiting()

    def _pause_transport_reading(self) -> None:
        """Reading stops for now; from here on only the kernel knows whether the client is there."""
        super()._pause_transport_reading()
        if self._unread is None and self.transport is not None and not self.transport.is_closing():
            # A tunnel's client may have said all it has to say: what it said is still to be read.
            half = self._payload_parser is None
            sock = self.transport.get_extra_info("socket")
            self._unread = self._departures.watch(sock, self._left, half=half)

    def _resume_transport_reading(self) -> None:
        self._look_no_more()
        super()._resume_transport_reading()

    def _look_no_more(self) -> None:
        if self._unread is not None:
            self._departures.forget(self._unread)
            self._unread = None

    def _left(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands, after its handshake under TLS; it was counted when it was accepted."""
        super().connection_made(transport)
        if self.transport is not None:
            # Of their own, transports under TLS would hold eight times as much.
            self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.made = True
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let whoever waits for the client wait no longer."""
        self._look_no_more()
        super().connection_lost(exc)
        self._connections.leave()
        self._head_is_here()
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client; a head that was begun has to end in time."""
        requests = self._request_count
        is_body = self._body is not None and not self._body.is_eof()
        super().data_received(data)
        new = self._request_count - requests
        self._trailers.feed(data, list(self._messages)[-new:] if new else ())
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._break_body()
        if self._request_count != requests:
            self._body = self._messages[-1][1]
            self._head_is_here()
        elif not is_body and not self._upgraded and data.strip(b"\r\n"):
            self._head_begun = True
            if self._head_by is None:
                self._expect_head()

    def _break_body(self) -> None:
        """What does not parse, while a body arrives, is that body: its reader would wait for ever."""
        request = self._current_request
        if request is not None and not request.content.is_eof() and request.content.exception() is None:
            request.content.set_exception(web.RequestPayloadError("the framing is broken"))
            request.content.feed_eof()  # else aiohttp, waiting for the rest, logs what we have told

    def _expect_head(self) -> None:
        self._head_by = self._loop.call_later(self._head_timeout, self._give_up_on_head)

    def _head_is_here(self) -> None:
        self._head_begun = False
        if self._head_by is not None:
            self._head_by.cancel()
            self._head_by = None

    def _give_up_on_head(self) -> None:
        self._head_by = None
        if self.transport is None:
            return
        if self._waiter is None and self._request_count:
            # The request before it is still served.
            self._expect_head()
            return
        if not self._head_begun:
            # Opened ahead of need, and never used: nothing was asked, so nothing is answered.
            self.force_close()
            return
        fault = ClientFault("client_timeout", f"No request head arrived within {self._head_timeout:g} s.")
        answer = self._refusal(fault)
        head = f"HTTP/1.1 408 Request Timeout\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        self.transport.write((head + lines + "\r\n").encode() + answer.body)
        self.force_close()

    def _process_keepalive(self) -> None:
        """A connection on which a head is awaited or begun is not idle: that head has a clock of its own."""
        if self._head_by is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    def _stop_waiting(self) -> None:
        if self._emptied is not None:
            self._emptied.set()
        if self.source is not None:
            self.source.resume()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused. What it says of the reason may quote a key, so it is not told.

        Anything else is a fault of ours after the answer began: there is no second answer.
        """
        if status != 400:
            self._journal.error("unforeseen", exception=type(exc).__name__)
            raise ConnectionError
        answer = self._refusal(ClientFault("invalid_request", "This is not a well-formed HTTP request."))
        response = web.Response(
            status=status, body=answer.body, headers=[*answer.headers, ("Server", "tidegate")]
        )
        response.force_close()
        return response

    def _refusal(self, fault: ClientFault) -> _Refusal:
        """An answer for a request that never became one, and its line in the log."""
        record = Record(id=secrets.token_hex(8), status=fault.status, outcome=fault.outcome, error=fault.code)
        if isinstance(self.peername, tuple):
            record.remote = str(self.peername[0])
        self._metrics.refused(record)
        self._journal.exchange(record)
        ours = [("x-tidegate-id", record.id), ("x-tidegate-attempts", "0")]
        headers = [("Content-Type", "application/json"), *fault.headers, *ours]
        return _Refusal(headers, msgspec.json.encode(openai_error(fault)) + b"\n")


class _Refusal(NamedTuple):
    headers: list[tuple[str, str]]
    body: bytes


class Server(web.Server):
    """Makes `ClientConnection`s for one handler."""

    def __init__(self, handle: Handle, shared: Shared, timeouts: ClientTimeouts) -> None:
        super().__init__(handle, request_factory=_request, handler_cancellation=True)
        self._shared = shared
        self.timeouts = timeouts
        """For connections from now on."""

    def __call__(self) -> ClientConnection:
        """A connection; unlike the original, a wrong setting is an error and not dropped."""
        return ClientConnection(self, self._shared, self.timeouts)


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
