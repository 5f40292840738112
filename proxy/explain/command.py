"""The command behind `tidegate explain`: from the command line and a loaded table to lines on stdout."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import msgspec

from config.catalog import Unusable
from config.loader import Loaded
from config.schema import Table
from config.secrets import SecretStore
from proxy.explain.explanation import Subject, Unserved, explained
from proxy.explain.question import Question, compose
from proxy.explain.redaction import Redactor
from proxy.explain.rehearsal import rehearse
from proxy.explain.text import lines_of


def run(options: argparse.Namespace, loaded: Loaded, table: Table, secrets: SecretStore) -> int:
    """Explain one request; the exit code is 1 when nothing would serve it, or it cannot be told."""
    try:
        question = Question(
            model=options.model,
            path=options.path,
            provider=options.provider,
            method=options.method,
            headers=tuple(options.header),
            body=None if options.body is None else _read(options.body, table.server.max_body + 1),
        )
    except OSError as error:
        print(f"tidegate: --body {options.body}: {error.strerror}", file=sys.stderr)
        return 1
    request = compose(question)
    try:
        rehearsed = asyncio.run(rehearse(request, table, secrets))
    except Unusable as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 1
    redactor = Redactor(loaded, os.environ)
    subject = Subject(request, question.model, table, rehearsed, secrets, redactor)
    told = explained(subject)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for line in lines_of(subject, told):
            print(line)
    return 1 if isinstance(told, Unserved) else 0


def _read(name: str, limit: int) -> bytes:
    """A body, or enough of it to be too large. Pipes are read too, `-` is stdin. Raises OSError."""
    if name == "-":
        return sys.stdin.buffer.read(limit)
    with Path(name).open("rb") as file:
        return file.read(limit)
