"""An explanation for a person: plain lines of at most 100 columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from config.units import written_duration
from config.wording import visible
from middlewares.faults import Fault
from proxy.explain.explanation import Explanation, Limit, Subject, Unserved, links
from proxy.router import RULES, Choice, Rule

_WIDTH = 100
_PLAIN = re.compile(r"[^\s\[\]{},:\"'#][^\[\]{},\"'#]*")
_WHERE: dict[Rule, str] = {
    "path": "the route in the path",
    "header": "x-tidegate-provider",
    "provider": "the body's provider",
    "models": "a name under models",
    "prefix": "the route in front of the model",
    "serves": "a name that a route serves",
    "default_route": "default_route",
}
_CLOCKS = ("connect", "first_byte", "first_token", "idle", "total")


def lines_of(subject: Subject, told: Explanation | Unserved) -> Iterator[str]:
    """The lines to print."""
    yield from _wrapped("", subject.request.shown)
    yield ""
    if isinstance(told, Unserved):
        yield from _unserved(told)
        yield from _rules(subject)
        return
    yield from _summary(subject, told)
    yield from _rules(subject)
    yield from _ladder(told)
    yield from _chain(subject, told)
    yield from _headers(told)
    yield from _body(told)
    yield from _clocks(told)


def _unserved(told: Unserved) -> Iterator[str]:
    error = told.error
    code = f"{error['status']} {error['code']}: " if error["code"] else ""
    yield from _wrapped("", f"{code}{error['message']}")


def _summary(subject: Subject, told: Explanation) -> Iterator[str]:
    choice, first = subject.rehearsed.choice, told.ladder[0]
    name = "" if choice is None or choice.name is None else f" ({choice.name})"
    yield from _pair("route", told.route + (", explicit only" if first.explicit_only else ""))
    yield from _pair("by rule", f"{RULES.index(told.rule) + 1}, {_WHERE[told.rule]}{name}")
    yield from _pair("URL", _place(told.url, first.proxy))
    model = "none is named" if told.model is None else told.model
    yield from _pair("model", model)
    if first.usable and first.key is not None:
        yield from _pair("key", first.key)
    elif not first.usable:
        yield from _pair("key", f"{first.reason} Until it has one it answers 503 key_missing.")
    if first.usable and first.reason is not None:
        yield from _pair("note", first.reason)
    if not subject.request.names_model and subject.model is not None:
        yield from _pair(
            "note", f"there is no place for a model in this request: {subject.model!r} is not sent"
        )


def _place(url: str | None, proxy: str | None) -> str:
    return (url or "-") + (f" through the proxy {proxy}" if proxy else "")


def _rules(subject: Subject) -> Iterator[str]:
    """What each rule says by itself; the first that says anything decides."""
    rehearsed = subject.rehearsed
    if not rehearsed.verdicts:
        return
    yield from _title("Rules, of which the first that names a route decides")
    for number, (rule, verdict) in enumerate(rehearsed.verdicts.items(), 1):
        mark = ">" if rehearsed.choice is not None and rule == rehearsed.choice.rule else " "
        yield from _wrapped(f"{mark} {number} {_WHERE[rule]:<33}", subject.redactor.text(_said(verdict)))


def _said(verdict: Choice | Fault | None) -> str:
    if verdict is None:
        return "-"
    if isinstance(verdict, Fault):
        return "no such route"
    return ", ".join(rung.route if rung.model is None else rung.model for rung in verdict.rungs)


def _ladder(told: Explanation) -> Iterator[str]:
    if len(told.ladder) == 1:
        return
    yield from _title("Ladder, tried in this order")
    for number, rung in enumerate(told.ladder, 1):
        state = "usable" if rung.usable else f"not usable: {rung.reason}"
        yield from _wrapped(f" {number:>2} ", f"{rung.route}, model {rung.model or '-'}: {state}")
        if rung.url is not None:
            yield from _wrapped("    ", _place(rung.url, rung.proxy))
        limits = {clock: getattr(rung.clocks, clock) for clock in _CLOCKS}
        running = [f"{clock} {_limit(limit)}" for clock, limit in limits.items() if limit is not None]
        yield from _wrapped("    ", ", ".join(running) or "no clocks")


def _chain(subject: Subject, told: Explanation) -> Iterator[str]:
    of = "" if len(told.ladder) == 1 else f" of {told.route}"
    yield from _title(f"Chain{of}, outermost first")
    chain = list(links(subject.table, told.route))
    width = max((len(use.name) for _, _, use in chain), default=0)
    for number, (place, at, use) in enumerate(chain, 1):
        options = subject.redactor.options(use, place).brief
        said = _flow(options)[1:-1] if isinstance(options, dict) else _flow(options)
        top = "(top level) " if at == "top" else ""
        yield from _wrapped(f" {number:>2} {use.name:<{width}}  ", top + said)
    if not chain:
        yield "    empty"


def _headers(told: Explanation) -> Iterator[str]:
    yield from _title("Headers, the client's (-) and what goes up (+)")
    for line in told.headers:
        if line.change != "kept":
            yield from _changed(line.name, line.client, line.upstream)
    kept = ", ".join(dict.fromkeys(line.name for line in told.headers if line.change == "kept"))
    yield from _wrapped("    kept: ", kept or "none")


def _changed(name: str, before: str | None, after: str | None) -> Iterator[str]:
    if before is not None:
        yield from _wrapped("  - ", f"{name}: {before}")
    if after is not None:
        yield from _wrapped("  + ", f"{name}: {after}")


def _body(told: Explanation) -> Iterator[str]:
    yield from _title("Body, as it came (-) and as it goes up (+)")
    if not told.changes:
        yield "    unchanged"
    for name, (old, new) in told.changes.items():
        yield from _changed(name, old or None, new or None)


def _clocks(told: Explanation) -> Iterator[str]:
    yield from _title("Clocks")
    for clock in _CLOCKS:
        yield f"    {clock:<14}{_limit(getattr(told.clocks, clock))}"
    if told.clocks.exchange_total is not None:
        yield f"    {'all in all':<14}{_limit(told.clocks.exchange_total)}"


def _limit(limit: Limit) -> str:
    if limit is None:
        return "-"
    return written_duration(limit) if isinstance(limit, float | int) else limit


def _flow(value: Any) -> str:
    """A value as it would stand in one line of a table."""
    match value:
        case dict():
            return "{" + ", ".join(f"{name}: {_flow(one)}" for name, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case str() if value.startswith("${") or _PLAIN.fullmatch(value):
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def _title(text: str) -> Iterator[str]:
    yield ""
    yield text


def _pair(name: str, value: str) -> Iterator[str]:
    yield from _wrapped(f"{name:<12}", value)


def _wrapped(start: str, text: str) -> Iterator[str]:
    """`text` behind `start`, and under it where it does not fit."""
    pieces = wrap(visible(text), _WIDTH - len(start), break_long_words=True, break_on_hyphens=False) or [""]
    yield (start + pieces[0]).rstrip()
    for piece in pieces[1:]:
        yield " " * len(start) + piece
