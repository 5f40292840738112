"""Which files changed: seen by their stat, so that renames and swapped symlinks are changes like any other.

A change is told once the file has been still for a while: half a file is nobody's table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from config.files import Signature, signature

LOOK_EVERY_S = 0.1
STILL_S = 0.2
"""Without a change for so long, a file is whole."""


class Watcher:
    """Remembers what the files were like when they were read."""

    def __init__(self) -> None:
        self._known: dict[Path, Signature] = {}

    def watch(self, read: Mapping[Path, Signature], besides: Iterable[Path] = ()) -> None:
        """These are watched from now on, and no others: as they were `read`, and `besides` as they are known.

        What was not known before is taken as it is now.
        """
        known = self._known
        self._known = {path: known[path] if path in known else signature(path) for path in besides}
        self._known.update(read)

    def note(self, paths: Iterable[Path]) -> None:
        """These are about to be looked at, as they are now."""
        self._known.update((path, signature(path)) for path in paths)

    async def changed(self) -> tuple[Path, ...]:
        """Wait until some are not as they are known, and nothing moves any more."""
        loop = asyncio.get_running_loop()
        before, since = self._look(), loop.time()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = self._look()
            if now != before:
                before, since = now, loop.time()
            elif loop.time() - since >= STILL_S:
                different = tuple(path for path, found in now.items() if found != self._known[path])
                if different:
                    return different

    def _look(self) -> dict[Path, Signature]:
        return {path: signature(path) for path in self._known}
