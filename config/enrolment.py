"""A client written into the text of a clients file, or taken out of it; every other byte stays as it is.

Not dumped anew: comments, blank lines and quotes are the operator's. The parser says where the list and its
items stand, and the result is read again: what is not exactly the change that was meant is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML

from config.clients import Client
from config.clients_file import CLIENT_NAME, read_clients
from config.problems import Problem
from config.scalars import kind_of
from config.suggestions import hint
from config.wording import quoted

_NEW = (
    "# Who may ask, and the SHA-256 of each one's key. `tidegate keys --help` tells what may be added\n"
    "# by hand: allow, limits, expires. An edit is in force within two seconds.\n"
    "version: 1\n"
    "clients:\n"
)


class CannotEnrol(Exception):
    """The file stays as it is; the message says why. `problems` are those of a file with errors."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def enrolled(data: bytes | None, file: str, name: str, digest: bytes) -> bytes:
    """The file with one client more; None makes a new one. Raises CannotEnrol."""
    if CLIENT_NAME.fullmatch(name) is None:
        raise CannotEnrol("a name is up to 64 letters, digits, and after the first also . _ @ + -")
    before = () if data is None else clients_of(data, file)
    if any(client.name == name for client in before):
        raise CannotEnrol(f"there is a client {quoted(name)} already: revoke that, or choose another name")
    text = _NEW if data is None else data.decode()
    written = _with(text, name, digest.hex())
    return _verified(written, file, (*before, Client(name=name, digest=digest)))


def struck(data: bytes, file: str, name: str) -> bytes:
    """The file without that client. Raises CannotEnrol."""
    before = clients_of(data, file)
    names = [client.name for client in before]
    if name not in names:
        raise CannotEnrol(f"there is no client {quoted(name)}{hint(name, names)}")
    at = names.index(name)
    return _verified(_without(data.decode(), at), file, (*before[:at], *before[at + 1 :]))


def clients_of(data: bytes, file: str) -> tuple[Client, ...]:
    """The clients of a file without errors. Raises CannotEnrol."""
    read = read_clients(data, file)
    if not read.ok:
        raise CannotEnrol("the file has errors, and is not touched", read.report.problems)
    return read.admitted()


def _verified(text: str, file: str, wanted: tuple[Client, ...]) -> bytes:
    data = text.encode()
    read = read_clients(data, file)
    if not read.ok or read.admitted() != wanted:
        raise CannotEnrol("the file is written in a way that only a person can edit: change it by hand")
    return data


def _with(text: str, name: str, digest: str) -> str:
    root, key, listing = _listing(text)
    shown = name if kind_of(name) == "text" else json.dumps(name)
    if not isinstance(listing.value, list):
        # Nothing stands after the key.
        return _inserted(text, _line_end(text, key.end_mark.index), 2, shown, digest)
    if listing.flow_style and (listing.value or root.flow_style):
        item = json.dumps({"name": name, "key_sha256": digest})
        end = _end(listing.value[-1]) if listing.value else listing.end_mark.index - 1
        return f"{text[:end]}{', ' if listing.value else ''}{item}{text[end:]}"
    if listing.flow_style:
        text = text[: listing.start_mark.index].rstrip(" ") + text[listing.end_mark.index :]
        return _inserted(text, _line_end(text, key.end_mark.index), 2, shown, digest)
    last = _line_end(text, _end(listing.value[-1]))
    return _inserted(text, last, listing.start_mark.column, shown, digest)


def _inserted(text: str, at: int, indent: int, name: str, digest: str) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    space = " " * indent
    item = f'{space}- name: {name}{newline}{space}  key_sha256: "{digest}"{newline}'
    gap = "" if text[:at].endswith("\n") else newline
    return text[:at] + gap + item + text[at:]


def _without(text: str, at: int) -> str:
    listing = _listing(text)[2]
    item = listing.value[at]
    if listing.flow_style:
        begin, end = item.start_mark.index, _end(item)
        rest = text[end:].lstrip()
        if rest.startswith(","):
            return text[:begin] + rest[1:].lstrip(" ")
        return text[:begin].rstrip().removesuffix(",") + text[end:]
    begin = text.rfind("\n", 0, item.start_mark.index) + 1
    column = listing.start_mark.column
    while begin and text[begin + column : begin + column + 1] != "-":
        begin = text.rfind("\n", 0, begin - 1) + 1
    return text[:begin] + text[_line_end(text, _end(item)) :]


def _listing(text: str) -> tuple[Any, Any, Any]:
    """The nodes of the file, of the key `clients` and of its value: it was read before, so they are there."""
    root = YAML(typ="safe", pure=True).compose(text)
    return next((root, key, value) for key, value in root.value if key.value == "clients")


def _end(node: Any) -> int:
    """Where the last character of a node ends; a block's own mark is where the next thing begins."""
    if isinstance(node.value, str) or node.flow_style:
        return int(node.end_mark.index)
    parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
    return max(_end(part) for part in parts)


def _line_end(text: str, index: int) -> int:
    """Where the line after this place begins."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1
