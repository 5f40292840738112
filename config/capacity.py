"""The rules about how much at once: what several workers make of a limit, and what a process may open."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any

from config.site import Option, Site
from config.stores import MEMORY
from config.units import Rate, written_rate
from config.wording import quoted

_OF_A_FLEET = frozenset({"breaker", "concurrency"})
"""What is shared wherever a limit is."""


def judge_capacity(site: Site) -> None:
    """Warn of limits that come out otherwise than they are written."""
    if site.table.server.workers != 1:
        shares = any(_is_shared(option) for chain in (None, *site.routes) for option in site.options(chain))
        for chain in (None, *site.routes):
            for option in site.options(chain):
                if not (shares and option.name in _OF_A_FLEET):
                    _counted_apart(site, option)
    if site.files is not None:
        _open_files(site)


def _counted_apart(site: Site, option: Option) -> None:
    """Workers share sockets and no counters."""
    workers = site.table.server.workers
    for name, limit in _limits(option):
        place = (*option.place, name)
        if place in site.report.sources:
            shown, effective = quoted(site.report.sources[place]), f"{workers} times that"
        else:
            times = workers if isinstance(workers, int) else 1
            shown, effective = _written(limit), _written(limit, times)
        in_all = (
            f"up to {effective} with {workers} workers"
            if isinstance(workers, int)
            else "that for each of the cores with workers: auto"
        )
        message = f"each worker counts for itself: {option.name}.{name} of {shown} is {in_all}"
        site.report.warn_at(place if place in site.report.keys else option.place, "per-worker", message)


def _is_shared(option: Option) -> bool:
    store = getattr(option.values, "store", MEMORY) if option.name == "rate_limit" else MEMORY
    return store != MEMORY


def _limits(option: Option) -> Iterator[tuple[str, Any]]:
    values = option.values
    if option.name == "concurrency":
        yield "limit", values.limit
    elif option.name == "breaker":
        yield "failures", values.failures
    elif option.name == "rate_limit" and not _is_shared(option):
        for name in ("requests", "tokens", "concurrent"):
            if (limit := getattr(values, name, None)) is not None:
                yield name, limit


def _written(limit: Rate | int, times: int = 1) -> str:
    if isinstance(limit, Rate):
        return written_rate(limit, times)
    return str(limit * times)


def _open_files(site: Site) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = site.table.server.max_connections
    if most != resource.RLIM_INFINITY and wanted > most:
        said = site.report.said(("server", "max_connections"), str(wanted))
        message = (
            f"{said} connections are more than the {most} files that a process may have open here: "
            "raise that limit (LimitNOFILE, ulimit -Hn), or write less"
        )
        site.report.warn_at(("server", "max_connections"), "open-files", message)
