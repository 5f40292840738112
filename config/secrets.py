"""Keys: where they come from, how they are carried, and how they are kept out of every text.

A key is looked up in the environment, then among systemd's credentials, then in a file. What is
found travels as a `Secret`, which nothing prints by accident. The invariant: no message made here
holds a key or any other content of a key file, only the names of places.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from config.files import read_regular

REDACTED = "[redacted]"

_LITERAL = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{16,}|tg-[A-Za-z0-9_-]{40,})|(?P<scheme>[Bb][Ee][Aa][Rr][Ee][Rr]\s+)\S{12,}"
)
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_KEY = re.compile(r"[\x21-\x7e]+")
_MAX_FILE = 64 * 1024
_READABLE_BY_OTHERS = 0o044
_STILL_S = 0.2
_WRITABLE_BY_OTHERS = 0o022

_Signature = tuple[int, int, int, int, int]


def redact(text: str) -> str:
    """`text` with every literal secret replaced by `[redacted]`."""
    return _LITERAL.sub(lambda match: (match["scheme"] or "") + REDACTED, text)


def find_literal_secret(text: str) -> bool:
    """Does `text` hold `sk-` and 16 or more characters, `Bearer` and 12, or `tg-` and 40: a client's key?"""
    return _LITERAL.search(text) is not None


class SecretError(Exception):
    """No usable key. The message names variables, credentials and files, never a value."""


class Secret:
    """A key that only `reveal` shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        raise TypeError("a Secret is not written down")


class KeySource(Struct, frozen=True, kw_only=True):
    """Where a key is looked for, in this order; `expect` is the prefix that it must have."""

    env: str | None = None
    credential: str | None = None
    file: str | None = None
    expect: str | None = None


class SecretStore:
    """Finds keys, and remembers them as long as they may be remembered.

    Values of the environment and of credentials last until restart. A file is read again when its
    stat changes; while it does not, a lookup costs one `os.stat`.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self._environ = environ
        self.base = base
        """The folder that relative file names start from: the table's."""
        self._variables: dict[str, str | None] = {}
        self._credentials: dict[tuple[str, str | None], Secret | None] = {}
        self._files: dict[tuple[Path, str | None], tuple[_Signature, Secret | str]] = {}

    def resolve(self, source: KeySource) -> Secret:
        """The key that `source` names; raises `SecretError` when there is none or it cannot be used."""
        return self.find(source)[1]

    def find(self, source: KeySource) -> tuple[str, Secret]:
        """The place where the key was found, and the key. Raises as `resolve` does."""
        looked: list[str] = []
        # One after the other: a file that is shadowed is not even looked at.
        for look in (self._from_environment, self._from_credential, self._from_file):
            place, secret, absence = look(source)
            if secret is not None:
                return place, _expected(secret, source.expect, place)
            if absence:
                looked.append(absence)
        if not looked:
            raise SecretError("no key: none of env, credential and file is given")
        raise SecretError(f"no key: {_listed(looked)}")

    def shadowing(self, source: KeySource) -> str | None:
        """The place because of which the file of `source` is not looked at; None when there is none."""
        for look in (self._from_environment, self._from_credential):
            try:
                place, secret, _ = look(source)
            except SecretError:
                # It cannot be used, and the file is not looked at all the same.
                return source.env or source.credential
            if secret is not None:
                return place
        return None

    def unused(self, source: KeySource) -> Iterator[tuple[str, str]]:
        """Where another key lies than the one that `resolve` finds before it: option and place.

        Places that cannot be used are left out: what is shadowed need not be in order.
        """
        found: list[Secret] = []
        looks = (
            ("env", self._from_environment),
            ("credential", self._from_credential),
            ("file", self._from_file),
        )
        for option, look in looks:
            try:
                place, secret, _ = look(source)
            except SecretError:
                continue
            if secret is not None:
                found.append(secret)
                if secret != found[0]:
                    yield option, place

    def changeable(self, source: KeySource) -> str | None:
        """The message for a key file that others than its owner may write; None if there is none."""
        if source.file is None:
            return None
        path = self.base / source.file
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except (OSError, ValueError):
            return None  # told when it is read
        if not mode & _WRITABLE_BY_OTHERS:
            return None
        return f"{path} has mode {mode:04o}, so others can put their key in its place: chmod 600 {path}"

    def _from_environment(self, source: KeySource) -> tuple[str, Secret | None, str]:
        name = source.env
        if name is None:
            return "", None, ""
        if name not in self._variables:
            self._variables[name] = self._environ.get(name)
        value = self._variables[name]
        if value is None:
            return name, None, f"{name} is not set"
        if not value.strip():
            return name, None, f"{name} is empty"
        return name, Secret(_checked(value, name)), ""

    def _from_credential(self, source: KeySource) -> tuple[str, Secret | None, str]:
        name = source.credential
        if name is None:
            return "", None, ""
        place = f"the credential {name}"
        if (name, source.env) not in self._credentials:
            self._credentials[name, source.env] = self._read_credential(name, source.env, place)
        secret = self._credentials[name, source.env]
        return place, secret, "" if secret else f"there is no systemd credential {name}"

    def _read_credential(self, name: str, env: str | None, place: str) -> Secret | None:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            return None
        if "/" in name or name in {"", ".", ".."}:
            raise SecretError(f"{place} cannot exist: a credential's name is a plain file name")
        try:
            data, _ = _read(Path(folder, name), place, private=False)
        except FileNotFoundError:
            return None
        # An empty credential is how a unit file says that there may be none (`SetCredential=name:`).
        return _parse(data, env, place) if data.strip() else None

    def _from_file(self, source: KeySource) -> tuple[str, Secret | None, str]:
        if source.file is None:
            return "", None, ""
        path = self.base / source.file
        place = str(path)
        try:
            found = self._remembered(path, source.env, place)
        except FileNotFoundError:
            return place, None, f"{place} does not exist"
        if isinstance(found, str):
            raise SecretError(found)
        return place, found, ""

    def _remembered(self, path: Path, env: str | None, place: str) -> Secret | str:
        """The key, or the message of the error, for as long as the file stays as it is."""
        try:
            status = path.stat()
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            return f"{place} cannot be read: {_reason(error)}"
        signature = _signature(status)
        known = self._files.get((path, env))
        if known is not None and known[0] == signature:
            return known[1]
        if known is not None and isinstance(known[1], Secret) and _is_being_written(known[0], status):
            # What it held is good for another moment.
            return known[1]
        found: Secret | str
        try:
            data, signature = _read(path, place, private=True)
            found = _parse(data, env, place)
        except SecretError as error:
            found = str(error)
        self._files[path, env] = (signature, found)
        return found


def _read(path: Path, place: str, *, private: bool) -> tuple[bytes, _Signature]:
    """The bytes of a small regular file, and the stat of the very file that was opened."""
    try:
        data, status = read_regular(path, _MAX_FILE)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise SecretError(f"{place} cannot be read: {_reason(error)}") from None
    mode = stat.S_IMODE(status.st_mode)
    if private and mode & _READABLE_BY_OTHERS:
        raise SecretError(f"{place} has mode {mode:04o}, so others can read it: chmod 600 {place}")
    if len(data) > _MAX_FILE:
        raise SecretError(f"{place} is larger than 64 KiB: a key file holds a key and little else")
    return data, _signature(status)


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_ctime_ns)


def _is_being_written(before: _Signature, status: os.stat_result) -> bool:
    """Whether it may be half of what it is to be: the same file, written to a moment ago.

    Another file in its place was whole when it was put there.
    """
    return before[2] == status.st_ino and 0 <= time.time() - status.st_mtime < _STILL_S


def _parse(data: bytes, name: str | None, place: str) -> Secret:
    """The key in a file: `NAME=value` lines, or the bare key. The content is never repeated."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretError(f"{place} is not UTF-8 text") from None
    stripped = (line.strip() for line in text.split("\n"))
    lines = [line for line in stripped if line and not line.startswith("#")]
    if not lines:
        raise SecretError(f"{place} is empty: write the key into it")
    return Secret(_checked(_chosen(lines, name, place), place))


def _chosen(lines: list[str], name: str | None, place: str) -> str:
    assignments: dict[str, str] = {}
    bare: list[str] = []
    for line in lines:
        match = _ASSIGNMENT.fullmatch(line)
        # A key may end in the padding of base64: `abc==` is no assignment.
        if match is None or (match[2].strip("=") == "" and match[2]):
            bare.append(line)
        else:
            assignments[match[1]] = match[2]
    if name is not None and name in assignments:
        return _unquoted(assignments[name], place)
    if bare and not assignments and len(bare) == 1:
        return _unquoted(bare[0], place)
    if bare:
        raise SecretError(f"{place} holds neither NAME=value lines alone nor one bare key alone")
    if len(assignments) == 1:
        return _unquoted(next(iter(assignments.values())), place)
    if name is None:
        raise SecretError(f"{place} holds several NAME=value lines: say with env which one is the key")
    raise SecretError(f"{place} holds several NAME=value lines and none is {name}=…")


def _unquoted(text: str, place: str) -> str:
    if text[:1] in {'"', "'"}:
        if len(text) < 2 or text[-1] != text[0]:
            raise SecretError(f"{place}: the quote around the key is not closed")
        return text[1:-1]
    return text


def _checked(text: str, place: str) -> str:
    value = text.strip()
    if not value:
        raise SecretError(f"{place}: the key is empty")
    if _KEY.fullmatch(value) is None:
        raise SecretError(f"{place}: the key holds white space or characters other than printable ASCII")
    return value


def _expected(secret: Secret, expect: str | None, place: str) -> Secret:
    if expect and not secret.reveal().startswith(expect):
        raise SecretError(
            f"the key from {place} does not begin with {redact(expect)!r}, as expect says it must"
        )
    return secret


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
