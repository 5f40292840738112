"""The process around the app: its event loop, and what its libraries must be for it to be safe."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

import aiohttp.http_parser
import uvloop

from config.catalog import Unusable
from config.certificates import UnusableCertificate
from config.files import Files
from config.schema import Table
from proxy.listeners import CannotListen
from proxy.logs import Journal
from proxy.program import Program
from proxy.source import Source


def serve(source: Source, table: Table, files: Files) -> int:
    """Serve `table`, and what its files become, until told to stop; the exit code."""
    _require_safe_libraries()
    journal = Journal()
    journal.take_over_stdlib()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(source, table, files, journal))
    except (CannotListen, UnusableCertificate, Unusable) as error:
        sys.stderr.write(f"tidegate: {error}\n")
        return 1


async def _run(source: Source, table: Table, files: Files, journal: Journal) -> int:
    return await Program(source, journal).run(table, files)


def _require_safe_libraries() -> None:
    """Refuse to run on what is known to mix up clients.

    uvloop before 0.23 can give a cancelled connection's descriptor to another (uvloop#738), and
    aiohttp's parser in Python is where its smuggling bugs were.
    """
    installed = tuple(int(part) for part in version("uvloop").split(".")[:2])
    if installed < (0, 23):
        raise SystemExit("tidegate: uvloop 0.23 or newer is required; older ones can mix up connections")
    if not aiohttp.http_parser.HttpRequestParser.__module__.endswith("_http_parser"):
        raise SystemExit("tidegate: aiohttp's compiled parser is missing; install aiohttp from a wheel")
