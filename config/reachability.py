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
from config.wording import quoted


class _Claim(NamedTuple):
    text: str
    route: str
    place: Place


def judge_reachability(site: Site) -> None:
    """Warn of what no request comes to."""
    claims = list(_claims(site))
    globs = [claim for claim in claims if is_glob(claim.text)]
    budget = Budget()
    told: set[Place] = set()
    for claim in claims:
        if reason := _earlier(site, claim) or _repeated(claims, claim):
            told.add(claim.place)
            site.report.warn_at(claim.place, "shadowed-claim", f"never reached: {reason}")
    for i, claim in enumerate(globs):
        before = [glob for glob in globs[:i] if glob.place not in told]
        if claim.place not in told and (reason := _covered(site, claim, before, budget)):
            told.add(claim.place)
            site.report.warn_at(claim.place, "shadowed-claim", f"never reached: {reason}")
    _default(site, globs, budget)
    _rungs(site)
    _literal_globs(site)


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


def _repeated(claims: Sequence[_Claim], claim: _Claim) -> str | None:
    same = next(other for other in claims if other.text == claim.text)
    return None if same is claim else "it stands in this list already: leave it out"


def _covered(site: Site, claim: _Claim, before: Sequence[_Claim], budget: Budget) -> str | None:
    """What takes every name of a glob, if anything does."""
    for other in before:
        if _is_left(claim.text, [other.text], budget):
            continue
        line = site.report.mark(other.place).line
        owner = "" if other.route == claim.route else f" of the route {quoted(other.route)}"
        shown = site.report.shown(other.place, other.text)
        return f"{shown}{owner} on line {line} takes all of these names: move this before it, or leave it out"
    others = [glob.text for glob in before]
    exact = [text for text in (*site.table.models, *_exact(site)) if matches(claim.text, text)]
    prefixes = [f"{name}/*" for name in site.routes]
    if _is_left(claim.text, [*others, *filter(_is_plain, exact), *prefixes], budget):
        return None
    return "names, prefixes and globs that come first take all of these names together: leave it out"


def _exact(site: Site) -> Iterator[str]:
    return (claim.text for claim in _claims(site) if not is_glob(claim.text))


def _is_plain(name: str) -> bool:
    # A star in an exact name is a letter; whatever matches that one matches others in its place.
    return not is_glob(name)


def _is_left(glob: str, others: Sequence[str], budget: Budget) -> bool:
    try:
        return name_left(glob, others, budget) is not None
    except TimeoutError:
        return True


def _default(site: Site, globs: Sequence[_Claim], budget: Budget) -> None:
    name = site.table.default_route
    if name not in site.routes or not globs or any(glob.route == name for glob in globs):
        return
    if not _is_left("*", [glob.text for glob in globs], budget):
        message = (
            f"only requests that name no model come here: the globs under serves take every name "
            f"(routes {', '.join(map(quoted, sorted({glob.route for glob in globs})))})"
        )
        site.report.warn_at(("default_route",), "shadowed-default", message)


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
