"""multipart/form-data as an upstream receives it, read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from tests.support.http1 import Malformed
from tests.support.wire import Seen

_BOUNDARY = re.compile(r'multipart/form-data\s*;.*\bboundary="?([^";]+)"?', re.IGNORECASE)
_PARAMETER = re.compile(r'\b(name|filename)="([^"]*)"')


@dataclass(frozen=True)
class Part:
    name: str
    filename: str | None
    content_type: str | None
    data: bytes


@dataclass(frozen=True)
class Form:
    """The parts of a form, in their order."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """Raises Malformed unless the body is a form, whole to its closing boundary."""
        match = _BOUNDARY.match(seen.header("Content-Type") or "")
        if match is None:
            raise Malformed(f"Content-Type {seen.header('Content-Type')!r}")
        line = b"--" + match[1].encode()
        opening, *parts, closing = (b"\r\n" + seen.body).split(b"\r\n" + line)
        if opening or closing not in (b"--", b"--\r\n"):
            raise Malformed("a form that does not begin and end with its boundary")
        return cls(tuple(_part(part) for part in parts))

    def __getitem__(self, name: str) -> Part:
        """The only part of that name."""
        (part,) = (part for part in self.parts if part.name == name)
        return part

    def text(self, name: str) -> str | None:
        """The value of a field, None without it."""
        return next((part.data.decode() for part in self.parts if part.name == name), None)


def _part(raw: bytes) -> Part:
    head, blank, data = raw.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not blank:
        raise Malformed(f"a part without a blank line: {head!r}")
    lines = (line.split(":", 1) for line in head.decode().split("\r\n"))
    fields = {name.strip().lower(): value.strip() for name, value in lines}
    names = dict(_PARAMETER.findall(fields["content-disposition"]))
    return Part(names["name"], names.get("filename"), fields.get("content-type"), data)
