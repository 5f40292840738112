"""What must never be told: every key and credential of a run, looked for in whatever form it could get out.

What clients send as a credential is noted as it is sent, so that no test has to name it.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

MARK = "canary"
"""In a value that is long enough, it makes a secret of whatever header or variable has it."""
_SHORTEST = 12
"""A shorter text may stand in a log by chance."""
_WINDOW = 16
_CARRIERS = re.compile(
    rb"^(?:authorization|(?:x[-_])?api[-_]key|x[-_]goog[-_]api[-_]key|proxy[-_]authorization|cookie)"
    rb"[ \t]*:[ \t]*([^\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_SCHEME = re.compile(r"(?:Bearer|Basic)\s+", re.IGNORECASE)
_NAMES = re.compile(r"(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_HEADERS = re.compile(r"authorization|api[-_]?key|cookie|token|secret", re.IGNORECASE)

sent: set[str] = set()
"""Every credential that a test's client has sent in this run of the suite."""


def note_sent(data: bytes) -> None:
    """Remember the credentials in what a client sends, if it begins with a head."""
    head = data[:65_536].partition(b"\r\n\r\n")[0]
    sent.update(secrets_in(value.decode("latin-1") for value in _CARRIERS.findall(head)))


def secrets_in(values: Iterable[str]) -> set[str]:
    """The values without their scheme; those that are too short to be looked for are left out."""
    bare = {_SCHEME.sub("", value).strip() for value in values}
    return {value for value in bare if len(value) >= _SHORTEST}


def of_environment(env: Mapping[str, str]) -> set[str]:
    """The values of variables that are called a key, and what lies in the folder of credentials."""
    values = [value for name, value in env.items() if _NAMES.search(name) or MARK in value]
    folder = env.get("CREDENTIALS_DIRECTORY")
    if folder and Path(folder).is_dir():
        values += _of_files(path for path in Path(folder).iterdir())
    return secrets_in(values)


def of_table(path: Path) -> set[str]:
    """What a table sets as a credential's header, and the keys in the files that it names for one.

    A table that is not JSON (`write_table` writes JSON) is read for its files only.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return set()
    try:
        values = [*_of_node(json.loads(text), path.parent)]
    except ValueError:
        files = re.findall(r"\bkey:\s*\{[^}]*\bfile:\s*[\"']?([^\s,}\"']+)", text)
        values = _of_files(path.parent / name for name in files)
    return secrets_in(values)


def _of_node(node: Any, folder: Path) -> Iterable[str]:
    if isinstance(node, list):
        for item in node:
            yield from _of_node(item, folder)
    elif isinstance(node, dict):
        for name, value in node.items():
            if isinstance(value, str) and (_HEADERS.search(name) or MARK in value):
                yield value
            if name == "key":
                sources = value if isinstance(value, list) else [value]
                places = [source.get("file") for source in sources if isinstance(source, dict)]
                yield from _of_files(folder / place for place in places if place)
            yield from _of_node(value, folder)


def _of_files(paths: Iterable[Path]) -> list[str]:
    """A file has a bare key or lines of NAME=value; what is no text of that kind has no key for us."""
    values = []
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        if len(lines) <= 50:
            values += [line.partition("=")[2].strip("'\" ") or line.strip() for line in lines]
    return values


def told(text: str, secrets: Iterable[str]) -> list[str]:
    """Those of the secrets that are in the text: whole, encoded, or a part that is long enough to matter.

    They are named by their first letters only, since this is for messages.
    """
    return sorted(f"{secret[:6]}…" for secret in secrets if _is_told(text, secret))


def _is_told(text: str, secret: str) -> bool:
    # What providers' keys begin with is no secret, and neither is the mark: the end tells keys apart.
    parts = {secret, secret[-_WINDOW:], secret[-2 * _WINDOW :][:_WINDOW]} if len(secret) > 24 else {secret}
    forms = parts | {json.dumps(secret)[1:-1], quote(secret, safe="")}
    forms.add(b64encode(secret.encode("utf-8", "replace")).decode().rstrip("=")[:-1])
    return any(form in text for form in forms)
