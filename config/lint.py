"""The rules that hold between the parts of a table: upstreams, listeners, the order of middlewares.

Each rule is a function over a `Site`; none stops another, and none judges a value that could not
be read. Rules of one theme have a file of their own, and are called from here. What a middleware says of
its own options in their place comes from its `review`.
"""

from __future__ import annotations

import ipaddress

from msgspec import UNSET

from config.addresses import Address, same_endpoint, same_listener
from config.addressing import judge_addressing
from config.capacity import judge_capacity
from config.catalog import Entry, Reviewed, Scene
from config.clocks import judge_clocks
from config.exposure import judge_exposure
from config.limits import judge_limits
from config.names import judge_names
from config.problems import Finding
from config.reachability import judge_reachability
from config.report import Place
from config.schema import MiddlewareUse, Route
from config.site import Site, each
from config.transport import judge_transport
from config.upstreams import Upstream, parse_proxy, parse_upstream, shown_upstream
from config.wording import listed, quoted, short


def judge(site: Site) -> None:
    """Report everything that is wrong between the parts of the table."""
    judge_names(site.table, site.routes, site.report)
    judge_reachability(site)
    _listeners(site)
    _proxies(site)
    _upstreams(site)
    judge_addressing(site)
    judge_transport(site.table, site.routes, site.report, site.files)
    judge_exposure(site)
    _chains(site)
    judge_clocks(site)
    judge_capacity(site)
    judge_limits(site)


def _listeners(site: Site) -> None:
    server = site.table.server
    if not server.listen:
        site.report.error_at(("server", "listen"), "no-listeners", "listen is empty: write 127.0.0.1:8080")
    for place, address in site.addresses():
        tls_is_readable = ("server", "tls") not in site.report.broken
        if address.kind == "tls" and server.tls is None and tls_is_readable:
            message = "an https:// listener needs a certificate: write server.tls: {cert: FILE, key: FILE}"
            site.report.error_at(place, "tls-missing", message)
    before: list[tuple[Place, Address]] = []
    for place, address in site.addresses():
        for other, taken in before:
            if same_listener(address, taken):
                shown = site.report.shown(place, str(address))
                message = f"{shown} is an address of {other[1]} already: two listeners cannot share it"
                site.report.error_at(place, "same-listener", message)
                break
        else:
            before.append((place, address))


def _proxies(site: Site) -> None:
    for i, text in enumerate(site.table.server.trusted_proxies):
        if text == "unix":
            continue
        place = ("server", "trusted_proxies", i)
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            message = f"{site.report.shown(place, text)} is no network: write 10.0.0.0/8, an address, or unix"
            site.report.error_at(place, "trusted-proxies", message)


def _upstreams(site: Site) -> None:
    for name, route in site.routes.items():
        place = ("routes", name, "upstream")
        if place in site.report.broken or route.upstream == "demo":
            continue
        try:
            upstream = parse_upstream(route.upstream)
        except ValueError as error:
            shown = shown_upstream(site.report.sources.get(place, route.upstream))
            site.report.error_at(place, "upstream-url", f"upstream{shown}: {error}")
        else:
            _not_ourselves(site, place, upstream)
            _not_through_ourselves(site, name, route)


def _not_through_ourselves(site: Site, name: str, route: Route) -> None:
    try:
        proxy = None if route.proxy is None else parse_proxy(route.proxy)
    except ValueError:
        return  # told by the rules about ways
    if proxy is not None:
        _not_ourselves(site, ("routes", name, "proxy"), proxy)


def _not_ourselves(site: Site, place: Place, upstream: Upstream) -> None:
    for own, address in site.addresses():
        if same_endpoint(upstream.host, upstream.port, address):
            shown = site.report.shown(own, str(address))
            message = (
                f"this {place[-1]} is the server's own address {shown}: requests would go round for ever"
            )
            site.report.error_at(place, "own-address", message)
            return


def _chains(site: Site) -> None:
    top = site.table.middlewares
    place: Place = ("middlewares",)
    _once(site, top, place)
    _at_the_top(site, top)
    # What stands at the top goes wherever a route goes.
    for host in sorted({_host(site, name) for name in site.routes}) or [""]:
        _in_order(site, top, place, Scene("", host, (), site.secrets))
    above = tuple(use.name for use in top)
    for name, route in site.routes.items():
        place = ("routes", name, "middlewares")
        _once(site, route.middlewares, place)
        _not_in_routes(site, route.middlewares, place)
        _in_order(site, route.middlewares, place, Scene(name, _host(site, name), above, site.secrets))


def _host(site: Site, name: str) -> str:
    """The host that the route's keys go to; empty for the demo and for what is no URL."""
    upstream = site.upstream(name)
    return "" if upstream is None else upstream.host


def _entry(site: Site, use: MiddlewareUse) -> Entry:
    entry = site.catalog.find(use.name)
    assert entry is not None, "a chain holds only what was found"
    return entry


def _once(site: Site, uses: tuple[MiddlewareUse, ...], place: Place) -> None:
    first: dict[str, int] = {}
    for start, use in site.uses(uses, place):
        if use.name in first and not _entry(site, use).repeatable:
            message = f"{quoted(use.name)} stands in this list already, on line {first[use.name]}"
            site.report.error_at_key(start, "listed-twice", message)
        first.setdefault(use.name, use.mark.line)


def _at_the_top(site: Site, uses: tuple[MiddlewareUse, ...]) -> None:
    allowed = sorted(name for name, entry in site.catalog.entries.items() if entry.top_fields is not None)
    for start, use in site.uses(uses, ("middlewares",)):
        fields = _entry(site, use).top_fields
        if fields is None:
            offer = f"; here may stand {', '.join(allowed)}" if allowed else ""
            message = f"{quoted(use.name)} works on one attempt at a route: move it into the routes{offer}"
            site.report.error_at_key(start, "not-at-top", message)
        elif fields:
            for option in _set_options(site, start):
                if option[-1] not in fields:
                    only = " and ".join(map(repr, sorted(fields)))
                    moved = quoted(str(option[-1]))
                    message = f"here {quoted(use.name)} takes {only} only: move {moved} into the routes"
                    site.report.error_at_key(option, "not-at-top", message)


def _not_in_routes(site: Site, uses: tuple[MiddlewareUse, ...], place: Place) -> None:
    for start, use in site.uses(uses, place):
        if _entry(site, use).top_only:
            message = f"{quoted(use.name)} is for every request: move it to the middlewares of the top level"
            site.report.error_at_key(start, "not-in-routes", message)


def _set_options(site: Site, start: Place) -> list[Place]:
    """The options that the file sets, in a mapping or in a list of them."""
    under = [place for place in site.report.keys if place[: len(start)] == start and len(place) > len(start)]
    depth = min((len(place) for place in under), default=0)
    return [place for place in under if len(place) == depth]


def _in_order(site: Site, uses: tuple[MiddlewareUse, ...], place: Place, scene: Scene) -> None:
    behind = scene.behind
    for start, use in site.uses(uses, place):
        here = Scene(scene.route, scene.host, behind, scene.secrets)
        behind = behind if use.name in behind else (*behind, use.name)
        if use.options is UNSET:
            continue
        for inside, options in each(use.options, start):
            if isinstance(options, Reviewed) and use.name in site.catalog.entries:
                for finding in options.review(here):
                    _find(site, inside, finding)
            if use.name == "rate_limit" and getattr(options, "per", None) == "client":
                _needs_clients(site, inside, here)


def _find(site: Site, start: Place, finding: Finding) -> None:
    place = start if finding.field is None else (*start, finding.field)
    # Findings speak of the options, and of the host that they meet.
    routes = (start[1],) if start[0] == "routes" else site.routes
    sources = [text for other, text in site.report.sources.items() if other[: len(start)] == start]
    interpolated = sources or any(("routes", name, "upstream") in site.report.sources for name in routes)
    message = finding.message if interpolated or not finding.precise else finding.precise
    if start[-1] == "key" or start[-2:-1] == ("key",):
        message = f"route {_plain(str(start[1]))}: {message}" if start[0] == "routes" else message
    if sources:
        message += f" (from {listed(sources)})"
    site.report.add(site.report.mark(place), finding.level, finding.code, message)


def _plain(name: str) -> str:
    return short(name) if name.isprintable() else quoted(name)


def _needs_clients(site: Site, place: Place, scene: Scene) -> None:
    if "client_keys" not in scene.behind:
        message = "a limit per client needs 'client_keys' before it: add that, or write per: address or route"
        site.report.error_at(place, "limit-without-clients", message)
