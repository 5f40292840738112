"""What the rules across a table look at, and the ways to walk through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from config.addresses import Address
from config.catalog import Catalog
from config.files import Files
from config.report import Place, Report
from config.schema import MiddlewareUse, Route, Table
from config.secrets import SecretStore
from config.upstreams import Upstream, parse_upstream


class Option(NamedTuple):
    """The options of one use of a middleware, and where they stand; a list of them is several."""

    name: str
    place: Place
    values: Any


class Site(NamedTuple):
    """A table that may have holes (`UNSET`), and where its parts stand."""

    table: Table
    report: Report
    catalog: Catalog
    secrets: SecretStore | None = None
    files: Files | None = None
    """Those that the table names; None when this machine's files and limits are not to be looked at."""

    @property
    def routes(self) -> dict[str, Route]:
        """The routes that could be read, by name."""
        routes: Any = self.table.routes
        return routes if isinstance(routes, dict) else {}

    def addresses(self) -> Iterator[tuple[Place, Address]]:
        """Every listener whose address could be read."""
        server, report = self.table.server, self.report
        for i, address in enumerate(server.listen if report.usable(("server", "listen")) else ()):
            yield ("server", "listen", i), address
        if server.admin is not None and report.usable(("server", "admin")):
            yield ("server", "admin"), server.admin

    def uses(self, uses: tuple[MiddlewareUse, ...], place: Place) -> Iterator[tuple[Place, MiddlewareUse]]:
        """Each use in the chain at `place`, with the place of its options."""
        return zip(self.report.uses.get(place, ()), uses, strict=True)

    def options(self, route: str | None) -> Iterator[Option]:
        """The options in a route's chain (None: the top level's) that could be read, in its order."""
        place: Place = ("middlewares",) if route is None else ("routes", route, "middlewares")
        chain = self.table.middlewares if route is None else self.routes[route].middlewares
        for start, use in self.uses(chain, place):
            if use.options is not UNSET:
                for inside, values in each(use.options, start):
                    yield Option(use.name, inside, values)

    def upstream(self, name: str) -> Upstream | None:
        """Where a route leads; None for the demo and for what is no URL."""
        if ("routes", name, "upstream") in self.report.broken:
            return None
        try:
            return parse_upstream(self.routes[name].upstream)
        except ValueError:
            return None


def each(options: Any, start: Place) -> Iterator[tuple[Place, Any]]:
    """The options at `start`, or each in a list of them, with its place."""
    if isinstance(options, list | tuple):
        yield from (((*start, i), one) for i, one in enumerate(options))
    else:
        yield start, options
