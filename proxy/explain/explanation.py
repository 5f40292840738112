"""What a dry run found, as scripts read it: an `Explanation`, or why there is none.

Everything that leaves here has gone through the `Redactor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from msgspec import Struct, structs
from multidict import CIMultiDict

from config import schema
from config.report import Place
from config.secrets import SecretError, SecretStore
from config.wording import short
from middlewares.clocks import Clocks
from middlewares.faults import Fault, openai_error
from proxy.explain.question import Thought
from proxy.explain.redaction import Redactor
from proxy.explain.rehearsal import Rehearsed, Sent, Step, key_sources, keys_of
from proxy.router import Rule
from proxy.ways import base_of

_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})
"""What belongs to one connection and is made anew for each."""


class Link(Struct, frozen=True):
    """One middleware, at the top level or in the route; all of its options, as a table writes them."""

    name: str
    at: Literal["top", "route"]
    options: Any


class Line(Struct, frozen=True):
    """One header: what the client sends and what goes upstream, None where it does not stand there."""

    name: str
    change: Literal["kept", "added", "changed", "removed"]
    client: str | None
    upstream: str | None


Limit = float | str | None
"""Seconds; None for a clock that does not run; `${…}` where the environment gives it."""


class Limits(Struct, frozen=True):
    """The route's five clocks, and the top level's around the whole exchange."""

    connect: Limit
    first_byte: Limit
    first_token: Limit
    idle: Limit
    total: Limit
    exchange_total: Limit


class Answering(Struct, frozen=True):
    """One rung: the only one, if there is no ladder.

    `url` and `model` are None for a rung that is not tried. `reason` says why it is not `usable`; `key` is
    where its key comes from, None in a route without one.
    """

    route: str
    model: str | None
    url: str | None
    usable: bool
    reason: str | None
    key: str | None
    explicit_only: bool
    proxy: str | None
    clocks: Limits


class Explanation(Struct, frozen=True):
    """What becomes of the request; all but `route`, `rule` and `ladder` is about the first rung."""

    route: str
    rule: Rule
    model: str | None
    url: str | None
    chain: list[Link]
    headers: list[Line]
    changes: dict[str, tuple[str, str]]
    clocks: Limits
    ladder: list[Answering]


class Unserved(Struct, frozen=True):
    """Why nothing serves the request: as the answer's body, with its status."""

    error: dict[str, Any]

    @classmethod
    def of(cls, fault: Fault, redactor: Redactor) -> Unserved:
        """As a client gets it."""
        told = openai_error(fault)["error"]
        assert isinstance(told, dict)
        return cls({**told, "message": redactor.text(fault.message), "status": fault.status})


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained, `model` being what was asked for, and what knows how to tell of it."""

    request: Thought
    model: str | None
    table: schema.Table
    rehearsed: Rehearsed
    secrets: SecretStore
    redactor: Redactor


def explained(subject: Subject) -> Explanation | Unserved:
    """The explanation, or why there is none."""
    rehearsed, redactor = subject.rehearsed, subject.redactor
    if rehearsed.ours:
        message = (
            f"{subject.request.shown} is answered by tidegate itself: no route "
            "serves it. A route's own answer is at /ROUTE/v1/…"
        )
        return Unserved({"message": message, "type": None, "param": None, "code": None, "status": 200})
    if rehearsed.fault is not None:
        redactor.hide(())
        return Unserved.of(rehearsed.fault, redactor)
    assert rehearsed.choice is not None
    _hide(subject)
    ladder = [_answering(subject, step) for step in rehearsed.steps]
    first, step = ladder[0], rehearsed.steps[0]
    sent = step.sent or step.partly
    return Explanation(
        route=first.route,
        rule=rehearsed.choice.rule,
        model=first.model,
        url=first.url,
        chain=list(_chain(subject, first.route)),
        headers=[] if sent is None else list(_lines(subject, sent)),
        changes={} if sent is None else _changes(sent, redactor),
        clocks=first.clocks,
        ladder=ladder,
    )


def _hide(subject: Subject) -> None:
    """Look out for all that the routes in question have from elsewhere."""
    redactor, names = subject.redactor, [step.rung.route for step in subject.rehearsed.steps]
    redactor.hide(("middlewares",), ("models",), *(("routes", name) for name in names))
    for name in names:
        redactor.hide_keys(key_sources(subject.table.routes[name]), subject.secrets)


def _answering(subject: Subject, step: Step) -> Answering:
    name, redactor = step.rung.route, subject.redactor
    route = subject.table.routes[name]
    sent = step.sent or step.partly
    reason = step.key_missing if step.sent is not None else step.why
    model = step.rung.model if sent is None else sent.model
    return Answering(
        route=name,
        model=None if model is None else redactor.text(model),
        url=None if sent is None else _url(subject, name, sent),
        usable=(step.sent is not None or step.answered) and step.key_missing is None,
        reason=None if reason is None else redactor.text(reason),
        key=_key(route, subject),
        explicit_only=route.explicit_only,
        proxy=None if route.proxy is None else _shown(subject, ("routes", name, "proxy"), route.proxy),
        clocks=_limits(subject, name),
    )


def _url(subject: Subject, name: str, sent: Sent) -> str:
    upstream = _shown(subject, ("routes", name, "upstream"), subject.table.routes[name].upstream)
    return upstream if upstream == "demo" else base_of(upstream) + sent.target


def _shown(subject: Subject, place: Place, url: str) -> str:
    # A proxy's URL may hold a login; neither it nor a variable's default with one is for showing.
    source = subject.redactor.source(place)
    return short(url if source is None else source) if "@" in url else source or url


def _key(route: schema.Route, subject: Subject) -> str | None:
    """Where the keys are found, or why not; each source of them, since they are used in turn."""
    told: list[str] = []
    for source in keys_of(route):
        if source.pass_:
            told.append("the client's own")
            continue
        try:
            told.append(subject.secrets.find(source.place)[0])
        except SecretError as error:
            told.append(str(error))
    return subject.redactor.text("; ".join(told)) if told else None


def _limits(subject: Subject, name: str) -> Limits:
    own = _declared(subject, ("routes", name, "middlewares"), subject.table.routes[name].middlewares)
    around = _declared(subject, ("middlewares",), subject.table.middlewares)
    return Limits(**own, exchange_total=around["total"])


def _declared(subject: Subject, place: Place, uses: tuple[schema.MiddlewareUse, ...]) -> dict[str, Limit]:
    """The clocks that a list of middlewares declares."""
    for i, use in enumerate(uses):
        if use.name == "timeout":
            return {
                clock: subject.redactor.source((*place, i, use.name, clock)) or getattr(use.options, clock)
                for clock in Clocks.__struct_fields__
            }
    return dict(structs.asdict(Clocks()))


def _chain(subject: Subject, name: str) -> Iterator[Link]:
    for place, at, use in links(subject.table, name):
        yield Link(use.name, at, subject.redactor.options(use, place).full)


def links(
    table: schema.Table, name: str
) -> Iterator[tuple[Place, Literal["top", "route"], schema.MiddlewareUse]]:
    """The middlewares that a request meets on its way to a route, outermost first, each with its place."""
    for i, use in enumerate(table.middlewares):
        yield ("middlewares", i, use.name), "top", use
    for i, use in enumerate(table.routes[name].middlewares):
        yield ("routes", name, "middlewares", i, use.name), "route", use


def _changes(sent: Sent, redactor: Redactor) -> dict[str, tuple[str, str]]:
    return {name: (redactor.text(old), redactor.text(new)) for name, (old, new) in sent.changes.items()}


def _lines(subject: Subject, sent: Sent) -> Iterator[Line]:
    """Every header of either side but what frames it, in the order of going up, then those that do not."""
    client, up = CIMultiDict(subject.request.headers), sent.headers
    names = {name.lower(): str(name) for name in (*client, *up)}
    order = dict.fromkeys(name.lower() for name in (*up, *client))
    for lower in order:
        if lower in _FRAMING:
            continue
        for before, after in zip_longest(client.getall(lower, ()), up.getall(lower, ())):
            yield _line(names[lower], before, after, subject.redactor)


def _line(name: str, before: str | None, after: str | None, redactor: Redactor) -> Line:
    change: Literal["kept", "added", "changed", "removed"] = "kept"
    if before != after:
        change = "added" if before is None else "removed" if after is None else "changed"
    shown = [None if value is None else redactor.header(name, value) for value in (before, after)]
    return Line(name, change, shown[0], shown[1])
