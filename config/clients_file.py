"""The clients file: who may ask, with what key, and for what; read and judged as a table is.

It holds hashes of keys and no key, and no message repeats what stands where a hash is due. Only a file
without an error gives clients.
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from msgspec import UNSET, Struct, inspect

from config.catalog import Catalog
from config.clients import EVERYTHING, Client, ClientLimits
from config.decoding import Reader
from config.document import Mapping, Node, Scalar, Sequence, read
from config.globs import LONGEST, is_glob, matches
from config.problems import Mark, Problem
from config.reading import decoded, read_bytes, reason
from config.report import Place, Report
from config.site import Option, Site
from config.wording import listed, quoted

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
LITERAL = (
    "a key has no place in this file, only its SHA-256: `tidegate keys new NAME` makes a key and stores that"
)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?([Zz]|[+-]\d\d:\d\d)")
_OF_NOTHING = sha256(b"").digest()
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Written(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client as the file has it."""

    name: str
    key_sha256: str
    allow: tuple[str, ...] = EVERYTHING
    limits: ClientLimits = ClientLimits()
    expires: str | None = None


class ClientsFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    version: Literal[1]
    clients: tuple[Written, ...]


class Clients(Struct, frozen=True):
    """What was read of a clients file: `written` has the clients that could be read, by their places."""

    report: Report
    written: dict[Place, Written]

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return all(problem.level == "warning" for problem in self.report.problems)

    def admitted(self) -> tuple[Client, ...]:
        """The clients of a file without errors."""
        return tuple(
            Client(
                name=one.name,
                digest=bytes.fromhex(one.key_sha256),
                allow=one.allow,
                limits=one.limits,
                ends=None if one.expires is None else moment_of(one.expires),
            )
            for one in self.written.values()
        )


def judge_clients(site: Site) -> tuple[tuple[Client, ...] | None, list[Problem]]:
    """The clients of the file that the table names, and what is wrong with it.

    A file that cannot be read at all is a problem of the table, reported at its line.
    """
    option = next((one for one in site.options(None) if one.name == "client_keys"), None)
    if option is None or site.files is None:
        return None, []
    data = _bytes(option, site)
    if data is None:
        return None, []
    place = (*option.place, "file")
    path = Path(option.values.file)
    shown = site.report.sources.get(place) or str(Path(site.report.file).parent / path)
    clients = read_clients(data, shown)
    _judge_allowed(clients, site)
    _judge_mode(site.files.base / path, clients.report)
    return (clients.admitted() if clients.ok else None), clients.report.problems


def read_clients(data: bytes, file: str) -> Clients:
    """A clients file judged by itself, without a table; `file` is how problems call it."""
    report = Report(file)
    text = decoded(data, report)
    root = None if text is None else read(text, report, LITERAL)
    if text is not None and _is_empty(root) and not report.problems:
        report.error(Mark(), "empty", "the file is empty: a clients file begins with version: 1 and clients:")
        root = None
    if root is None or _has_variables(root, report):
        return Clients(report, {})
    whole = Reader(report, Catalog({}), {}).read(root, inspect.type_info(ClientsFile), ())
    written = _placed(root, whole, report)
    _judge(written, report)
    return Clients(report, written)


def moment_of(text: str) -> float:
    """Unix seconds of a date, which is over at its beginning in UTC, or of a time. Raises ValueError."""
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("there is no such day or time") from None
    raise ValueError("write a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z")


def _bytes(option: Option, site: Site) -> bytes | None:
    place = (*option.place, "file")
    assert site.files is not None
    try:
        return read_bytes(site.files.base / option.values.file, site.files)
    except (OSError, ValueError) as error:
        shown = site.report.shown(place, str(site.files.base / option.values.file))
        advice = ": `tidegate keys new NAME` makes it" if isinstance(error, FileNotFoundError) else ""
        message = f"the clients file {shown} cannot be read: {reason(error)}{advice}"
        site.report.error_at(place, "unreadable", message)
    return None


def _is_empty(root: Node | None) -> bool:
    return root is None or (isinstance(root, Scalar) and not root.quoted and not root.text)


def _has_variables(root: Node, report: Report) -> bool:
    found = [scalar for scalar in _scalars(root) if "${" in scalar.text]
    for scalar in found:
        report.error(
            scalar.mark, "interpolation", "a clients file takes no variables: write the value itself"
        )
    return bool(found)


def _scalars(root: Node) -> Iterator[Scalar]:
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Scalar):
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, Mapping):
                waiting.extend(part for pair in node.pairs for part in pair)
            else:
                waiting.extend(node.items)


def _placed(root: Node, whole: Any, report: Report) -> dict[Place, Written]:
    """The clients that could be read, by their places; those that could not left gaps."""
    if whole is UNSET or not isinstance(root, Mapping):
        return {}
    items = next(
        (node.items for key, node in root.pairs if key.text == "clients" and isinstance(node, Sequence)), ()
    )
    places: list[Place] = [("clients", i) for i in range(len(items)) if ("clients", i) not in report.broken]
    return dict(zip(places, whole.clients, strict=True))


def _judge(written: dict[Place, Written], report: Report) -> None:
    """What is wrong between the clients, and with what their texts mean."""
    names: dict[str, int] = {}
    digests: dict[bytes, str] = {}
    for place, one in written.items():
        if CLIENT_NAME.fullmatch(one.name) is None:
            message = "a client's name is up to 64 letters, digits, and after the first also . _ @ + -"
            report.error_at((*place, "name"), "client-name", f"{quoted(one.name)} is no name: {message}")
        elif one.name in names:
            message = f"{quoted(one.name)} is a client on line {names[one.name]} already: choose another name"
            report.error_at((*place, "name"), "client-twice", message)
        names.setdefault(one.name, report.mark((*place, "name")).line)
        _judge_key(place, one, digests, report)
        _judge_expiry(place, one, report)
        if not one.allow:
            message = (
                f"the list is empty, so {quoted(one.name)} may use nothing: without allow it may use all"
            )
            report.warn_at((*place, "allow"), "allows-nothing", message)
    if not written and not report.problems:
        report.warn_at(("clients",), "no-clients", "nobody is let in: `tidegate keys new NAME` makes a key")


def _judge_key(place: Place, one: Written, digests: dict[bytes, str], report: Report) -> None:
    inside = (*place, "key_sha256")
    if _DIGEST.fullmatch(one.key_sha256) is None:
        # Not shown: it may be the key itself.
        message = "this is no SHA-256, which is 64 hexadecimal digits: `tidegate keys new NAME` writes it"
        report.error_at(inside, "client-key", message)
        return
    digest = bytes.fromhex(one.key_sha256)
    if digest == _OF_NOTHING:
        message = "this is the SHA-256 of nothing: whoever sends no key would be let in"
        report.error_at(inside, "client-key", message)
    elif (other := digests.setdefault(digest, one.name)) != one.name:
        message = f"this is the key of {quoted(other)} already: give each client its own"
        report.error_at(inside, "client-twice", message)


def _judge_expiry(place: Place, one: Written, report: Report) -> None:
    if one.expires is None:
        return
    inside = (*place, "expires")
    try:
        ends = moment_of(one.expires)
    except ValueError as error:
        report.error_at(inside, "client-expires", f"{quoted(one.expires)} says no time: {error}")
        return
    if ends <= time.time():
        message = f"the key of {quoted(one.name)} has expired, and is refused: renew it, or revoke it"
        report.warn_at(inside, "client-expired", message)


def _judge_allowed(clients: Clients, site: Site) -> None:
    """Entries of `allow` that lead nowhere in this table."""
    routes = {str(place[1]) for place in site.report.keys if len(place) == 2 and place[0] == "routes"}
    names = {str(place[1]) for place in site.report.keys if len(place) == 2 and place[0] == "models"}
    known: dict[str, str | None] = {}
    for place, one in clients.written.items():
        for i, entry in enumerate(one.allow):
            if entry not in known:
                known[entry] = _objection(entry, routes, names, clients.report)
            if (wrong := known[entry]) is not None:
                clients.report.error_at((*place, "allow", i), "allow", wrong)


def _objection(entry: str, routes: Collection[str], names: Collection[str], report: Report) -> str | None:
    if entry in names or entry in routes:
        return None
    first, slash, model = entry.partition("/")
    if slash and first in routes:
        return None if model else f"{quoted(entry)} names no model: write {first}, or {first}/*"
    if is_glob(first) or is_glob(entry):
        reached = any(matches(entry, name) for name in names) or any(
            _reaches(entry, route) for route in routes
        )
        return None if reached else f"{quoted(entry)} fits no route and no name under models"
    near = report.hint(first if slash else entry, [*routes, *names] if not slash else [*routes])
    offer = near or f": there are {listed(sorted([*routes, *names]))}"
    return f"{quoted(first)} is no route{offer}" if slash else f"{quoted(entry)} is no route or name{offer}"


def _reaches(glob: str, route: str) -> bool:
    """Is there anything of the route that the glob is?"""
    if len(glob) > LONGEST:
        return False
    return matches(glob, route) or any(matches(glob[:n], f"{route}/") for n in range(1, len(glob) + 1))


def _judge_mode(path: Path, report: Report) -> None:
    """Whoever may write it may let himself in; it holds nothing that could not be read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # gone since it was read, or in another process
    if mode & _WRITABLE_BY_OTHERS:
        message = f"others than its owner may write it (mode {mode:04o}), and let themselves in: chmod go-w"
        report.add(Mark(), "warning", "clients-writable", message)
