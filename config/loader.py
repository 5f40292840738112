"""From a file to a `Loaded` table, or to every problem that it has, at once.

Whatever the file holds, the outcome is a value: no exception leaves `load` for a bad table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, inspect, structs

from config.addresses import Address, parse_address
from config.catalog import Catalog
from config.clients import Client
from config.clients_file import judge_clients
from config.decoding import Reader
from config.document import Node, Scalar, read
from config.files import Files
from config.lint import judge
from config.problems import Mark, Problem
from config.reading import decoded, read_bytes, reason
from config.report import Place, Report
from config.schema import Server, Table
from config.secrets import SecretStore
from config.site import Site
from config.wording import quoted

_LOCAL = Path("config/routes.yaml")
_SYSTEM = Path("/etc/tidegate/routes.yaml")


class Overrides(Struct, frozen=True, kw_only=True):
    """`--listen` and `--admin`: addresses that replace the file's."""

    listen: str | None = None
    admin: str | None = None


_NO_OVERRIDES = Overrides()


class Loaded(Struct, frozen=True, kw_only=True):
    """`table` is None when there is an error. Places are tuples of keys and indices.

    `sources` has what the file says at each place with a `${…}` in it. `clients` are those of the file that
    `client_keys` names: None where there is no such file, or files were not to be looked at.
    """

    file: str
    table: Table | None
    problems: tuple[Problem, ...]
    marks: Mapping[Place, Mark]
    sources: Mapping[Place, str]
    clients: tuple[Client, ...] | None = None

    @property
    def interpolated(self) -> frozenset[Place]:
        """The places whose values are not for showing."""
        return frozenset(self.sources)

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return self.table is not None


def find_table(explicit: str | Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The table to load: `-c`, `$TIDEGATE_CONFIG`, ./config/routes.yaml, /etc/tidegate/routes.yaml.

    The first two are not looked for: when they do not exist, loading says so. Raises
    FileNotFoundError, with a message that names the places, when there is none at all.
    """
    named = explicit or environ.get("TIDEGATE_CONFIG")
    if named:
        return Path(named)
    for candidate in (cwd / _LOCAL, _SYSTEM):
        # Not Path.exists: a folder that may not be looked into is not ours, and no traceback.
        if os.path.exists(candidate):  # noqa: PTH110
            return candidate
    raise FileNotFoundError(
        f"no route table: -c is not given, TIDEGATE_CONFIG is not set, "
        f"and neither {cwd / _LOCAL} nor {_SYSTEM} exists or can be looked at"
    )


def load(
    path: Path,
    catalog: Catalog,
    *,
    environ: Mapping[str, str],
    overrides: Overrides = _NO_OVERRIDES,
    secrets: SecretStore | None = None,
    files: Files | None = None,
) -> Loaded:
    """Read, check and judge a table.

    `secrets` None means that keys are not to be looked at. What is read is remembered in `files`; None means
    that the files that the table names, and this machine's limits, are not to be looked at.
    """
    report = Report(str(path))
    table: Any = None
    text = _text(path.absolute(), files or Files(path.absolute().parent), report)
    root = None if text is None else read(text, report)
    if root is not None and not _is_empty(root, report):
        table = Reader(report, catalog, environ).read(root, inspect.type_info(Table), ())
    elif text is not None and not report.problems:
        report.error(Mark(), "empty", "the file is empty: a table begins with version: 1 and routes:")
    server = table.server if isinstance(table, Table) else Server()
    server = _overridden(server, overrides, report)
    clients: tuple[Client, ...] | None = None
    problems: list[Problem] = []
    if isinstance(table, Table):
        table = structs.replace(table, server=server)
        site = Site(table, report, catalog, secrets, files)
        judge(site)
        clients, problems = judge_clients(site)
    return _loaded(table, report, clients, problems)


def _loaded(
    table: Any, report: Report, clients: tuple[Client, ...] | None, of_clients: list[Problem]
) -> Loaded:
    problems = [*report.problems, *of_clients]
    sound = isinstance(table, Table) and all(problem.level == "warning" for problem in problems)
    return Loaded(
        file=report.file,
        table=table if sound else None,
        problems=tuple(problems),
        marks=report.marks,
        sources=report.sources,
        clients=clients if sound else None,
    )


def _is_empty(root: Node, report: Report) -> bool:
    return isinstance(root, Scalar) and not root.quoted and not root.text and not report.problems


def _text(path: Path, files: Files, report: Report) -> str | None:
    """The file's text; None with the problem reported."""
    try:
        return decoded(read_bytes(path, files), report)
    except (OSError, ValueError) as error:
        report.error(Mark(), "unreadable", f"the file cannot be read: {reason(error)}")
    return None


def _overridden(server: Server, overrides: Overrides, report: Report) -> Server:
    """The server with the command line's addresses, whose problems are put at their options."""
    listen = _option(overrides.listen, "--listen", ("server", "listen"), report)
    admin = _option(overrides.admin, "--admin", ("server", "admin"), report)
    if listen is not None:
        server = structs.replace(server, listen=(listen,))
    if admin is not None:
        server = structs.replace(server, admin=admin)
    return server


def _option(text: str | None, option: str, place: Place, report: Report) -> Address | None:
    if text is None:
        return None
    report.overridden[place] = option
    try:
        address = parse_address(text)
    except ValueError as error:
        shown = "it" if "@" in text else quoted(text)
        report.error_at(place, "address", f"{shown} is not an address: {error}")
        # What the file has there is not what would be served: nothing more is said of it.
        report.broken.add(place)
        return None
    report.broken.discard(place)
    return address
