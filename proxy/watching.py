"""Which files changed: seen by their stat, so that renames and swapped symlinks are changes like any other.

A change is told once the file has been still for a while: half a file is nobody's table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from config.files import Signature, signature

LOOK_EVERY_S = 0.25
"""Two looks that see the same make a file still."""


class Watcher:
    """Remembers what the files were like when they were read."""

    def __init__(self, every: float = LOOK_EVERY_S) -> None:
        self._every = every
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
        before: dict[Path, Signature] = {}
        while True:
            await asyncio.sleep(self._every)
            now = {path: signature(path) for path in self._known}
            different = tuple(path for path, found in now.items() if found != self._known[path])
            if different and now == before:
                return different
            before = now
