"""Tables as text, loaded with the made-up catalog; problems as (line, column, message)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from config.catalog import Catalog
from config.loader import Loaded, Overrides, load
from config.secrets import SecretStore
from tests.config.catalog import CATALOG

SOUND = "version: 1\nroutes:\n  demo: {upstream: demo}\n"


def load_text(
    text: str | bytes,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
    secrets: SecretStore | None = None,
    catalog: Catalog = CATALOG,
) -> Loaded:
    path = folder / "routes.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, catalog, environ=environ or {}, overrides=overrides or Overrides(), secrets=secrets)


def told(loaded: Loaded) -> list[tuple[int, int, str]]:
    return [(problem.line, problem.column, problem.message) for problem in loaded.problems]


def only_option(loaded: Loaded) -> object:
    """The options of the one middleware of the route `demo`."""
    assert loaded.table is not None, told(loaded)
    (use,) = loaded.table.routes["demo"].middlewares
    return use.options


def route_with(middlewares: str) -> str:
    """A table whose line 3 is the route's chain; the chain begins in column 39."""
    return f"version: 1\nroutes:\n  demo: {{upstream: demo, middlewares: {middlewares}}}\n"
