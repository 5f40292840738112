"""A multipart body of which only the `model` part is read, and only its value may be replaced.

Every other byte goes up as it came: preamble, part headers, files, boundary. What could be read in two
ways is refused, because the provider's reading would not be ours: two `model` parts, one that is a file,
a name in an extended notation.
Source: RFC 7578 (multipart/form-data) and RFC 2046, section 5.1.1 (delimiters).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from middlewares.envelope import shown
from middlewares.faults import ClientFault

_READ = ("model", "stream")
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_DISPOSITION = re.compile(
    rb"^content-disposition:[ \t]*form-data[ \t]*((?:;.*)?)$", re.IGNORECASE | re.MULTILINE
)
_PARAMETER = re.compile(rb';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;"]*)')
_AFTER_DELIMITER = re.compile(rb"[ \t]*\r\n|--")


class _Value(NamedTuple):
    """Where a part's value stands in the body."""

    start: int
    end: int


class Form:
    """One multipart body. `model` is the name that it asks for now."""

    __slots__ = ("_raw", "_stream", "_value", "changes", "model")

    def __init__(self, raw: bytes, model: str | None, value: _Value | None, *, stream: bool) -> None:
        self._raw = raw
        self._value = value
        self._stream = stream
        self.model = model
        self.changes: dict[str, tuple[str, str]] = {}

    @classmethod
    def parse(cls, raw: bytes, content_type: str) -> Form:
        """Find the parts that are read; ClientFault `invalid_request` if the body is not multipart."""
        found = _BOUNDARY.search(content_type)
        if found is None:
            raise _refused("has no boundary in its Content-Type")
        boundary = (found[1] or found[2]).encode("latin-1", "replace")
        values: dict[str, _Value] = {}
        for name, value in _parts(raw, boundary):
            if name in values:
                raise _refused(f"has two parts named {name}", name)
            values[name] = value
        model = _text(raw, values["model"]) if "model" in values else None
        stream = _text(raw, values["stream"]) == "true" if "stream" in values else False
        return cls(raw, model, values.get("model"), stream=stream)

    @property
    def stream(self) -> bool:
        """Whether it asks for a stream."""
        return self._stream

    @property
    def untouched(self) -> bool:
        """Whether the body goes up as the bytes that came."""
        return not self.changes

    def copy(self) -> Form:
        """A form of the same body that can be changed without changing this one."""
        twin = Form(self._raw, self.model, self._value, stream=self._stream)
        twin.changes = dict(self.changes)
        return twin

    def rename(self, model: str) -> None:
        """Have it ask for another model; without a `model` part there is nothing to rename."""
        if self._value is not None and self.model is not None:
            first = self.changes["model"][0] if "model" in self.changes else shown(self.model)
            self.changes["model"] = (first, shown(model))
            self.model = model

    def encode(self) -> bytes:
        """The body to send."""
        if self.untouched or self._value is None or self.model is None:
            return self._raw
        return self._raw[: self._value.start] + self.model.encode() + self._raw[self._value.end :]


def _parts(raw: bytes, boundary: bytes) -> list[tuple[str, _Value]]:
    """The parts that are read, by name, in their order."""
    delimiter = b"\r\n--" + boundary
    found: list[tuple[str, _Value]] = []
    # The first delimiter may stand at the very front, without a line end before it.
    position = len(delimiter) - 2 if raw.startswith(delimiter[2:]) else _next(raw, delimiter, 0)[1]
    while (after := _AFTER_DELIMITER.match(raw, position)) is not None and after[0] != b"--":
        head_end = raw.find(b"\r\n\r\n", after.end() - 2)
        end, following = _next(raw, delimiter, max(head_end + 2, after.end() - 2))
        if not 0 <= head_end <= end:
            raise _refused("has a part without the end of its headers")
        name = _name(raw[after.end() : head_end])
        if name in _READ:
            if end < head_end + 4:
                raise _refused(f"has a part {name} without a value", name)
            found.append((name, _Value(head_end + 4, end)))
        position = following
    if after is None:
        raise _refused("has a delimiter with something behind it")
    return found


def _next(raw: bytes, delimiter: bytes, position: int) -> tuple[int, int]:
    """Where the next delimiter begins and ends; the boundary may be the front of other text."""
    while (start := raw.find(delimiter, position)) >= 0:
        end = start + len(delimiter)
        if _AFTER_DELIMITER.match(raw, end):
            return start, end
        position = end
    raise _refused("ends before its last delimiter")


def _name(head: bytes) -> str:
    disposition = _DISPOSITION.search(head.replace(b"\r\n", b"\n"))
    if disposition is None:
        return ""
    parameters = [(name.lower(), value.strip(b'"')) for name, value in _PARAMETER.findall(disposition[1])]
    names = [value.decode("utf-8", "replace") for name, value in parameters if name == b"name"]
    others = {name for name, _ in parameters}
    if b"name*" in others or len(names) > 1:
        raise _refused("has a part with more than one name")
    if names and names[0] in _READ and {b"filename", b"filename*"} & others:
        raise _refused(f"has a file in the place of {names[0]}", names[0])
    return names[0] if names else ""


def _text(raw: bytes, value: _Value) -> str:
    try:
        return raw[value.start : value.end].decode()
    except UnicodeDecodeError:
        raise _refused("has a field that is not UTF-8") from None


def _refused(what: str, param: str | None = None) -> ClientFault:
    return ClientFault("invalid_request", f"The multipart body {what}.", param=param)
