"""`usage`: the tokens that an answer says it cost, in the log and the metrics.

A stream says so only when asked, by `stream_options.include_usage`; this asks for it where the client
did not, and takes the extra event, which has no choices and would break clients that expect one, out of
the stream again. Everything else in the stream passes as it came.
Source: https://platform.openai.com/docs/api-reference/chat/create#chat-create-stream_options
"""

from __future__ import annotations

import re

from msgspec import Struct

from middlewares.exchange import Deps, Exchange, Handler, Reply, ReplyBody, Sink
from middlewares.observation import decode
from middlewares.sse import Scanner

_ASKABLE = frozenset({"/chat/completions", "/completions"})
_LARGEST = 64 * 1024
"""Bytes of an event that are held to see whether it is the one; a larger one is not."""
# Atomic: a CRLF is one end of a line, and never two.
_END_OF_EVENT = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_ENDS_OVERLAP = 3


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`include_usage` false: count what answers say by themselves, and ask for nothing."""

    include_usage: bool = True


class Usage:
    """Has the tokens of the answer counted."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self._asks = options.include_usage

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Ask if the client did not, pass on, and hide what only we asked for."""
        exchange.counts_usage = True
        asked = self._asks and _ask(exchange)
        reply = await call_next(exchange)
        if asked and reply.events is not None:
            reply.body = WithoutUsage(reply.body)
        return reply


def _ask(exchange: Exchange) -> bool:
    """Whether the stream's usage has to be asked for; if so, it is."""
    fields = exchange.fields if exchange.inbound.path in _ASKABLE and exchange.streaming else None
    if fields is None:
        return False
    options = fields.value("stream_options")
    options = {} if options is None else options
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return False
    fields.set("stream_options", {**options, "include_usage": True})
    return True


class WithoutUsage:
    """A stream without the event that brings its usage; whole events go on as soon as they are whole."""

    __slots__ = ("_inner", "_passing", "_pending", "_torn")

    def __init__(self, inner: ReplyBody) -> None:
        self._inner = inner
        self._pending = b""
        self._passing = False
        self._torn: bytes | None = None

    @property
    def between_events(self) -> bool:
        """What was handed on ends with an event, unless one too large to be held is on its way."""
        return not self._passing

    async def pump(self, sink: Sink) -> bool:
        """The events as they come, without the one."""

        def sort(chunk: bytes) -> None:
            if kept := self._sorted(chunk):
                sink(kept)

        ended = await self._inner.pump(sort)
        if ended and self._pending:
            rest, self._pending = self._pending, b""
            sink(rest)
        return ended

    def _sorted(self, chunk: bytes) -> bytes:
        kept: list[bytes] = []
        if self._torn is not None and chunk:
            # The CR that ended an event was the front half of a CRLF: the LF goes where its event went.
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
                kept.append(self._torn)
            self._torn = None
        data = self._pending + chunk
        start = 0
        for end in _END_OF_EVENT.finditer(data):
            event = data[start : end.end()]
            start = end.end()
            hidden = not self._passing and _is_usage(event)
            self._passing = False
            if not hidden:
                kept.append(event)
            if start == len(data) and data[-1:] == b"\r":
                self._torn = b"" if hidden else b"\n"
        self._pending = data[start:]
        if len(self._pending) > _LARGEST:
            self._passing = True
            kept.append(self._pending[:-_ENDS_OVERLAP])
            self._pending = self._pending[-_ENDS_OVERLAP:]
        return b"".join(kept)

    def halt(self) -> None:
        """Stop after this piece."""
        self._inner.halt()

    def pause(self) -> None:
        """Stop asking for more."""
        self._inner.pause()

    def resume(self) -> None:
        """Go on."""
        self._inner.resume()

    def close(self) -> None:
        """Let go of the upstream."""
        self._inner.close()


def _is_usage(event: bytes) -> bool:
    if b'"usage"' not in event:
        return False
    read = Scanner().feed(event)
    value = decode(read[0].data or b"") if read else {}
    return value.get("choices") == [] and isinstance(value.get("usage"), dict)
