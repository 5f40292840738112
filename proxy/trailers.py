"""Whether the parser of a client's connection may still be trusted after a chunked body.

aiohttp's parser (3.14) keeps the last trailer of a chunked request and takes it for the first header of
the next request on that connection, where it would count as that client's word: a provider, a key.
Nothing tells that there were trailers, but a body without any ends in one way only.
Source: RFC 9112, section 7.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp.streams import StreamReader

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Trailers:
    """One connection's; `stained` says that no further request on it can be believed."""

    __slots__ = ("_body", "_end", "stained")

    def __init__(self) -> None:
        self.stained = False
        self._end = b""
        self._body: StreamReader | None = None

    def feed(self, data: bytes, messages: Iterable[tuple[Any, StreamReader]]) -> None:
        """The bytes that came, and the requests (head, body) that began within them."""
        self._end = (self._end + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        for message, body in messages:
            # It came in one piece with the end of a chunked body, which nobody looked at.
            self.stained = self.stained or self._body is not None
            self._body = body if getattr(message, "chunked", False) else None
        if self._body is not None and self._body.is_eof():
            self.stained = self.stained or self._end != _LAST_CHUNK
            self._body = None
