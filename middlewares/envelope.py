"""A JSON body as its raw top-level fields: what nobody changes keeps its exact bytes.

Only the top level is read; the values stay slices of the body (`msgspec.Raw`). A body that nobody
changed is sent as the bytes that came. The one exception is a body with a key standing twice:
parsers differ in which they take, so what is sent holds the one that was checked.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from msgspec import Raw

from middlewares.faults import ClientFault

_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_VALUE = msgspec.json.Decoder()
_ENCODE = msgspec.json.Encoder()
# Possessive, so that a key of megabytes costs no memory for ways back.
_KEY = re.compile(rb'[\s,{]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+:\s*+')
_END = re.compile(rb"[\s{]*}\s*")
_MOST_FIELDS = 1000
"""At the top level, where APIs have dozens: each costs time on the loop."""
_SHOWN = re.compile(r"[A-Za-z0-9._:/@+-]{1,80}")


class Envelope:
    """The top-level fields of one JSON object, and what was changed in it."""

    __slots__ = ("_fields", "_raw", "_rewritten", "changes")

    def __init__(self, raw: bytes, fields: dict[str, Raw], *, rewritten: bool) -> None:
        self._raw = raw
        self._fields = fields
        self._rewritten = rewritten
        self.changes: dict[str, tuple[str, str]] = {}

    @classmethod
    def parse(cls, raw: bytes) -> Envelope:
        """Read the top level of `raw`; ClientFault `invalid_json` says why it cannot be."""
        try:
            fields = _FIELDS.decode(raw)
        except RecursionError:
            raise ClientFault("invalid_json", "The body is nested too deeply to be read.") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            lenient = _fields_with_lone_surrogates(raw)
            if lenient is None:
                raise ClientFault("invalid_json", _why_unreadable(raw)) from None
            fields = lenient
        if len(fields) > _MOST_FIELDS:
            raise ClientFault("invalid_request", f"The body has more than {_MOST_FIELDS} fields.")
        return cls(raw, fields, rewritten=_has_repeated_keys(raw, fields))

    @property
    def raw(self) -> bytes:
        """The bytes that came."""
        return self._raw

    def copy(self) -> Envelope:
        """An envelope of the same body that can be changed without changing this one."""
        twin = Envelope(self._raw, dict(self._fields), rewritten=self._rewritten)
        twin.changes = dict(self.changes)
        return twin

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def value(self, name: str) -> Any:
        """The decoded value, None when the field is absent.

        Raises ClientFault `invalid_json` when the value itself cannot be decoded.
        """
        raw = self._fields.get(name)
        if raw is None:
            return None
        try:
            return _VALUE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ClientFault(
                "invalid_json", f"The value of {name!r} is not valid JSON.", param=name
            ) from None

    def holds_text(self, name: str) -> bool:
        """Whether the field is there and a text; nothing is decoded."""
        raw = self._fields.get(name)
        return raw is not None and bytes(memoryview(raw)[:1]) == b'"'

    def is_true(self, name: str) -> bool:
        """Whether the field is `true`; nothing is decoded."""
        raw = self._fields.get(name)
        return raw is not None and bytes(memoryview(raw)[:5]) == b"true"

    def set(self, name: str, value: Any) -> None:
        """Give `name` a new value; its place among the fields stays."""
        new = _ENCODE.encode(value)
        old = self._fields.get(name)
        self._note(name, old, new)
        self._fields[name] = Raw(new)

    def drop(self, name: str) -> None:
        """Remove `name`, if it is there."""
        old = self._fields.pop(name, None)
        if old is not None:
            self._note(name, old, None)

    def rename(self, old: str, new: str) -> None:
        """Give a field another name, in its place and with its bytes, in place of one that has it."""
        value = self._fields.get(old)
        if value is None or old == new:
            return
        self._note(new, self._fields.get(new), bytes(value))
        self._note(old, value, None)
        self._fields = {
            (new if name == old else name): kept for name, kept in self._fields.items() if name != new
        }

    @property
    def untouched(self) -> bool:
        """Whether the body goes up as the bytes that came."""
        return not self._rewritten and not self.changes

    def encode(self) -> bytes:
        """The body to send: the original bytes unless something was changed."""
        if self.untouched:
            return self._raw
        return _ENCODE.encode(self._fields)

    def _note(self, name: str, old: Raw | None, new: bytes | None) -> None:
        first = self.changes[name][0] if name in self.changes else _shown(bytes(old or b""))
        self.changes[name] = (first, _shown(new or b""))


def _fields_with_lone_surrogates(raw: bytes) -> dict[str, Raw] | None:
    """The fields of a body that msgspec refuses for half of an emoji, None for any other fault.

    RFC 8259, section 8.2 allows a lone surrogate escape; clients that cut texts send it, and
    providers take it.
    """
    if b"\\u" not in raw:
        return None
    fields: dict[str, Raw] = {}
    try:
        text = raw.decode()
        position = text.index("{") + 1
        if not isinstance(_LENIENT.decode(text), dict):
            return None
        while (key := _TEXT_KEY.match(text, position)) is not None:
            _, position = _LENIENT.raw_decode(text, key.end())
            name = _LENIENT.decode(key[1])
            name.encode()  # a name that is half an emoji could not be written again
            fields[name] = Raw(text[key.end() : position].encode())
    except (ValueError, RecursionError):
        return None
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_LENIENT = json.JSONDecoder(parse_constant=_no_constant)
_TEXT_KEY = re.compile(r'[\s,]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+:\s*+')


def _why_unreadable(raw: bytes) -> str:
    text = raw.lstrip(b" \t\r\n")
    if not text:
        return "The body is empty; a JSON object is expected."
    try:
        _VALUE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "The body is not valid JSON."
    return "The body is not a JSON object."


def _has_repeated_keys(raw: bytes, fields: dict[str, Raw]) -> bool:
    """Walk the members by the values already read: one comparison each, no second parse."""
    position = 0
    seen = 0
    while seen <= len(fields) and (key := _KEY.match(raw, position)) is not None:
        value = fields.get(_VALUE.decode(key[1]))
        if value is None:
            return True
        start = key.end()
        piece = memoryview(value)
        if not raw.startswith(piece, start):
            return True
        position = start + len(piece)
        seen += 1
    # The end must be where the values said: a shorter number may be the front of a longer one.
    return seen != len(fields) or _END.fullmatch(raw, position) is None


def _shown(raw: bytes) -> str:
    """A value as `x-tidegate-changed` may show it: short scalars only, nothing that breaks a header."""
    if not raw:
        return ""
    if raw[:1] in b"[{":
        return "..."
    return shown(raw.decode("utf-8", "replace").strip('"'))


def shown(text: str) -> str:
    """A text as `x-tidegate-changed` may show it."""
    return text if _SHOWN.fullmatch(text) else "..."
