"""What is written and never reached: a claim that something else takes first.

A route can always be named, so none is ever out of reach; what can be is a name or a glob in `serves`, or a
`default_route`. The rules are the router's (`proxy.router`): `models`, then the prefix, then exact names,
then globs in the order of the file, then `default_route`. Nothing is said that is not certain: what a
search cannot decide within its budget is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from config.globs import Budget, is_glob, matches, name_left
from config.names import placed
from config.report import Place
from config.site import Site
from config.wording import listed, quoted


class _Claim(NamedTuple):
    text: str
    route: str
    place: Place


def judge_reachability(site: Site) -> None:
    """Warn of what no request comes to."""
    claims = list(_claims(site))
    first: dict[str, _Claim] = {}
    reached: list[_Claim] = []
    for claim in claims:
        if reason := _earlier(site, claim):
            _tell(site, claim, reason)
        elif first.setdefault(claim.text, claim) is not claim:
            _tell(site, claim, "it stands in this list already: leave it out")
        else:
            reached.append(claim)
    budget = Budget()
    globs = [claim for claim in reached if is_glob(claim.text)]
    exact = [claim.text for claim in reached if not is_glob(claim.text)]
    _globs(site, globs, exact, budget)
    _default(site, globs, budget)
    _rungs(site)
    _literal_globs(site)


def _tell(site: Site, claim: _Claim, reason: str) -> None:
    site.report.warn_at(claim.place, "shadowed-claim", f"never reached: {reason}")


def _claims(site: Site) -> Iterator[_Claim]:
    """What counts of `serves`, in the order in which globs are tried; what is an error is not told twice."""
    owners: dict[str, str] = {}
    for name, route in site.routes.items():
        for i, text in enumerate(route.serves if not route.explicit_only else ()):
            if owners.setdefault(text, name) == name:
                yield _Claim(text, name, ("routes", name, "serves", i))


def _earlier(site: Site, claim: _Claim) -> str | None:
    """What comes before `serves` and takes every name of a claim."""
    if not is_glob(claim.text) and ("models", claim.text) in site.report.keys:
        line = site.report.keys["models", claim.text].line
        return f"this name stands under models on line {line}, which comes first: leave out one of the two"
    first, slash, _ = claim.text.partition("/")
    if slash and first in site.routes:
        return f"what begins with {quoted(f'{first}/')} means the route {quoted(first)} already: leave it out"
    return None


def _globs(site: Site, globs: Sequence[_Claim], exact: Sequence[str], budget: Budget) -> None:
    # A star in an exact name is a letter; what matches that name matches others in its place.
    names = [name for name in (*site.table.models, *exact) if not is_glob(name)]
    prefixes = [f"{name}/*" for name in site.routes]
    before: list[_Claim] = []
    for claim in globs:
        if budget.is_spent:
            return
        if other := next((other for other in before if not _is_left(claim, [other.text], budget)), None):
            line = site.report.mark(other.place).line
            owner = "" if other.route == claim.route else f" of the route {quoted(other.route)}"
            shown = site.report.shown(other.place, other.text)
            reason = (
                f"{shown}{owner} on line {line} takes these names first: move this before it, or leave it out"
            )
            _tell(site, claim, reason)
            continue
        budget.left -= len(names)
        taken = [name for name in names if matches(claim.text, name)]
        if not _is_left(claim, [*(other.text for other in before), *taken, *prefixes], budget):
            reason = "what comes before it takes all of these names together: leave it out"
            _tell(site, claim, reason)
            continue
        before.append(claim)


def _is_left(claim: _Claim, others: Sequence[str], budget: Budget) -> bool:
    try:
        return name_left(claim.text, others, budget) is not None
    except TimeoutError:
        return True


def _default(site: Site, globs: Sequence[_Claim], budget: Budget) -> None:
    name = site.table.default_route
    if name is None or name not in site.routes or not globs or any(glob.route == name for glob in globs):
        return
    place: Place = ("default_route",)
    if not _is_left(_Claim("*", name, place), [glob.text for glob in globs], budget):
        routes = listed(dict.fromkeys(glob.route for glob in globs))
        message = f"only requests that name no model come here: the globs of {routes} take every name"
        site.report.warn_at(place, "shadowed-default", message)


def _rungs(site: Site) -> None:
    for name, targets in site.table.models.items():
        before: set[str] = set()
        for place, target in placed(name, targets, site.report):
            if target in before:
                message = (
                    f"{site.report.shown(place, target)} stands in this ladder already: "
                    "to call it again, give its route the middleware retry"
                )
                site.report.warn_at(place, "repeated-rung", message)
            before.add(target)


def _literal_globs(site: Site) -> None:
    for place in site.report.keys:
        if place[:1] == ("models",) and len(place) == 2 and is_glob(str(place[1])):
            message = (
                f"{quoted(str(place[1]))} means this very name: under models nothing is a glob; "
                "write globs under a route's serves"
            )
            site.report.warn_at_key(place, "glob-in-models", message)
