"""A client's body, taken in: held when its model may have to be read, streamed through otherwise.

Limits count decompressed bytes, and are checked before a byte is read where the client says how much
it will send.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion, HttpVersion11
from multidict import CIMultiDictProxy

from config.schema import Server
from middlewares.envelope import Envelope
from middlewares.exchange import Body, Unreadable, Upload
from middlewares.faults import ClientFault, ClientGone
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from proxy.wire import RawHeaders, named_by_connection, split_target

JSON_ENDPOINTS = frozenset(
    {
        "/audio/speech",
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/images/generations",
        "/messages",
        "/messages/count_tokens",
        "/moderations",
        "/rerank",
        "/responses",
    }
)
_FORM_ENDPOINTS = ("/audio/", "/images/")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Taken(NamedTuple):
    """A body, and its compressed form if it came in one."""

    body: Body
    encoded: bytes | None


class Content(Protocol):
    """The bytes of a body as they arrive."""

    async def readany(self) -> bytes: ...


class Incoming(Protocol):
    """What is read of a request: aiohttp's, or one that is only thought of."""

    @property
    def method(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def raw_headers(self) -> RawHeaders: ...
    @property
    def body_exists(self) -> bool: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def content(self) -> Content: ...
    @property
    def transport(self) -> asyncio.Transport | None: ...


def opens_websocket(request: Incoming) -> bool:
    """Whether it is a WebSocket's opening handshake (RFC 6455, section 4.1)."""
    headers = request.headers
    return (
        request.method == "GET"
        and request.version >= HttpVersion11
        and not request.body_exists
        and "Sec-WebSocket-Key" in headers
        and headers.get("Upgrade", "").strip().lower() == "websocket"
        and "upgrade" in named_by_connection(headers)
    )


async def take_body(request: Incoming, path: str, limits: Server, count: Callable[[int], None]) -> Taken:
    """Read what has to be read; `count` is told the size of each piece, those of an upload later.

    Raises ClientFault: 408, 413, or 400 for broken framing.
    """
    if opens_websocket(request):
        return Taken(Handshake.parse(split_target(request.raw_path)[1]), None)
    _refuse_codings(request)
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    endpoint = request.method == "POST" and path in JSON_ENDPOINTS
    if not request.body_exists:
        return Taken(_parsed(b"", Envelope.parse) if endpoint else None, None)
    is_form = kind == "multipart/form-data"
    held = is_json or (path.startswith(_FORM_ENDPOINTS) if is_form else endpoint)
    limit = limits.max_body if held else limits.max_upload
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _too_large(limit)
    pieces = _counted(_pieces(request, limits), limit, count)
    if not held:
        upload = Upload(pieces, announced)
        upload.pieces = _noting(upload, pieces)
        return Taken(upload, None)
    raw = b"".join([piece async for piece in pieces])
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if is_form:
        return _decoded(
            raw, encoding, limit, partial(Form.parse, content_type=request.headers["Content-Type"])
        )
    return _decoded(raw, encoding, limit, Envelope.parse)


async def _pieces(request: Incoming, limits: Server) -> AsyncIterator[bytes]:
    _welcome(request)
    content = request.content
    while True:
        try:
            async with asyncio.timeout(limits.timeouts.body_idle):
                piece = await content.readany()
        except TimeoutError:
            raise ClientFault(
                "client_timeout",
                f"The body stopped arriving for {limits.timeouts.body_idle:g} s.",
            ) from None
        except web.RequestPayloadError:
            raise ClientFault("invalid_request", "The body's framing is broken.") from None
        except ConnectionError:
            raise ClientGone from None
        if not piece:
            return
        yield piece


async def _counted(
    pieces: AsyncIterator[bytes], limit: int, count: Callable[[int], None]
) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        count(len(piece))
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        yield piece


async def _noting(upload: Upload, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, with the reason kept should they end in a fault."""
    try:
        async for piece in pieces:
            yield piece
    except ClientFault as fault:
        upload.fault = fault
        raise


def _refuse_codings(request: Incoming) -> None:
    """A transfer coding under the chunks, `gzip, chunked`, would be sent on without a word of it."""
    coding = request.headers.get("Transfer-Encoding", "chunked")
    if coding.strip().lower() != "chunked":
        raise ClientFault(
            "invalid_request",
            "A body in a Transfer-Encoding other than chunked cannot be read.",
            param="transfer-encoding",
        )


def _welcome(request: Incoming) -> None:
    """Let a client that waits for it go on (RFC 9110, section 10.1.1)."""
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= HttpVersion11 and request.transport is not None:
        request.transport.write(_CONTINUE)


def _decoded(raw: bytes, encoding: str, limit: int, parse: Callable[[bytes], Envelope | Form]) -> Taken:
    if encoding in ("", "identity"):
        return Taken(_parsed(raw, parse), None)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        fault = ClientFault(
            "invalid_request",
            f"A body in Content-Encoding {encoding[:20]!r} cannot be read; send gzip or none.",
            param="content-encoding",
        )
        return Taken(Unreadable(raw, fault), raw)
    # "deflate" means the zlib format (RFC 9110, 8.4.1.2), and bare deflate in the field.
    for window in (15, -15) if encoding == "deflate" else (31,):
        data = _inflate(raw, window, limit)
        if data is not None:
            return Taken(_parsed(data, parse), raw)
    raise ClientFault("invalid_request", f"The body is not valid {encoding}.", param="content-encoding")


def _inflate(raw: bytes, window: int, limit: int) -> bytes | None:
    """What `raw` unpacks to, all members of it (RFC 1952, section 2.2); None if it is not whole."""
    data = b""
    while raw:
        inflater = zlib.decompressobj(window)
        try:
            data += inflater.decompress(raw, limit + 1 - len(data))
        except zlib.error:
            return None
        if len(data) > limit:
            raise _too_large(limit)
        if not inflater.eof:
            return None
        raw = inflater.unused_data
    return data


def _parsed(raw: bytes, parse: Callable[[bytes], Envelope | Form]) -> Envelope | Form | Unreadable:
    try:
        return parse(raw)
    except ClientFault as fault:
        return Unreadable(raw, fault)


def _too_large(limit: int) -> ClientFault:
    return ClientFault("body_too_large", f"The body is larger than {limit} bytes.")
