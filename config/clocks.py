"""The rules about time: clocks and waits that another clock always ends first, and calls that never come.

Only what the file itself sets is judged: a default that a short `total` overtakes is nobody's mistake.
Options are known by the names that the table gives them, since middlewares live a room further up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from config.report import Place
from config.site import Option, Site
from config.units import written_duration

_CLOCKS = ("connect", "first_byte", "first_token", "idle")
_WAITS = {
    "retry": (("backoff", "initial"), ("backoff", "max"), ("retry_after_max",)),
    "concurrency": (("wait",),),
    "stream": (("keepalive",),),
}
_FAILING = frozenset({"connect", "reset", "server_error"})
"""What `retry` calls again for, and a breaker counts."""


class _Total(NamedTuple):
    seconds: float
    place: Place


def judge_clocks(site: Site) -> None:
    """Report what can never happen in time."""
    for chain in (None, *site.routes):
        for option in site.options(chain):
            if option.name == "timeout":
                _running(site, option)
    top = _total(site, None)
    for name in site.routes:
        own = _total(site, name)
        if own and top and own.seconds >= top.seconds:
            _overtaken(site, own.place, own.seconds, top)
        first = min(filter(None, (own, top)), key=lambda total: total.seconds, default=None)
        if first is not None:
            for place, seconds in _limits(site, name):
                if seconds >= first.seconds:
                    _overtaken(site, place, seconds, first)
        _calls(site, name)
        _queue(site, name)


def _running(site: Site, option: Option) -> None:
    for name in option.values.__struct_fields__:
        if getattr(option.values, name) == 0:
            message = f"{name} of 0s would end every request: leave it out to switch it off"
            site.report.error_at((*option.place, name), "zero", message)


def _total(site: Site, chain: str | None) -> _Total | None:
    for option in site.options(chain):
        seconds = getattr(option.values, "total", None) if option.name == "timeout" else None
        if seconds:
            return _Total(seconds, (*option.place, "total"))
    return None


def _limits(site: Site, route: str) -> Iterator[tuple[Place, float]]:
    """Every other clock and wait that the file sets for a route."""
    for option in site.options(route):
        fields = ((name,) for name in _CLOCKS) if option.name == "timeout" else _WAITS.get(option.name, ())
        for field in fields:
            place = (*option.place, *field)
            seconds = _value(option.values, field)
            if seconds and place in site.report.keys:
                yield place, seconds


def _value(options: Any, field: tuple[str, ...]) -> Any:
    for name in field:
        options = getattr(options, name, None)
    return options


def _overtaken(site: Site, place: Place, seconds: float, first: _Total) -> None:
    field = ".".join(map(str, place[-2:])) if place[-2] == "backoff" else place[-1]
    whose = "the top level's total" if first.place[0] == "middlewares" else "total"
    ours = site.report.said(place, _written(seconds))
    theirs = site.report.said(first.place, _written(first.seconds))
    message = (
        f"{field} of {ours} never runs out: {whose} of {theirs} ends the request first: "
        "write less, or leave it out"
    )
    site.report.warn_at(place, "overtaken-clock", message)


def _written(seconds: float) -> str:
    """As most people write it: 90s, 120s, 10m."""
    return f"{seconds:g}s" if seconds.is_integer() and seconds < 600 else written_duration(seconds)


def _calls(site: Site, route: str) -> None:
    """A breaker that stands after `retry`, and opens before all calls of one exchange are made."""
    retry: Option | None = None
    for option in site.options(route):
        if option.name == "retry":
            retry = option
        elif option.name == "breaker" and retry is not None:
            opens, calls = option.values.failures, retry.values.attempts
            if opens < calls and _FAILING.intersection(retry.values.when):
                failures = site.report.said((*option.place, "failures"), str(opens))
                attempts = site.report.said((*retry.place, "attempts"), str(calls))
                message = (
                    f"{failures} failures open this breaker before the {attempts} attempts of retry end: "
                    "clients get 503 breaker_open, not the provider's error: put breaker before retry"
                )
                site.report.warn_at_key(option.place, "breaker-inside-retry", message)


def _queue(site: Site, route: str) -> None:
    for option in site.options(route):
        if option.name != "concurrency" or getattr(option.values, "queue", None) != 0:
            continue
        place = (*option.place, "wait")
        if place in site.report.keys:
            message = (
                "nobody waits here, since queue is 0: write queue: N for how many may, or leave wait out"
            )
            site.report.warn_at(place, "wait-without-queue", message)
