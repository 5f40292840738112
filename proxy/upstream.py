"""The only caller of a provider, and the only place where aiohttp's errors become faults.

One `Client` a process, two sessions: one that pools connections, and one whose connections are
always new, for the one replacement of a pooled connection that turned out to be dead. aiohttp's own
silent retry is off: it would also repeat what failed on a new connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from middlewares.bodies import Gate
from middlewares.commit import observed, ready
from middlewares.envelope import Envelope
from middlewares.exchange import Exchange, Reply, Sink, Unreadable, Upload
from middlewares.faults import UpstreamFault
from proxy.wire import downward, upward_query

_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_INVENTED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Client:
    """Connections to all providers; to be made in a running loop and closed there."""

    def __init__(self) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_connected)
        trace.on_connection_reuseconn.append(_reused)
        self._pooled = _session(trace, aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=120))
        self._fresh = _session(trace, aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=120))

    async def close(self) -> None:
        """Close every connection."""
        await self._pooled.close()
        await self._fresh.close()

    async def call(self, exchange: Exchange, url: URL) -> aiohttp.ClientResponse:
        """Send the exchange; return at the answer's head. Raises UpstreamFault."""
        call = _Call(exchange)
        # An upload cannot be sent twice, so it must not meet a connection that may have died.
        session = self._pooled if call.repeatable else self._fresh
        try:
            return await self._send(session, call, url)
        except UpstreamFault as fault:
            if isinstance(exchange.body, Upload) and exchange.body.fault is not None:
                raise exchange.body.fault from None
            if not call.reused or not _before_any_byte(fault):
                raise
        # A pooled connection that died unnoticed: nothing was lost but the time to see it.
        exchange.watch.new_attempt()
        return await self._send(self._fresh, call, url)

    async def _send(self, session: aiohttp.ClientSession, call: _Call, url: URL) -> aiohttp.ClientResponse:
        exchange = call.exchange
        with _as_faults(exchange.route):
            return await session.request(
                exchange.inbound.method,
                url,
                data=call.payload(),
                headers=call.headers,
                allow_redirects=False,
                trace_request_ctx=call,
            )


class Upstream:
    """One route's provider: the innermost handler of its chain."""

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base.rstrip("/")

    async def __call__(self, exchange: Exchange) -> Reply:
        """Make one attempt; the reply is ready to be committed."""
        exchange.begin_attempt()
        query = upward_query(exchange.query)
        url = URL(self._base + exchange.inbound.path + (f"?{query}" if query else ""), encoded=True)
        async with exchange.watch.guard():
            response = await self._client.call(exchange, url)
        exchange.stack.callback(response.close)
        exchange.note_head()
        _end_body_with_its_connection(response)
        _refuse_misplaced(exchange, response)
        reply = Reply(response.status, downward(response.headers), ResponseBody(response))
        return await ready(exchange, observed(exchange, reply))


class ResponseBody(Gate):
    """The body of an aiohttp response, pushed."""

    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__()
        self._response = response

    async def pump(self, sink: Sink) -> bool:
        """Hand over whatever has arrived, as often as something has. Raises `upstream_cut`."""
        content = self._response.content
        self.halted = False
        while True:
            # Before reading, not after writing: a piece that was held may have closed the gate.
            await self.passed()
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamFault("upstream_cut", "The provider broke off its answer.") from error
            if not chunk:
                return True
            sink(chunk)
            if self.halted:
                return False

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        self._response.close()


class _Call:
    """What one call needs, made once for both of its possible sends."""

    __slots__ = ("_data", "exchange", "headers", "reused")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.reused = False
        self.headers: CIMultiDict[str] = exchange.headers.copy()
        body = exchange.body
        self._data: bytes | Upload | None
        if isinstance(body, Envelope):
            if exchange.encoded is not None and body.untouched:
                self._data = exchange.encoded
            else:
                if exchange.encoded is not None:
                    self.headers.popall("Content-Encoding", None)
                self._data = body.encode()
        elif isinstance(body, Unreadable):
            self._data = exchange.encoded or body.raw
        else:
            self._data = body
        if isinstance(body, Envelope | Unreadable):
            self.headers["Accept-Encoding"] = "identity"

    @property
    def repeatable(self) -> bool:
        return not isinstance(self._data, Upload)

    def payload(self) -> payload.Payload | None:
        """The body as aiohttp sends it; the clocks learn when its last byte is out."""
        data = self._data
        if data is None:
            return None
        if isinstance(data, Upload):
            if data.length is not None:
                self.headers["Content-Length"] = str(data.length)
            return _UploadPayload(data.pieces, self)
        return _HeldPayload(data, self)

    def connected(self) -> None:
        self.exchange.watch.stop("connect")
        if self._data is None:
            self.sent()

    def sent(self) -> None:
        watch = self.exchange.watch
        if self.exchange.head_at is None:
            watch.start("first_byte")
            if self.exchange.streaming:
                watch.start("first_token")


class _HeldPayload(payload.Payload):
    """Bytes in memory, written in pieces so that a large body does not hold up the loop."""

    _PIECE = 256 * 1024

    def __init__(self, data: bytes, call: _Call) -> None:
        super().__init__(data)
        self._size = len(data)
        self._call = call

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise NotImplementedError("a body is sent, never shown")

    async def write(self, writer: AbstractStreamWriter) -> None:
        data: bytes = self._value
        if len(data) <= self._PIECE:
            await writer.write(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), self._PIECE):
                await writer.write(view[start : start + self._PIECE])
        self._call.sent()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)


class _UploadPayload(payload.Payload):
    """A body that is still arriving from the client."""

    def __init__(self, pieces: AsyncIterator[bytes], call: _Call) -> None:
        super().__init__(pieces)
        self._call = call

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise NotImplementedError("a body is sent, never shown")

    async def write(self, writer: AbstractStreamWriter) -> None:
        async for piece in self._value:
            await writer.write(piece)
        self._call.sent()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)


def _session(trace: aiohttp.TraceConfig, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        skip_auto_headers=_INVENTED,
        timeout=_NO_LIMIT,
        read_bufsize=2**16,
        max_field_size=32 * 1024,
        trace_configs=[trace],
    )
    # There is no public switch (aiohttp#10790); aiohttp's own test client does the same.
    session._retry_connection = False
    return session


async def _connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _: Any) -> None:
    context.trace_request_ctx.connected()


async def _reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _: Any) -> None:
    context.trace_request_ctx.reused = True
    context.trace_request_ctx.connected()


def _before_any_byte(fault: UpstreamFault) -> bool:
    """Whether the connection failed without a byte of an answer: aiohttp keeps a head that was begun."""
    cause = fault.__cause__
    begun = isinstance(cause, aiohttp.ServerDisconnectedError) and not isinstance(cause.message, str)
    return fault.code == "upstream_reset" and not begun


@contextmanager
def _as_faults(route: str) -> Iterator[None]:
    """Map what aiohttp raises before the head of an answer."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ClientSSLError) as error:
        raise UpstreamFault("upstream_connect", f"No connection to the provider of {route!r}.") from error
    except aiohttp.ClientResponseError as error:
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {route!r} did not answer in HTTP."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamFault(
            "upstream_reset", f"The provider of {route!r} closed the connection without an answer."
        ) from error


def _end_body_with_its_connection(response: aiohttp.ClientResponse) -> None:
    """Wake whoever reads the body when its framing breaks: aiohttp closes the connection and says nothing."""
    if response.connection is None or response.connection.protocol is None:
        return
    content, closed = response.content, response.connection.protocol.closed

    def wake(_: object) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection ended before the answer"))

    if closed is not None:
        closed.add_done_callback(wake)


def _refuse_misplaced(exchange: Exchange, response: aiohttp.ClientResponse) -> None:
    """Neither a switch of protocols nor a redirect of a body, and of the key, to another host."""
    if response.status < 200:
        raise UpstreamFault(
            "upstream_protocol",
            f"The provider of {exchange.route!r} switched protocols without being asked.",
        )
    if exchange.body is None or not 300 <= response.status < 400 or response.status == 304:
        return
    place = response.headers.get("Location", "")
    try:
        host = URL(place).host
    except ValueError:
        host = None
    raise UpstreamFault(
        "upstream_protocol",
        f"The provider of {exchange.route!r} redirects to {host or 'another place'}; "
        "redirects are not followed.",
    )
