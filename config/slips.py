"""Slips that are made often, and what to write instead: the tails of messages.

What is repeated of a value is a plain word; whoever calls has made sure that it is no secret and
did not come from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from config.units import parse_duration

_WORD = re.compile(r"[\w./-]{1,80}", re.ASCII)
# A key that was pasted is seldom all capitals with underscores.
_VARIABLE = re.compile(r"(\$\{)?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?(1)\})")


def bracketed(text: str, kind: str | None) -> str:
    """`: write [text]`, for one value where a list is due; `kind` is the marker of the list's items."""
    if kind == "address":
        port = text.isascii() and text.isdigit() and len(text) <= 5
        fit = re.fullmatch(r"[\w.:/?=&\[\]-]{1,80}", text, re.ASCII)
        return f': write ["127.0.0.1:{text}"]' if port else f': write ["{text}"]' if fit else ""
    return f": write [{text}]" if _WORD.fullmatch(text) else ""


def options(middleware: str, text: str) -> str | None:
    """What to write for `middleware: text`, where options are due."""
    if middleware == "key":
        variable = _VARIABLE.fullmatch(text)
        return f"key: {{env: {variable[2] if variable else 'NAME'}}}"
    if middleware == "timeout":
        try:
            parse_duration(text)
        except ValueError:
            return None
        return f"timeout: {{total: {text}}}" if _WORD.fullmatch(text) else None
    return None


def unspaced(text: str, names: Collection[str]) -> str | None:
    """The name in a `name:value` that YAML takes for one word."""
    name, colon, _ = text.partition(":")
    return name if colon and name in names else None
