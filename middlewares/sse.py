"""Server-sent events, read as they pass: bytes in, events out, no I/O.

Any chunking gives the same events, and the bytes themselves are left alone. Lines end in LF, CR or
CRLF, also when a CRLF falls between two chunks; an event ends at an empty line and exists only if it
has data; a byte order mark counts only at the very start.
Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream".
"""

from __future__ import annotations

from typing import NamedTuple

READ_AT_MOST = 16 * 1024 * 1024
"""Bytes of one event that are kept for reading; a larger one is relayed all the same."""

_BOM = b"\xef\xbb\xbf"
_NAMES = len(_BOM + b"data:")


class Event(NamedTuple):
    """`name` is the `event:` field, empty if there was none; `data` is None if it was too large."""

    name: bytes
    data: bytes | None


class Scanner:
    """Feed it what passes; it returns the events that each piece completes."""

    __slots__ = (
        "_cut",
        "_data",
        "_held",
        "_line",
        "_line_size",
        "_name",
        "_open",
        "_oversize",
        "_skip_lf",
        "_started",
    )

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._name = b""
        self._line_size = 0
        self._cut = False
        self._held = 0
        self._open = False
        self._oversize = False
        self._skip_lf = False
        self._started = False

    @property
    def between_events(self) -> bool:
        """True when the last byte fed did not leave an event, or a line, unfinished."""
        return not self._line and not self._open

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completed."""
        events: list[Event] = []
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        for line in chunk.splitlines(keepends=True):
            body = line.rstrip(b"\r\n")
            if len(body) == len(line):
                self._keep(body)
                continue
            if self._line:
                self._keep(body)
                body = b"".join(self._line)
            self._end_line(body, events)
            self._line.clear()
            self._line_size = 0
            self._cut = False
        self._skip_lf = chunk[-1:] == b"\r" or (self._skip_lf and not chunk)
        return events

    def _keep(self, piece: bytes) -> None:
        """Keep a piece of a line that is not whole yet; of one too long only what names its field."""
        self._line_size += len(piece)
        if self._line_size <= READ_AT_MOST + _NAMES:
            self._line.append(piece)
        elif not self._cut:
            self._cut = True
            self._line = [(b"".join(self._line) + piece)[:_NAMES]]

    def _end_line(self, line: bytes, events: list[Event]) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            self._end_event(events)
            return
        if line[:1] == b":":
            return
        self._open = True
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._held += len(value)
            if self._cut or self._held > READ_AT_MOST:
                self._oversize = True
                self._data = [b""]
        elif field == b"event":
            self._name = value.removeprefix(b" ")

    def _end_event(self, events: list[Event]) -> None:
        if self._data:
            data = None if self._oversize else b"\n".join(self._data)
            events.append(Event(self._name, data))
        self._data = []
        self._name = b""
        self._held = 0
        self._open = False
        self._oversize = False
