"""The rules about names: one namespace of routes, aliases and ladders, and who may lead where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, takewhile

from config.report import Place, Report
from config.schema import Route, Table
from config.wording import listed, quoted, short

ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SEPARATOR = re.compile(r"[\s,]+")
# A route's name is the first segment of /{route}/v1/…, beside our own paths.
RESERVED = frozenset({"v1", "healthz", "readyz", "metrics", "status"})


def judge_names(table: Table, routes: dict[str, Route], report: Report) -> None:
    """Report what is wrong with the names of a table."""
    # Routes that could not be read are known by name all the same.
    known = {str(place[1]): routes.get(str(place[1])) for place in report.keys if _is_route(place)}
    _route_names(known, report)
    _explicit_routes(routes, report)
    _claims(routes, report)
    _model_names(known, report)
    for name, targets in table.models.items():
        for place, target in placed(name, targets, report):
            _target(place, target, known, report)
    _default(table.default_route, known, report)


def _is_route(place: Place) -> bool:
    return len(place) == 2 and place[0] == "routes"


def _route_names(known: dict[str, Route | None], report: Report) -> None:
    if not known and ("routes",) not in report.broken:
        message = "there is no route: write at least one under routes, such as demo: {upstream: demo}"
        report.error_at(("routes",), "no-routes", message)
    for name in known:
        if name in RESERVED:
            message = f"{quoted(name)} is a path of tidegate's own and no route's name: choose another"
            report.error_at_key(("routes", name), "route-name", message)
        elif ROUTE_NAME.fullmatch(name) is None:
            message = (
                f"{quoted(name)} is no route's name: use letters, digits, and after the first also . _ -"
            )
            report.error_at_key(("routes", name), "route-name", message)


def _explicit_routes(routes: dict[str, Route], report: Report) -> None:
    for name, route in routes.items():
        if not route.explicit_only:
            continue
        if route.serves:
            message = f"{quoted(name)} is explicit_only, so it cannot claim bare names with serves"
            report.error_at(("routes", name, "serves"), "explicit-only", message)
        if route.list == "ask":
            message = (
                f"{quoted(name)} is explicit_only, so it is never asked for its models: "
                "list names, or nothing"
            )
            report.error_at(("routes", name, "list"), "explicit-only", message)


def _claims(routes: dict[str, Route], report: Report) -> None:
    claimed: dict[str, str] = {}
    for name, route in routes.items():
        for i, model in enumerate(route.list if isinstance(route.list, tuple) else ()):
            if wrong := _objection(model):
                report.error_at(("routes", name, "list", i), "model-name", f"a name in list {wrong}")
        for i, model in enumerate(route.serves):
            place = ("routes", name, "serves", i)
            if wrong := _objection(model):
                report.error_at(place, "model-name", f"a name in serves {wrong}")
            if claimed.setdefault(model, name) != name:
                message = f"{report.shown(place, model)} is claimed by {quoted(claimed[model])} already"
                report.error_at(place, "claimed-twice", message)


def _objection(name: str) -> str | None:
    if not name.strip():
        return "cannot be empty"
    return None if name.isprintable() else "cannot hold control characters or others that are not seen"


def _model_names(known: dict[str, Route | None], report: Report) -> None:
    # Also the names whose targets could not be read.
    names = [str(place[1]) for place in report.keys if len(place) == 2 and place[0] == "models"]
    for name in names:
        place = ("models", name)
        route, slash, _ = name.partition("/")
        if name in known:
            line = report.keys["routes", name].line
            message = f"{quoted(name)} is a route on line {line} already: choose another name"
            report.error_at_key(place, "shared-name", message)
        elif slash and route in known:
            message = f"{quoted(name)} means a model of the route {quoted(route)}: do not begin the name so"
            report.error_at_key(place, "shared-name", message)
        elif wrong := _objection(name):
            report.error_at_key(place, "model-name", f"a name under models {wrong}")


def placed(name: str, targets: tuple[str, ...], report: Report) -> Iterator[tuple[Place, str]]:
    """Each target with its place; those of a ladder that could not be read left gaps."""
    place: Place = ("models", name)
    rungs = takewhile(lambda rung: rung in report.marks, ((*place, i) for i in count()))
    readable = [rung for rung in rungs if rung not in report.broken]
    yield from zip(readable or [place], targets, strict=False)


def _target(place: Place, target: str, known: dict[str, Route | None], report: Report) -> None:
    shown = report.shown(place, target)
    name, slash, model = target.partition("/")
    if _SEPARATOR.search(target):
        report.error_at(place, "target", _several(place, target, report))
    elif name in known and slash and model:
        route = known[name]
        if route is not None and route.explicit_only:
            message = f"{quoted(name)} is explicit_only: no alias or ladder may lead to it"
            report.error_at(place, "explicit-only", _masked(message, name, place, report))
    elif ("models", target) in report.keys:
        message = f"{shown} is a name under models itself, and those do not chain: write its ROUTE/MODEL"
        report.error_at(place, "target", message)
    elif name in known:
        report.error_at(place, "target", f"{shown} has no model: write ROUTE/MODEL")
    elif not slash or not name or not model:
        near = "" if place in report.sources else report.hint(name, known) or _example(target, known)
        report.error_at(place, "target", f"{shown} is not ROUTE/MODEL{near}")
    else:
        report.error_at(place, "unknown-route", _unknown(place, name, known, report))


def _several(place: Place, target: str, report: Report) -> str:
    message = f"{report.shown(place, target)} has white space or a comma in it"
    parts = [short(part) for part in _SEPARATOR.split(target) if part]
    if place in report.sources or len(place) > 2 or not all(part.isprintable() for part in parts[:3]):
        return f"{message}: a target is one ROUTE/MODEL"
    return f"{message}: a list stands in brackets: [{', '.join(parts[:3])}{', …' if parts[3:] else ''}]"


def _example(target: str, known: dict[str, Route | None]) -> str:
    route = next((name for name, route in known.items() if route and not route.explicit_only), None)
    if route is None or not all(map(ROUTE_NAME.fullmatch, (route, target))):
        return ""
    return f": write ROUTE/MODEL, for example {short(route)}/{short(target)}"


def _default(name: str | None, known: dict[str, Route | None], report: Report) -> None:
    place: Place = ("default_route",)
    if name is None:
        return
    route = known.get(name)
    head, slash, _ = name.partition("/")
    if name not in known and slash and head in known and place not in report.sources:
        report.error_at(place, "unknown-route", f"a default_route is a route alone: write {short(head)}")
    elif name not in known:
        report.error_at(place, "unknown-route", _unknown(place, name, known, report))
    elif route is not None and route.explicit_only:
        message = f"{quoted(name)} is explicit_only: it cannot be the default_route"
        report.error_at(place, "explicit-only", _masked(message, name, place, report))


def _unknown(place: Place, name: str, known: dict[str, Route | None], report: Report) -> str:
    if place in report.sources:
        return f"{quoted(report.sources[place])} names no route"
    offer = f": there are {listed(known)}" if known else ""
    return f"there is no route {quoted(name)}{report.hint(name, known) or offer}"


def _masked(message: str, name: str, place: Place, report: Report) -> str:
    """`message` with the source in place of a name that came from the environment."""
    return (
        message.replace(quoted(name), quoted(report.sources[place])) if place in report.sources else message
    )
