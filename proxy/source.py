"""Where the table comes from, and the files that it names: loaded at the start and again after an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from config.files import Files
from config.loader import Loaded, Overrides, load
from config.schema import ListenerTls, MiddlewareUse, Table
from config.secrets import KeySource, SecretStore
from middlewares.key import Source as Key
from middlewares.registry import catalog


@dataclass(frozen=True, slots=True)
class Source:
    """A table's file, with what the command line and the environment have to say."""

    path: Path
    environ: Mapping[str, str]
    overrides: Overrides
    secrets: SecretStore
    tls: ListenerTls | None = None
    """What the TLS listeners that are open go on with, where an edit leaves it out."""

    def load(self, files: Files) -> Loaded:
        """Read and judge it; keys are left out, since a missing one stops its own route only."""
        loaded = load(
            self.path,
            catalog(),
            environ=self.environ,
            overrides=self.overrides,
            files=files,
        )
        table = loaded.table
        if table is None or table.server.tls is not None or self.tls is None:
            return loaded
        server = structs.replace(table.server, tls=self.tls)
        return structs.replace(loaded, table=structs.replace(table, server=server))

    def key_files(self, table: Table) -> dict[Path, list[tuple[str, KeySource]]]:
        """Every file that may hold a key, with the routes that it is for."""
        found: dict[Path, list[tuple[str, KeySource]]] = {}
        for route, place in _places(table):
            if place.file is not None:
                path = (self.secrets.base / place.file).absolute()
                found.setdefault(path, []).append((route, place))
        return found


def _places(table: Table) -> Iterator[tuple[str, KeySource]]:
    for name, route in table.routes.items():
        for use in route.middlewares:
            yield from ((name, place) for place in _of(use))


def _of(use: MiddlewareUse) -> Iterator[KeySource]:
    options = use.options if isinstance(use.options, tuple) else (use.options,)
    return (one.place for one in options if isinstance(one, Key) and not one.pass_)
