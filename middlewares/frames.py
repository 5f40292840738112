"""WebSocket frames as they pass: where each begins and ends, and whether one said good-bye.

Only headers are looked at, no payload is kept, no byte is changed; compression and masks are the two
ends' own affair.
Source: RFC 6455, sections 5.2 (the header) and 5.5.1 (Close).
"""

from __future__ import annotations

_CLOSE = 0x8
_OPCODE = 0x0F
_MASKED = 0x80
_LENGTH = 0x7F
_LENGTH_IN_2, _LENGTH_IN_8 = 126, 127
_LONGEST_HEADER = 14
_WALKED_AT_MOST = 1000
"""Frames in one piece: a peer that sends smaller ones than anybody would must not hold up the others."""
_LONGEST_CLOSE = 6 + 125


class Frames:
    """One direction of one connection, fed in any pieces."""

    __slots__ = ("_closed", "_header", "_left", "_opcode", "_tail")

    def __init__(self) -> None:
        self._header = b""
        self._opcode = 0
        self._left = 0
        """Bytes of the current frame's payload that are still to come."""
        self._closed = False
        self._tail: bytes | None = None
        """The last bytes, once the frames are no longer walked."""

    @property
    def closed(self) -> bool:
        """Whether a whole Close frame has passed; a guess where there were too many frames to walk."""
        return self._closed or (self._tail is not None and _ends_in_close(self._tail))

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""
        if self._tail is not None:
            self._tail = (self._tail + data[-_LONGEST_CLOSE:])[-_LONGEST_CLOSE:]
            return
        position = walked = 0
        while position < len(data) and not self._closed:
            if walked > _WALKED_AT_MOST:
                self._tail = data[-_LONGEST_CLOSE:]
                return
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
            else:
                step = self._read_header(data, position)
            position += step
            if not self._left and not self._header:
                self._closed = self._opcode == _CLOSE
                walked += 1

    def _read_header(self, data: bytes, position: int) -> int:
        """Bytes of it that stand here; the rest of one that is not whole comes with the next piece."""
        header = self._header + data[position : position + _LONGEST_HEADER]
        size = _header_size(header)
        if len(header) < size:
            self._header = header
            return len(data) - position
        known, self._header = len(self._header), b""
        self._opcode = header[0] & _OPCODE
        self._left = _payload_size(header)
        return size - known


def _header_size(header: bytes) -> int:
    """The whole header's size, as far as its first bytes tell."""
    if len(header) < 2:
        return 2
    extended = {_LENGTH_IN_2: 2, _LENGTH_IN_8: 8}.get(header[1] & _LENGTH, 0)
    return 2 + extended + (4 if header[1] & _MASKED else 0)


def _payload_size(header: bytes) -> int:
    short = header[1] & _LENGTH
    if short < _LENGTH_IN_2:
        return short
    return int.from_bytes(header[2 : 4 if short == _LENGTH_IN_2 else 10])


def _ends_in_close(tail: bytes) -> bool:
    """Whether the last bytes are what a Close frame looks like."""
    for start in range(len(tail) - 1):
        size = _header_size(tail[start:])
        if tail[start] & _OPCODE == _CLOSE and start + size + (tail[start + 1] & _LENGTH) == len(tail):
            return True
    return False
