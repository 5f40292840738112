"""The only caller of a provider, and the only place where aiohttp's errors become faults.

Requests are made of aiohttp's parts (its connector, request and response) without its session: a
session repeats requests silently, follows redirects, keeps cookies and adds headers, all of which a
proxy has to switch off again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import NamedTuple

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_reqrep import ClientRequest
from multidict import CIMultiDict
from yarl import URL

from middlewares.bodies import Gate
from middlewares.commit import observed, ready
from middlewares.envelope import Envelope
from middlewares.exchange import Exchange, Reply, Sink, Unreadable, Upload
from middlewares.faults import UpstreamFault
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from proxy.pool import Pool, ProviderConnection
from proxy.tunnel import Tunnel
from proxy.ways import Way
from proxy.wire import downward, upward_query

_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_INVENTED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_OF_A_BODY = ("Content-Length", "Content-Type", "Content-Encoding")
_READ_BUFFER = 64 * 1024
_MAX_HEAD_FIELD = 32 * 1024


class Client:
    """Connections to all providers; to be made in a running loop and closed there.

    One pool keeps connections; the other's are always new, for uploads and for the one replacement of
    a pooled connection that turned out to be dead.
    """

    def __init__(self) -> None:
        self._kept = Pool(keep=True)
        self._new = Pool(keep=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._kept.close()
        await self._new.close()

    async def call(self, exchange: Exchange, way: Way, url: URL) -> aiohttp.ClientResponse:
        """Send the exchange to `url` by that way; return at the answer's head. Raises UpstreamFault."""
        call = _Call(exchange)
        if isinstance(exchange.body, Handshake):
            # Whatever becomes of it, this connection carries nothing else.
            return await self._send(self._new, call, way, url)
        if isinstance(exchange.body, Upload):
            # It cannot be sent twice, so it must not meet a connection that may have died.
            try:
                return await self._send(self._new, call, way, url)
            except UpstreamFault:
                if exchange.body.fault is not None:
                    raise exchange.body.fault from None
                raise
        try:
            return await self._send(self._kept, call, way, url)
        except UpstreamFault as fault:
            if fault.code != "upstream_reset" or not call.died_unnoticed:
                raise
        # A pooled connection that died unnoticed: nothing was lost but the time to see it.
        exchange.watch.new_attempt()
        return await self._send(self._new, call, way, url)

    async def _send(self, pool: Pool, call: _Call, way: Way, url: URL) -> aiohttp.ClientResponse:
        request = ClientRequest(
            call.exchange.inbound.method,
            url,
            headers=call.headers,
            skip_auto_headers=_INVENTED,
            data=call.payload(),
            loop=asyncio.get_running_loop(),
            ssl=way.ssl,
            proxy=way.proxy,
            proxy_auth=way.login,
        )
        route = call.exchange.route
        with ExitStack() as undo:
            with _as_unreachable(route):
                connection = await pool.connect(request, traces=[], timeout=_NO_LIMIT)
            undo.callback(connection.close)
            undo.enter_context(_as_faults(route))
            protocol = connection.protocol
            assert isinstance(protocol, ProviderConnection)
            protocol.set_response_params(
                skip_payload=request.method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                max_field_size=_MAX_HEAD_FIELD,
            )
            call.connected(protocol)
            response = await request.send(connection)
            undo.callback(response.close)
            await response.start(connection)
            # From here on the response owns the connection, and the exchange closes the response.
            undo.pop_all()
            return response


class Upstream:
    """One route's provider: the innermost handler of its chain."""

    def __init__(self, client: Client, way: Way) -> None:
        self._client = client
        self._way = way

    async def __call__(self, exchange: Exchange) -> Reply:
        """Make one attempt; the reply is ready to be committed."""
        return await exchange.attempt(self._ask)

    async def _ask(self, exchange: Exchange) -> Reply:
        url = URL(address(self._way.base, exchange), encoded=True)
        async with exchange.watch.guard():
            response = await self._client.call(exchange, self._way, url)
        exchange.stack.callback(response.close)
        if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._way.by_proxy:
            raise UpstreamFault(
                "upstream_connect", f"The proxy of {exchange.route!r} refused the connection (407)."
            )
        exchange.note_head()
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS and isinstance(exchange.body, Handshake):
            headers = _headers_down(response)
            for name in _OF_A_BODY:
                headers.popall(name, None)
            return Reply(response.status, headers, _tunnel(exchange, response))
        _refuse_misplaced(exchange, response)
        reply = Reply(response.status, _headers_down(response), ResponseBody(response, exchange))
        return await ready(exchange, observed(exchange, reply))


def address(base: str, exchange: Exchange) -> str:
    """Where it goes: `base` without a slash at its end, what follows `/v1`, and the query that may go up."""
    query = upward_query(exchange.query)
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


class ResponseBody(Gate):
    """The body of an aiohttp response, pushed."""

    __slots__ = ("_exchange", "_response")

    def __init__(self, response: aiohttp.ClientResponse, exchange: Exchange) -> None:
        super().__init__()
        self._response = response
        self._exchange = exchange

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
                upload = self._exchange.body
                if isinstance(upload, Upload) and upload.fault is not None:
                    raise upload.fault from None
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

    __slots__ = ("_connection", "_data", "exchange", "headers")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.headers, self._data = outgoing(exchange)
        self._connection: ProviderConnection | None = None

    @property
    def died_unnoticed(self) -> bool:
        """The connection came from the pool, and failed before a byte of the answer."""
        connection = self._connection
        return connection is not None and connection.reused and not connection.answered

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

    def connected(self, connection: ProviderConnection) -> None:
        self._connection = connection
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


@contextmanager
def _as_unreachable(route: str) -> Iterator[None]:
    """Until the connection stands, whatever goes wrong is one thing: names, sockets, TLS, a proxy."""
    try:
        yield
    except aiohttp.ClientHttpProxyError as error:
        raise UpstreamFault(
            "upstream_connect", f"The proxy of {route!r} refused the connection ({error.status})."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamFault("upstream_connect", f"No connection to the provider of {route!r}.") from error


@contextmanager
def _as_faults(route: str) -> Iterator[None]:
    """Map what aiohttp raises before the head of an answer."""
    try:
        yield
    except aiohttp.ClientResponseError as error:
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {route!r} did not answer in HTTP."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamFault(
            "upstream_reset", f"The provider of {route!r} closed the connection without an answer."
        ) from error


def _headers_down(response: aiohttp.ClientResponse) -> CIMultiDict[str]:
    return downward(response.headers, response.raw_headers)


def _tunnel(exchange: Exchange, response: aiohttp.ClientResponse) -> Tunnel:
    protocol = response.connection.protocol if response.connection is not None else None
    if response.headers.get("Upgrade", "").strip().lower() != "websocket" or protocol is None:
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {exchange.route!r} switched to what is no WebSocket."
        )
    assert isinstance(protocol, ProviderConnection)
    return Tunnel(response, protocol, exchange)


def _refuse_misplaced(exchange: Exchange, response: aiohttp.ClientResponse) -> None:
    """Neither what is no answer, nor framing we cannot read, nor a redirect of a body and of the key."""
    codings = [line.strip().lower() for line in response.headers.getall("Transfer-Encoding", ())]
    # aiohttp's parser takes `Content-Length : 2`, and leaves the space in the name: we would not know the
    # header for what it is, and would send it on beside a framing of our own.
    spaced = any(" " in name for name in response.headers)
    if not 200 <= response.status <= 599 or spaced or set(codings) - {"chunked"}:
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {exchange.route!r} answered what is not HTTP."
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
