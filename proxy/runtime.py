"""What the program runs on: its event loop, and the libraries without which it would not be safe."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import aiohttp.http_parser
import uvloop


def allow_open_files() -> None:
    """As many as the machine lets us have: the usual 1024 are fewer than `max_connections`.

    The lower limit is there for programs that use select(2), which cannot take more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def close_all_but(kept: set[int]) -> None:
    """What the event loop that started this process has left open in it: copies of its streams."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in kept:
            with suppress(OSError):  # of which one was the listing's own
                os.close(descriptor)


def event_loop() -> asyncio.AbstractEventLoop:
    """A new one. Exits where an installed library is known to mix up clients.

    uvloop before 0.23 can give a cancelled connection's descriptor to another (uvloop#738), and
    aiohttp's parser in Python is where its smuggling bugs were.
    """
    installed = tuple(int(part) for part in version("uvloop").split(".")[:2])
    if installed < (0, 23):
        raise SystemExit("tidegate: uvloop 0.23 or newer is required; older ones can mix up connections")
    if not aiohttp.http_parser.HttpRequestParser.__module__.endswith("_http_parser"):
        raise SystemExit("tidegate: aiohttp's compiled parser is missing; install aiohttp from a wheel")
    return uvloop.new_event_loop()
