"""The process around the program: its event loop, its log, and the words with which it gives up."""

from __future__ import annotations

import asyncio
import os
import sys

from config.catalog import Unusable
from config.certificates import UnusableCertificate
from config.files import Files
from config.loader import Loaded
from proxy.activation import UnusableSocket
from proxy.crew import CannotStart
from proxy.listeners import CannotListen
from proxy.logs import Journal
from proxy.program import Program
from proxy.runtime import allow_open_files, close_all_but, event_loop
from proxy.source import Source
from proxy.upgrade import descriptors


def serve(source: Source, loaded: Loaded, files: Files) -> int:
    """Serve a table without errors, and what its files become, until told to stop; the exit code."""
    if (ours := descriptors(os.environ)) is not None:
        close_all_but(ours)
    journal = Journal()
    journal.take_over_stdlib()
    allow_open_files()
    try:
        with asyncio.Runner(loop_factory=event_loop) as runner:
            return runner.run(_run(source, loaded, files, journal))
    except (CannotListen, CannotStart, UnusableSocket, UnusableCertificate, Unusable) as error:
        sys.stderr.write(f"tidegate: {error}\n")
        return 1


async def _run(source: Source, loaded: Loaded, files: Files, journal: Journal) -> int:
    return await Program(source, loaded, journal).run(files)
