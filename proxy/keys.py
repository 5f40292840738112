"""`tidegate keys`: client keys made, listed and revoked. Only the hash of a key is ever written down."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from config.clients import EVERYTHING, Client
from config.enrolment import CannotEnrol, clients_of, enrolled, struck
from config.files import read_regular
from config.loader import find_table, load
from config.reading import MAX_BYTES, reason
from config.rewriting import rewrite
from config.units import Rate
from middlewares.registry import catalog

SYSTEM = Path("/etc/tidegate/clients.yaml")
_PERIODS = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "d"}


class _NoFile(Exception):
    """It is not known which file is meant; the message says what to do."""


def run(options: argparse.Namespace) -> int:
    """One of the commands; the exit code."""
    try:
        path, named = _file(options)
    except _NoFile as error:
        return _told(str(error))
    try:
        if options.action == "new":
            _new(path, options.name, named=named)
        elif options.action == "revoke":
            _revoke(path, options.name)
        else:
            _list(path)
    except CannotEnrol as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return _told(f"{path}: {error}")
    except PermissionError as error:
        return _told(f"{path}: {reason(error)}: do it as root, or as the user that tidegate runs as")
    except FileNotFoundError:
        made = "its folder does not exist" if options.action == "new" else "there is no such file"
        return _told(f"{path}: {made}; `tidegate keys new NAME --file FILE` makes one where you say")
    except (OSError, ValueError) as error:
        return _told(f"{path}: {reason(error)}")
    return 0


def _new(path: Path, name: str, *, named: bool) -> None:
    # 256 random bits: there is nothing to guess, so that one round of SHA-256 is enough.
    key = f"tg-{secrets.token_urlsafe(32)}"
    digest = sha256(key.encode()).digest()
    rewrite(path, lambda data: enrolled(data, str(path), name, digest))
    print(f"client {name!r} is in {path}; this key is shown once:", file=sys.stderr)
    print(key)
    if not named:
        advice = f"middlewares: [client_keys: {{file: {path.absolute()}}}]"
        print(f"No table names this file yet. At the top level of one, write: {advice}", file=sys.stderr)


def _revoke(path: Path, name: str) -> None:
    def change(data: bytes | None) -> bytes:
        if data is None:
            raise FileNotFoundError
        return struck(data, str(path), name)

    rewrite(path, change)
    print(f"client {name!r} is no longer in {path}; what it has in flight goes on", file=sys.stderr)


def _list(path: Path) -> None:
    data, _ = read_regular(path, MAX_BYTES)
    rows = [("NAME", "SHA-256", "EXPIRES", "LIMITS", "ALLOW"), *map(_row, clients_of(data, str(path)))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(client: Client) -> tuple[str, ...]:
    allow = "everything" if client.allow == EVERYTHING else ", ".join(client.allow) or "nothing"
    limits = client.limits
    said = [
        f"{_rate(rate)} {name}"
        for name, rate in (("requests", limits.requests), ("tokens", limits.tokens))
        if rate is not None
    ]
    said += [f"{limits.concurrent} at once"] if limits.concurrent is not None else []
    # So much of the hash tells keys apart, and is no use to anybody.
    return client.name, f"{client.digest.hex()[:8]}…", _expiry(client), ", ".join(said) or "none", allow


def _rate(rate: Rate) -> str:
    return f"{rate.count}/{_PERIODS[rate.seconds]}"


def _expiry(client: Client) -> str:
    if client.ends is None:
        return "never"
    ends = datetime.fromtimestamp(client.ends, UTC)
    shown = f"{ends:%Y-%m-%d}" if client.ends % 86400 == 0 else f"{ends:%Y-%m-%d %H:%M}Z"
    return f"{shown} (over)" if ends <= datetime.now(UTC) else shown


def _file(options: argparse.Namespace) -> tuple[Path, bool]:
    """The clients file, and whether somebody has named it: `--file`, the table, or else the usual place."""
    if options.file is not None:
        return Path(options.file), True
    try:
        table = find_table(options.config, os.environ, Path.cwd())
    except FileNotFoundError:
        return SYSTEM, False
    loaded = load(table, catalog(), environ=os.environ)
    if loaded.table is None:
        for problem in loaded.problems:
            print(problem, file=sys.stderr)
        raise _NoFile(f"{table} has errors, so its clients file is not known: mend it, or say --file FILE")
    for use in loaded.table.middlewares:
        if use.name == "client_keys":
            return table.parent / use.options.file, True
    return SYSTEM, False


def _told(message: str) -> int:
    print(f"tidegate: {message}", file=sys.stderr)
    return 1
