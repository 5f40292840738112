"""The only writer to a client: the answer's head, its body as it comes, and an honest end.

We write the bytes ourselves, on the transport of aiohttp's server, because its own response can
neither send head and first piece together nor be told to break off: an answer that was cut must not
look complete. Framing follows RFC 9112, section 6: chunked for HTTP/1.1 when the length is not known,
the end of the connection for HTTP/1.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus

import msgspec
from aiohttp import web
from aiohttp.http import HttpVersion11

from middlewares.bodies import read_up_to
from middlewares.clocks import Timer, Watch
from middlewares.exchange import Reply
from middlewares.faults import ClientGone, Fault, UpstreamFault, anthropic_error, openai_error
from middlewares.observation import Dialect, decode
from proxy.kernel import LAST_BYTES_WITHIN_MS, close_with_reset, give_up_after
from proxy.patience import PING, Patience
from proxy.server import ClientConnection
from proxy.tunnel import FromClient, Tunnel

Headers = Iterable[tuple[str, str]]

_TOLD_AT_MOST = 64 * 1024
_BODILESS = frozenset({204, 304})
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_JSON = "application/json"
_NO_STREAM = "The provider answered {} with what is no stream."


class Written(web.StreamResponse):
    """Tells aiohttp's server that the answer is out already, and whether the connection stays."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to do: the head was written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to do: the end was written, or is withheld on purpose."""


class Downstream:
    """One answer to one request."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_framed",
        "_head_only",
        "_keep",
        "_patience",
        "_pinged",
        "_reply",
        "_request",
        "bytes_out",
        "ended",
        "status",
    )

    def __init__(self, request: web.BaseRequest, connection: ClientConnection) -> None:
        self._request = request
        self._connection = connection
        self._chunked = False
        self._head_only = False
        self._keep = request.keep_alive
        self._framed = True
        self._reply: Reply | None = None
        self._patience: Patience | None = None
        self._pinged = False
        self.ended = False
        self.status = 0
        self.bytes_out = 0

    @property
    def started(self) -> bool:
        """Whether the head is out: from here on there is no second answer."""
        return self.status != 0

    @property
    def stalled(self) -> bool:
        """Whether the client takes nothing at the moment."""
        return self._connection.writing_paused

    @property
    def result(self) -> Written:
        """What the server is to be given."""
        return Written(keep=self._keep and self.ended)

    def keep_patient(self, every: float, headers: Headers, timer: Timer) -> None:
        """Send a comment whenever nothing was sent for `every` seconds, and the head of a stream before it.

        It commits to a stream, and to nobody who would answer it. Another rung may say it anew; what the
        client has waited already counts.
        """
        since = None if self._patience is None else self._patience.since
        self.rest()

        def ping() -> None:
            try:
                self._ping(headers)
            except ClientGone:
                self.rest()

        self._patience = Patience(every, timer, ping, since=since)

    def rest(self) -> None:
        """Nothing is sent by itself any more."""
        if self._patience is not None:
            self._patience.stop()
            self._patience = None

    def _ping(self, headers: Headers) -> None:
        if self.ended or self.stalled:
            return
        if not self.started:
            self._pinged = True
            stream = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no"), *headers]
            self.start(200, stream, PING)
        elif self._reply is None or self._reply.body.between_events:
            self.write(PING)

    def close_after(self) -> None:
        """Do not keep the connection after this answer."""
        self._keep = False

    def start(self, status: int, headers: Headers, first: bytes = b"") -> None:
        """Write the head, and the first piece of the body with it."""
        self.status = status
        lines = [(name, value) for name, value in headers]
        names = {name.lower() for name, _ in lines}
        self._head_only = self._request.method == "HEAD" or status in _BODILESS
        content = self._request.content
        if not content.is_eof() or content.exception() is not None:
            # What is left of the request's body would be read as the next request.
            self._keep = False
        if self._connection.spent:
            self._keep = False
        if status == 204:
            lines = [line for line in lines if line[0].lower() != "content-length"]
        elif not self._head_only and "content-length" not in names:
            if self._request.version >= HttpVersion11:
                self._chunked = True
                lines.append(("Transfer-Encoding", "chunked"))
            else:
                self._framed = self._keep = False
        if "date" not in names:
            lines.append(("Date", formatdate(time.time(), usegmt=True)))
        if not self._keep:
            lines.append(("Connection", "close"))
        elif self._request.version < HttpVersion11:
            lines.append(("Connection", "keep-alive"))
        self._put(_head(status, lines), first)

    def write(self, piece: bytes) -> None:
        """Write one piece of the body."""
        self._put(b"", piece)

    def end(self) -> None:
        """Say that the answer is complete."""
        self.rest()
        self.ended = True
        if self._chunked:
            self._send(b"0\r\n\r\n")

    def break_off(self) -> None:
        """End without saying so: the client must see that something is missing.

        Where only the end of the connection would tell, it is reset: a plain close is how a complete
        answer ends there.
        """
        self._keep = False
        self.ended = False
        transport = self._request.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if self._framed:
            give_up_after(sock, LAST_BYTES_WITHIN_MS)
            transport.close()
            return
        close_with_reset(sock)
        transport.abort()

    def _may_tell(self) -> bool:
        reply = self._reply
        if reply is None:
            return self._pinged
        if reply.seen is None or not reply.body.between_events:
            return False
        return reply.seen.error is None

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer at once."""
        self.start(status, [*headers, ("Content-Length", str(len(body)))], body)
        self.end()

    def _put(self, head: bytes, piece: bytes) -> None:
        if self._head_only or not piece:
            frame = head
        elif self._chunked:
            frame = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
        else:
            frame = head + piece
        if not self._head_only:
            self.bytes_out += len(piece)
        if frame:
            self._send(frame)

    def _send(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        transport.write(data)
        if self._patience is not None:
            self._patience.moved()

    async def relay(self, reply: Reply, headers: Headers, watch: Watch, dialect: Dialect) -> None:
        """Send `reply` as it arrives, under its run's clocks. Raises the Fault that its body ends with.

        Where comments have made a stream of the answer already, what is none is told as an error in it.
        """
        if self._pinged and reply.status < 400 and reply.events is None:
            raise UpstreamFault("upstream_protocol", _NO_STREAM.format(reply.status))
        if self._pinged and reply.status >= 400:
            pieces, _ = await read_up_to(_TOLD_AT_MOST, reply.body)
            self.write(answer_event(reply.status, b"".join(pieces), dialect))
            self.break_off()
            return
        body = reply.body
        self._reply = reply

        def send(piece: bytes) -> None:
            if self.started:
                self.write(piece)
            else:
                self.start(reply.status, headers, piece)
            for tap in reply.taps:
                tap.feed(piece)

        self._connection.source = body
        watch.moved = self._connection.took_bytes
        try:
            if reply.eager and not self.started:
                self.start(reply.status, headers)
            await body.pump(send)
            if not self.started:
                self.start(reply.status, headers)
            self.end()
        finally:
            self._connection.source = None
        await self._taken(watch)

    async def _taken(self, watch: Watch) -> None:
        """Wait until the kernel has the last byte; until then the client may still be too slow."""
        watch.start("idle")
        async with watch.guard():
            await self._connection.emptied()
        watch.stop("idle")

    async def tunnel(
        self, reply: Reply, tunnel: Tunnel, headers: Headers, watch: Watch, count: Callable[[int], None]
    ) -> None:
        """Switch protocols, and be a pipe both ways until the provider ends it; `count` is told what comes.

        Raises the Fault that it ends with.
        """
        connection = self._connection
        self._keep = False
        self._reply = reply
        self.status = reply.status
        lines = [*headers, ("Connection", "Upgrade"), ("Upgrade", "websocket")]
        self._send(_head(reply.status, lines))
        connection.source = tunnel
        watch.moved = lambda: any([connection.took_bytes(), tunnel.took_bytes()])
        tunnel.listen_to(connection)
        connection.hand_to(FromClient(tunnel, count))
        try:
            await tunnel.pump(self.write)
            self.end()
        finally:
            connection.source = None
        if connection.transport is not None:
            give_up_after(connection.transport.get_extra_info("socket"), LAST_BYTES_WITHIN_MS)
        await self._taken(watch)

    def fail(self, fault: Fault, dialect: Dialect) -> None:
        """After the head: tell the fault where that can be done, and break off.

        In an event stream it is one event, and only where it cannot be taken for a part of another;
        an error that the provider has told in the stream already is not told twice.
        """
        transport = self._request.transport
        if self.ended:
            # The answer is whole, but the client does not take its last bytes.
            self._keep = self.ended = False
            if transport is not None:
                transport.abort()
            return
        if self._may_tell() and transport is not None and not transport.is_closing():
            self.write(error_event(fault, dialect))
        self.break_off()


def error_answer(down: Downstream, fault: Fault, dialect: Dialect, headers: Headers) -> None:
    """Write an error that was made here, in the shape that the endpoint's clients expect."""
    shape = anthropic_error(fault) if dialect == "messages" else openai_error(fault)
    down.answer(
        fault.status,
        [("Content-Type", _JSON), *fault.headers, *headers],
        msgspec.json.encode(shape) + b"\n",
    )


def error_event(fault: Fault, dialect: Dialect) -> bytes:
    """A fault as the one event that ends a stream."""
    if dialect == "messages":
        return b"event: error\ndata: " + msgspec.json.encode(anthropic_error(fault)) + b"\n\n"
    shape = openai_error(fault)
    if dialect == "responses":
        told = {"type": "error", "code": fault.code, "message": fault.message, "param": None, **shape}
        return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"
    return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def answer_event(status: int, body: bytes, dialect: Dialect) -> bytes:
    """The error of an answer that is no stream as the one event that ends one.

    Raises UpstreamFault where it holds none.
    """
    error = decode(body).get("error")
    if error is None:
        raise UpstreamFault("upstream_protocol", _NO_STREAM.format(status))
    if dialect in ("messages", "responses"):
        told = {"type": "error", "error": error}
        if dialect == "responses" and isinstance(error, dict):
            told |= {name: error.get(name) for name in ("code", "message", "param")}
        return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


def _head(status: int, lines: Headers) -> bytes:
    text = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in lines
    )
    # Upstream bytes that are not UTF-8 were read as surrogates; they leave as they came.
    return (text + "\r\n").encode("utf-8", "surrogateescape")
