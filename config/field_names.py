"""The names of header fields that a table may speak of. Source: RFC 9110, sections 5.1 and 7.6.1."""

from __future__ import annotations

import re

OF_THE_CONNECTION = frozenset(
    "connection content-length expect host keep-alive te trailer transfer-encoding upgrade".split()
)
"""In lower case: what belongs to one hop, and is the HTTP library's to write."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def objection(name: str) -> str | None:
    """Why a table cannot set or remove a field of this name, without the name; None if it can."""
    if _TOKEN.fullmatch(name) is None:
        return "this is not a header name"
    if name.lower() in OF_THE_CONNECTION:
        return "this header belongs to the connection and cannot be edited"
    return None
