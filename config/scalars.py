"""What one scalar means: YAML 1.2's core schema, a little stricter, and the table's own notations.

Only `true` and `false` are booleans; `null`, `Null`, `NULL`, `~` and nothing are null; `on`, `yes`,
`True` and dates are text. Errors are ValueErrors that say what was found and what to write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal

from config.addresses import parse_address
from config.stores import parse_store
from config.units import parse_duration, parse_rate, parse_size
from config.wording import quoted, short

Kind = Literal["null", "boolean", "integer", "number", "text"]

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_YES = frozenset({"true", "yes", "on", "y"})
_NO = frozenset({"false", "no", "off", "n"})
_MAX_DIGITS = 18

NOTATIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "duration": ("a duration such as 10s", parse_duration),
    "size": ("a size such as 64MiB", parse_size),
    "rate": ("a rate such as 60/min", parse_rate),
    "store": ("a store such as redis://127.0.0.1:6379/0", parse_store),
    "address": ("an address such as 127.0.0.1:8080", parse_address),
}
"""What each `reads` marker expects, and who reads it."""


class Words:
    """One scalar as it is read: the text, whether it may be anything but text, and how it is shown."""

    __slots__ = ("interpolated", "plain", "source", "text")

    def __init__(self, text: str, *, plain: bool, source: str, interpolated: bool = False) -> None:
        self.text = text
        self.plain = plain
        self.source = source
        self.interpolated = interpolated

    @property
    def kind(self) -> Kind:
        """What YAML takes it for; interpolated text as though it were plain."""
        return kind_of(self.text) if self.plain else "text"

    def __str__(self) -> str:
        """How a message names it. The text of an interpolated scalar is never shown."""
        if self.interpolated:
            return f"the text of {quoted(self.source)}"
        match self.kind:
            case "null":
                return "nothing"
            case "boolean":
                return self.text
            case "integer" | "number":
                return f"the number {short(self.text)}"
            case "text":
                return f"the text {quoted(self.text)}"


def kind_of(text: str) -> Kind:
    """What a plain scalar is."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return "null"
    if text in {"true", "false"}:
        return "boolean"
    if _INTEGER.fullmatch(text):
        return "integer"
    return "number" if _NUMBER.fullmatch(text) else "text"


def read_text(words: Words) -> str:
    """Text; a bare number, boolean or null is none."""
    if words.interpolated or words.kind == "text":
        return words.text
    advice = "" if words.kind == "null" else f': write "{short(words.text)}" in quotes'
    raise ValueError(f"expected text, found {words}{advice}")


def read_boolean(words: Words) -> bool:
    """`true` or `false`."""
    if words.kind == "boolean":
        return words.text == "true"
    advice = "true or false"
    if not words.interpolated and words.text.lower() in _YES | _NO:
        advice = "true" if words.text.lower() in _YES else "false"
        advice += " without quotes" if words.text == advice else ""
    raise ValueError(f"expected true or false, found {words}: write {advice}")


def read_integer(words: Words) -> int:
    """A whole number, decimal, `0x…` or `0o…`."""
    if words.kind == "integer":
        if len(words.text) > _MAX_DIGITS:
            raise ValueError("the number is too large")
        base = {"0x": 16, "0o": 8}.get(words.text[:2], 10)
        return int(words.text, base)
    raise ValueError(f"expected a whole number, found {words}{_unquoted(words, 'integer')}")


def read_number(words: Words) -> float:
    """A finite number."""
    if words.kind in {"integer", "number"}:
        if words.kind == "integer" and len(words.text) <= _MAX_DIGITS:
            return float(read_integer(words))
        # `.inf` and `.nan` have a letter after the point, which float() does not take.
        number = float(words.text) if not re.search(r"[xon]", words.text, re.IGNORECASE) else math.inf
        if math.isfinite(number):
            return number
        raise ValueError("expected a finite number of a usual size")
    raise ValueError(f"expected a number, found {words}{_unquoted(words, 'number')}")


def read_literal(words: Words, values: tuple[Any, ...]) -> Any:
    """One of `values`, which are texts or whole numbers."""
    kind = "integer" if words.kind == "integer" and len(words.text) <= _MAX_DIGITS else "text"
    for value in values:
        if isinstance(value, int) and kind == "integer" and read_integer(words) == value:
            return value
        if isinstance(value, str) and words.text == value:
            return value
    wanted = either(str(value) for value in values)
    quotes = " without quotes" if not words.plain and words.text in {str(value) for value in values} else ""
    raise ValueError(f"expected {wanted}, found {words}{': write it' + quotes if quotes else ''}")


def read_notation(words: Words, notation: str) -> Any:
    """A duration in seconds, a size in bytes, a rate, an address."""
    expected, parse = NOTATIONS[notation]
    if words.kind in {"null", "boolean"}:
        raise ValueError(f"expected {expected}, found {words}")
    try:
        return parse(words.text)
    except ValueError as error:
        if words.interpolated:
            # The parser's message shows the text, which came from the environment.
            raise ValueError(f"{words} is not {expected}") from None
        # A listener with a user in it has a password, too.
        shown = "it" if "@" in words.text else quoted(words.text)
        raise ValueError(f"{shown} is not {expected}: {error}") from None


def read_any(words: Words) -> Any:
    """Whatever YAML takes it for."""
    match words.kind:
        case "null":
            return None
        case "boolean":
            return words.text == "true"
        case "integer":
            return read_integer(words)
        case "number":
            return read_number(words)
        case "text":
            return words.text


def either(names: Any) -> str:
    """`a, b or c`."""
    listed = list(names)
    return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)


def _unquoted(words: Words, wanted: Kind) -> str:
    if words.interpolated:
        return ""
    inner = kind_of(words.text)
    if not words.plain and inner in {wanted, "integer"}:
        return f": write {short(words.text)} without quotes"
    if wanted == "integer" and inner == "number" and re.fullmatch(r"[0-9]{1,15}\.0*", words.text):
        return f": write {words.text.partition('.')[0]}"
    return ""
