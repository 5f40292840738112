"""HTTP/1.1 messages as they are on the wire, read strictly: what is wrong is refused and never repaired."""

from __future__ import annotations

import asyncio
import re

Headers = tuple[tuple[str, str], ...]

HEAD_LIMIT = 1 << 20
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_HEX = re.compile(rb"[0-9A-Fa-f]+")


class Malformed(Exception):
    """The peer sent something that is no HTTP/1.1."""


def header(headers: Headers, name: str) -> str | None:
    """The first value of a header whatever its spelling, or None."""
    return next((value for key, value in headers if key.lower() == name.lower()), None)


def tokens(headers: Headers, name: str) -> set[str]:
    """The comma-separated tokens of every header of that name, in lower case."""
    values = (value for key, value in headers if key.lower() == name.lower())
    return {token.strip().lower() for value in values for token in value.split(",") if token.strip()}


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Headers] | None:
    """The start line and the headers in their order and spelling; None if the peer closed before them."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    return parse_head(block[:-4])


def parse_head(block: bytes) -> tuple[str, Headers]:
    """The start line and the headers of a head, given without the empty line that ends it."""
    first, *lines = block.decode("latin-1").split("\r\n")
    return first, tuple(_field(line) for line in lines)


def _field(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Malformed(f"header line {line!r}")
    return match[1], match[2]


def framing(headers: Headers) -> tuple[bool, int | None]:
    """(chunked, length): how the body is delimited; (False, None) when the headers do not say."""
    lengths = [value for key, value in headers if key.lower() == "content-length"]
    codings = [value.lower() for key, value in headers if key.lower() == "transfer-encoding"]
    if codings not in ([], ["chunked"]) or len(lengths) > 1 or (codings and lengths):
        raise Malformed(f"framing: Transfer-Encoding {codings}, Content-Length {lengths}")
    if lengths and not re.fullmatch(r"[0-9]+", lengths[0]):
        raise Malformed(f"Content-Length {lengths[0]!r}")
    return bool(codings), int(lengths[0]) if lengths else None


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """The data of one chunk; b"" for the terminating one, whose trailers are read and dropped."""
    length = chunk_size(await reader.readuntil(b"\r\n"))
    if length == 0:
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b""
    data = await reader.readexactly(length + 2)
    if not data.endswith(b"\r\n"):
        raise Malformed("a chunk that is longer than its size")
    return data[:-2]


def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line, with its CRLF, says."""
    size = line[:-2].partition(b";")[0].strip()
    if not _HEX.fullmatch(size):
        raise Malformed(f"chunk size {line!r}")
    return int(size, 16)


async def read_body(reader: asyncio.StreamReader, headers: Headers, *, to_end: bool) -> bytes:
    """The whole decoded body; when the headers do not delimit it, what comes `to_end`, or nothing."""
    chunked, length = framing(headers)
    if chunked:
        parts = []
        while part := await read_chunk(reader):
            parts.append(part)
        return b"".join(parts)
    if length is not None:
        return await reader.readexactly(length)
    return await reader.read() if to_end else b""
