"""The rules about limits and where they are counted: what would be counted twice, or apart, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from config.report import Place
from config.site import Option, Site
from config.stores import MEMORY
from config.wording import listed

_RATES = ("requests", "tokens")


def judge_limits(site: Site) -> None:
    """Report what limits would not do as they are written."""
    _same_limits(site)
    _stores(site)
    _untold_tokens(site)


def _uses(site: Site, chain: str | None) -> Iterator[Option]:
    # A made-up one of a test's catalog need not have all of them.
    for option in site.options(chain):
        if option.name == "rate_limit" and hasattr(option.values, "store"):
            yield option


def _every_use(site: Site) -> Iterator[Option]:
    for chain in (None, *site.routes):
        yield from _uses(site, chain)


def _same_limits(site: Site) -> None:
    """Two limits of one kind, for the same and over one time, would be counted in one bucket, twice."""
    for chain in (None, *site.routes):
        first: dict[tuple[Any, ...], int] = {}
        for option in _uses(site, chain):
            for name, mark in _buckets(option):
                place = (*option.place, name)
                line = site.report.mark(place).line
                if mark in first:
                    message = (
                        f"{name} per {option.values.per} is limited in this list already, "
                        f"on line {first[mark]}: leave out one, or write another time"
                    )
                    site.report.error_at_key(place, "same-limit", message)
                first.setdefault(mark, line)


def _buckets(option: Option) -> Iterator[tuple[str, tuple[Any, ...]]]:
    values = option.values
    for name in _RATES:
        if (rate := getattr(values, name)) is not None:
            yield name, (values.store, values.per, name, rate.seconds)
    if values.concurrent is not None:
        yield "concurrent", (values.store, values.per, "concurrent")


def _stores(site: Site) -> None:
    first: Option | None = None
    for option in _every_use(site):
        store, place = option.values.store, (*option.place, "store")
        if store == MEMORY:
            continue
        if store.has_password and place not in site.report.sources:
            message = 'a password stands in the table: write "${REDIS_URL}", and set that'
            site.report.warn_at(place, "store-password", message)
        if first is None:
            first = option
        elif store != first.values.store:
            line = site.report.mark((*first.place, "store")).line
            message = f"another store than on line {line}, where slots, breakers and resting keys are shared"
            site.report.warn_at(place, "two-stores", message)


def _untold_tokens(site: Site) -> None:
    for chain in (None, *site.routes):
        for option in _uses(site, chain):
            if option.values.tokens is None:
                continue
            silent = [name for name in ([chain] if chain else site.routes) if not _asks_for_usage(site, name)]
            if silent:
                place: Place = (*option.place, "tokens")
                message = (
                    f"streams of {listed(silent)} tell their tokens only to clients who ask, and are "
                    "charged by a guess: add usage to these routes"
                )
                site.report.warn_at(place, "tokens-guessed", message)


def _asks_for_usage(site: Site, name: str) -> bool:
    route = site.routes[name]
    uses = [option for option in site.options(name) if option.name == "usage"]
    return route.upstream == "demo" or any(getattr(use.values, "include_usage", True) for use in uses)
