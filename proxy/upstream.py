"""The only caller of a provider, and the only place where what goes wrong there becomes a fault.

aiohttp's connector dials, through proxies and with TLS, and keeps connections; what is said on them is
ours (`sending`, `answers`). Its session, requests and responses are not used: they repeat requests
silently, follow redirects, keep cookies, add headers, and take most of a request's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from multidict import CIMultiDictProxy
from yarl import URL

from middlewares.commit import observed, ready
from middlewares.exchange import Exchange, Reply, Upload
from middlewares.faults import UpstreamFault
from middlewares.handshake import Handshake
from proxy.answers import Answer
from proxy.pool import Destination, Pool, ProviderConnection
from proxy.sending import Outgoing, Sending, address, head_of, outgoing
from proxy.tunnel import Tunnel
from proxy.ways import Way
from proxy.wire import downward

_OF_A_BODY = ("Content-Length", "Content-Type", "Content-Encoding")


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

    async def call(self, exchange: Exchange, there: Place) -> Answer:
        """Send the exchange; return at the answer's head. Raises UpstreamFault, or what ended an upload."""
        parcel = outgoing(exchange)
        upload = parcel.data if isinstance(parcel.data, Upload) else None
        # What cannot be sent twice must not meet a connection that may have died; and a WebSocket's carries
        # nothing else, whatever becomes of it.
        pool = self._kept if upload is None and not isinstance(exchange.body, Handshake) else self._new
        try:
            return await self._send(pool, exchange, there, parcel)
        except _DiedUnnoticed:
            # Nothing was lost but the time to see it.
            exchange.watch.new_attempt()
            return await self._send(self._new, exchange, there, parcel)
        except UpstreamFault:
            if upload is not None and upload.fault is not None:
                raise upload.fault from None
            raise

    async def _send(self, pool: Pool, exchange: Exchange, there: Place, parcel: Outgoing) -> Answer:
        with _as_unreachable(exchange.route):
            lease = await pool.lease(there.destination())
        connection = lease.protocol
        assert isinstance(connection, ProviderConnection)
        method = exchange.inbound.method
        answer = connection.carry(lease, exchange.route, head_only=method == "HEAD")
        try:
            exchange.watch.stop("connect")
            connection.sending = sending = Sending(connection, lambda: _sent(exchange))
            sending.send(
                head_of(f"{method} {there.target(exchange)} HTTP/1.1", there.lines, parcel), parcel.data
            )
            await answer.head()
        except BaseException as error:
            answer.close()
            if isinstance(error, UpstreamFault) and connection.reused and not connection.answered:
                raise _DiedUnnoticed(error.code, error.message) from error.__cause__
            raise
        return answer


class _DiedUnnoticed(UpstreamFault):
    """The connection came from the pool, and failed before a byte of the answer."""


def _sent(exchange: Exchange) -> None:
    watch = exchange.watch
    if exchange.head_at is None:
        watch.start("first_byte")
        if exchange.streaming:
            watch.start("first_token")


class Place:
    """Where one route's requests go, as its connections and its request lines name it."""

    def __init__(self, way: Way) -> None:
        self._way = way
        url = URL(way.base, encoded=True)
        login = f"Proxy-Authorization: {way.login.encode()}" if way.by_proxy and way.login else None
        self.lines = (f"Host: {url.host_port_subcomponent or ''}", *([login] if login else []))
        """The first header lines of each request."""
        self._path = url.raw_path.rstrip("/")
        self._destination: Destination | None = None

    def destination(self) -> Destination:
        """For the connector; made when there is a loop."""
        if self._destination is None:
            way = self._way
            request = ClientRequest(
                "GET",
                URL(way.base, encoded=True),
                loop=asyncio.get_running_loop(),
                ssl=way.ssl,
                proxy=way.proxy,
                proxy_auth=way.login,
            )
            self._destination = Destination(request)
        return self._destination

    def target(self, exchange: Exchange) -> str:
        """What stands in the request line: an HTTP proxy that reads the request needs all of the address."""
        return address(self._way.base if self._way.by_proxy else self._path, exchange)


class Upstream:
    """One route's provider: the innermost handler of its chain."""

    def __init__(self, client: Client, way: Way) -> None:
        self._client = client
        self._way = way
        self._place = Place(way)

    async def __call__(self, exchange: Exchange) -> Reply:
        """Make one attempt; the reply is ready to be committed."""
        return await exchange.attempt(self._ask)

    async def _ask(self, exchange: Exchange) -> Reply:
        async with exchange.watch.guard():
            answer = await self._client.call(exchange, self._place)
        exchange.stack.callback(answer.close)
        if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._way.by_proxy:
            raise UpstreamFault(
                "upstream_connect", f"The proxy of {exchange.route!r} refused the connection (407)."
            )
        exchange.note_head()
        headers = CIMultiDictProxy(answer.headers)
        if answer.status == HTTPStatus.SWITCHING_PROTOCOLS and isinstance(exchange.body, Handshake):
            down = downward(headers, answer.raw_headers)
            for name in _OF_A_BODY:
                down.popall(name, None)
            return Reply(answer.status, down, _tunnel(exchange, answer))
        _refuse_misplaced(exchange, answer)
        body = exchange.body
        if isinstance(body, Upload):
            answer.broken_by = lambda: body.fault
        reply = Reply(answer.status, downward(headers, answer.raw_headers), answer)
        return await ready(exchange, observed(exchange, reply))


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


def _tunnel(exchange: Exchange, answer: Answer) -> Tunnel:
    if answer.headers.get("Upgrade", "").strip().lower() != "websocket":
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {exchange.route!r} switched to what is no WebSocket."
        )
    assert isinstance(answer.line, ProviderConnection)
    return Tunnel(answer, answer.line, exchange)


def _refuse_misplaced(exchange: Exchange, answer: Answer) -> None:
    """Neither what is no answer, nor framing we cannot read, nor a redirect of a body and of the key."""
    codings = [line.strip().lower() for line in answer.headers.getall("Transfer-Encoding", ())]
    # aiohttp's parser takes `Content-Length : 2`, and leaves the space in the name: we would not know the
    # header for what it is, and would send it on beside a framing of our own.
    spaced = any(" " in name for name in answer.headers)
    if not 200 <= answer.status <= 599 or spaced or set(codings) - {"chunked"}:
        raise UpstreamFault(
            "upstream_protocol", f"The provider of {exchange.route!r} answered what is not HTTP."
        )
    if exchange.body is None or not 300 <= answer.status < 400 or answer.status == 304:
        return
    place = answer.headers.get("Location", "")
    try:
        host = URL(place).host
    except ValueError:
        host = None
    raise UpstreamFault(
        "upstream_protocol",
        f"The provider of {exchange.route!r} redirects to {host or 'another place'}; "
        "redirects are not followed.",
    )
