"""The rules about what a provider is asked for: the path that requests go to, and the name of the model."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from config.providers import base_of
from config.report import Place
from config.site import Site
from config.upstreams import surplus_path
from config.wording import quoted, short

_VERSION = re.compile(r"v[0-9]+[a-z0-9]*", re.IGNORECASE)


def judge_addressing(site: Site) -> None:
    """Warn of what a provider would most likely answer 404 to."""
    for name, route in site.routes.items():
        place: Place = ("routes", name, "upstream")
        if site.upstream(name) is not None:
            if (surplus := surplus_path(route.upstream)) is not None:
                _operation(site, place, route.upstream, surplus)
            else:
                _version(site, place, route.upstream)
            _prefix(site, name)


def _operation(site: Site, place: Place, text: str, surplus: str) -> None:
    instead = ""
    if place not in site.report.sources:
        instead = f": write {short(text.rstrip('/').removesuffix(surplus))}"
    message = f"this upstream ends in {surplus}, which requests bring along themselves{instead}"
    site.report.warn_at(place, "upstream-path", message)


def _version(site: Site, place: Place, text: str) -> None:
    """A request's path goes up without its /v1, so the upstream has to end in the provider's own."""
    parts = urlsplit(text)
    path = parts.path.rstrip("/")
    base = base_of(parts.hostname or "")
    slash = ""
    versions = [segment for segment in path.split("/") if _VERSION.fullmatch(segment)]
    if base is not None and path != base and (not versions or path == "/v1"):
        instead = f"{parts.scheme}://{parts.netloc}{base}"
        reason = f"{parts.netloc} serves its API under {base}"
    elif base is None and not parts.path:
        # A slash at the end says that the root is meant.
        instead = f"{text}/v1"
        slash = ", or end it in a slash if its API begins at the root"
        reason = "this upstream has no /v1, and requests go up without theirs"
    else:
        return
    if place in site.report.sources:
        message = f"the path of {quoted(site.report.sources[place])} is not where its provider's API begins"
    else:
        message = f"{reason}: write {short(instead)}{slash}"
    site.report.warn_at(place, "upstream-version", message)


def _prefix(site: Site, name: str) -> None:
    """Without `prefix_rewrite` a provider is asked for ROUTE/MODEL, which it does not know."""
    route = site.routes[name]
    if "prefix_rewrite" not in site.catalog.entries or ("routes", name, "middlewares") in site.report.broken:
        return
    if any(_renames(site, use.name, use.options) for use in route.middlewares):
        return
    targets = {target.partition("/")[0] for rungs in site.table.models.values() for target in rungs}
    bare = route.serves or site.table.default_route == name
    if bare and route.list == () and name not in targets:
        return  # nobody is ever told a name with the prefix
    message = (
        f"{quoted(name)} has no prefix_rewrite, so {quoted(f'{name}/MODEL')} goes up as it is: "
        "write - prefix_rewrite, or - prefix_rewrite: {strip: ''} if that is meant"
    )
    site.report.warn_at(_chain(site, name), "no-prefix-rewrite", message)


def _chain(site: Site, name: str) -> Place:
    chain: Place = ("routes", name, "middlewares")
    return chain if chain in site.report.marks else ("routes", name)


def _renames(site: Site, middleware: str, options: object) -> bool:
    """May this one change the model's name? What others have made is not known."""
    fixed = middleware == "params" and "model" in getattr(options, "set", {})
    return middleware == "prefix_rewrite" or fixed or middleware not in site.catalog.entries
