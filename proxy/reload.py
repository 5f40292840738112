"""Edits of a live table: noticed, loaded whole, judged, and swapped in; or refused with nothing changed.

Loading is done in a thread, so that no stream waits for it; the swap is one assignment in the event loop.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from config.catalog import Unusable
from config.certificates import UnusableCertificate
from config.files import Files, Signature
from config.loader import Loaded
from proxy.logs import Journal, where
from proxy.source import Source
from proxy.threads import in_thread
from proxy.watching import Watcher

_TOLD_AT_MOST = 20
"""Problems of one edit that are written to the log; `tidegate check` tells of all."""
_LOADED_WITHIN_S = 30.0
_AT_START_ONLY = ("listen", "admin", "workers")


class Site(Protocol):
    """What a new table is put into."""

    def put_in_force(self, loaded: Loaded, files: Files, /) -> None:
        """Serve by it from now on. Raises UnusableCertificate or Unusable, with nothing changed."""

    def reloading(self) -> None:
        """An edit was noticed."""

    def reloaded(self, *, success: bool) -> None:
        """It was taken, or refused."""


class Reloads:
    """Keeps the table in force up to date with its files."""

    def __init__(self, source: Source, site: Site, journal: Journal) -> None:
        self._source = source
        self._site = site
        self._journal = journal
        self._watcher = Watcher()
        self._read: dict[Path, Signature] = {}

    def begin(self, loaded: Loaded, files: Files) -> None:
        """The table that the program starts with. Raises UnusableCertificate or Unusable."""
        table = loaded.table
        assert table is not None, "one with errors is not served"
        self._site.put_in_force(loaded, files)
        self._table, self._first, self._read = table, table, files.seen
        self._watcher.watch(files.seen, self._source.key_files(table))

    async def run(self, asked: asyncio.Event) -> None:
        """Reload when `asked` is set and when a file has changed, until cancelled."""
        while True:
            changed = await self._next(asked)
            asked.clear()
            self._site.reloading()
            await self._reload()
            self._tell_of_keys(changed)

    async def _next(self, asked: asyncio.Event) -> tuple[Path, ...]:
        """Which files changed; none when it was asked for."""
        async with asyncio.TaskGroup() as group:
            noticed = group.create_task(self._watcher.changed())
            told = group.create_task(asked.wait())
            await asyncio.wait((noticed, told), return_when=asyncio.FIRST_COMPLETED)
            changed = noticed.result() if noticed.done() else ()
            noticed.cancel()
            told.cancel()
        return changed

    async def _reload(self) -> None:
        files = Files(self._source.secrets.base)
        self._watcher.note(self._source.key_files(self._table))
        problem: str | None
        try:
            loaded = await in_thread(lambda: self._source.load(files), _LOADED_WITHIN_S)
            problem = self._swap(loaded, files)
        except TimeoutError:
            problem = f"it was not loaded within {_LOADED_WITHIN_S:g} s"
        except (UnusableCertificate, Unusable) as error:
            problem = str(error)
        except Exception as error:
            # The last resort: no edit may end a program that is serving.
            problem = f"{type(error).__name__} was not foreseen, {where(error)}"
        file = str(self._source.path)
        if problem is None:
            self._read = files.seen
            self._journal.info("reloaded", file=file, routes=len(self._table.routes))
        else:
            self._journal.error(
                "reload_failed", file=file, reason=problem, serving="the table as it was before"
            )
        self._site.reloaded(success=problem is None)
        # What was refused may name other files: to mend one of those is an edit, too.
        self._watcher.watch({**self._read, **files.seen}, self._source.key_files(self._table))

    def _swap(self, loaded: Loaded, files: Files) -> str | None:
        """Put it in force; or say why not."""
        for problem in loaded.problems[:_TOLD_AT_MOST]:
            write = self._journal.error if problem.level == "error" else self._journal.warning
            place = f"{problem.file}:{problem.line}:{problem.column}"
            write("table_problem", place=place, code=problem.code, message=problem.message)
        if loaded.table is None:
            errors = sum(problem.level == "error" for problem in loaded.problems)
            return f"the table has {errors} {'error' if errors == 1 else 'errors'}"
        self._site.put_in_force(loaded, files)
        self._table = loaded.table
        for name in _AT_START_ONLY:
            if getattr(self._table.server, name) != getattr(self._first.server, name):
                self._journal.warning("needs_restart", option=f"server.{name}", meanwhile="as at the start")
        return None

    def _tell_of_keys(self, changed: tuple[Path, ...]) -> None:
        for path, uses in self._source.key_files(self._table).items():
            for route, place in uses if path in changed else ():
                shadowing = self._source.secrets.shadowing(place)
                if shadowing is None:
                    self._journal.info("key_file_changed", route=route, file=str(path))
                else:
                    self._journal.warning("key_file_shadowed", route=route, file=str(path), by=shadowing)
