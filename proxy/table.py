"""A loaded table, compiled: every chain built, every decision that can be made before a request made.

Immutable. A new file gives a new `RouteTable`, whole; exchanges in flight keep the one that they
began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from yarl import URL

from config import clients, schema
from config.files import Files
from config.schema import MiddlewareUse, Server
from config.secrets import SecretStore
from middlewares.breaker import Breaker
from middlewares.chain import compile_chain
from middlewares.client_keys import Allowance, ClientKeys, Gate
from middlewares.clocks import Clocks, Timer
from middlewares.concurrency import Concurrency
from middlewares.exchange import FIRST_EVENT, Deps, Handler, Middleware
from middlewares.key import Key
from middlewares.registry import make
from middlewares.states import States
from middlewares.stream import Stream
from middlewares.timeout import Timeout
from middlewares.waits import RETRY_AFTER_MAX_S
from proxy import __version__
from proxy.demo.model import DemoModel
from proxy.ladder import Ladder, Route
from proxy.router import Router
from proxy.upstream import Client, Upstream
from proxy.ways import way_to

STATEFUL = frozenset({"breaker", "concurrency", "retry"})
"""To list models, or to explain, is no exchange: it takes no slot, proves nothing and is not repeated."""
OWN_AGENT = f"tidegate/{__version__}"


Innermost = Callable[[schema.Route], Handler]
"""Makes the end of a route's chain: what calls the provider, or only tells what would be called."""


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All that serving a request needs: `chain` runs the top level's middlewares around the ladder."""

    server: Server
    routes: Mapping[str, Route]
    router: Router
    chain: Handler
    clocks: Clocks
    is_trusted: Callable[[str], bool]
    """Whether an address is one of `trusted_proxies`."""
    names: tuple[str, ...]
    """The names under `models`, in the file's order."""
    gate: Gate | None
    """Who may ask; None where everybody may."""

    def adopt(self) -> None:
        """It is in force from now on: what outlives tables follows this one."""
        for route in self.routes.values():
            for middleware in route.adopting:
                middleware.adopt()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every table of one process is compiled with."""

    secrets: SecretStore
    timer: Timer
    states: States


def calling(client: Client, files: Files) -> Innermost:
    """The providers themselves, with the `files` that routes name. Raises UnusableCertificate."""

    def made(route: schema.Route) -> Handler:
        return DemoModel() if route.upstream == "demo" else Upstream(client, way_to(route, files))

    return made


def compile_table(
    table: schema.Table, innermost: Innermost, around: Surroundings, admitted: Sequence[clients.Client] = ()
) -> RouteTable:
    """Build everything that `table` describes around what `innermost` makes for each route.

    `admitted` are those of its clients file: where it has `client_keys`, nobody else is let in.

    Nothing changes by it until `RouteTable.adopt`. Raises what `innermost` raises, and Unusable for a
    third-party middleware that cannot be made.
    """
    top = _made(table.middlewares, Deps("", "", around.secrets, OWN_AGENT, states=around.states))
    guarded = any(isinstance(middleware, ClientKeys) for middleware in top)
    routes = {
        name: _route(name, route, Allowance(innermost(route)) if guarded else innermost(route), around)
        for name, route in table.routes.items()
    }
    return RouteTable(
        server=table.server,
        routes=routes,
        router=Router(table),
        chain=_chain(top, Ladder(routes, around.timer)),
        clocks=_clocks(top, Clocks()),
        is_trusted=_trusting(table.server.trusted_proxies),
        names=tuple(table.models),
        gate=Gate(admitted) if guarded else None,
    )


def host_of(route: schema.Route) -> str:
    """The host that a route's keys go to, empty for the embedded demo."""
    return "" if route.upstream == "demo" else URL(route.upstream).host or ""


def _route(name: str, route: schema.Route, innermost: Handler, around: Surroundings) -> Route:
    retries = (use.options for use in route.middlewares if use.name == "retry")
    longest = next((options.retry_after_max for options in retries), RETRY_AFTER_MAX_S)
    deps = Deps(name, host_of(route), around.secrets, OWN_AGENT, longest, around.states)
    made = _made(route.middlewares, deps)
    keys = [middleware for middleware in made if isinstance(middleware, Key)]
    asking = [m for m, use in zip(made, route.middlewares, strict=True) if use.name not in STATEFUL]
    return Route(
        name=name,
        chain=_chain(made, innermost),
        asking=_chain(asking, innermost),
        clocks=_clocks(made, Clocks()),
        commit=next((m.commit for m in made if isinstance(m, Stream)), FIRST_EVENT),
        usable=_all_available(keys),
        listed=_listed(route),
        adopting=tuple(m for m in made if isinstance(m, Breaker | Concurrency)),
        settings=route,
        middlewares=tuple(made),
    )


def _trusting(proxies: tuple[str, ...]) -> Callable[[str], bool]:
    networks = [ip_network(text, strict=False) for text in proxies if text != "unix"]
    unix = "unix" in proxies
    if not proxies:
        return lambda _address: False

    def is_trusted(address: str) -> bool:
        if address == "unix":
            return unix
        try:
            place = ip_address(address)
        except ValueError:
            return False
        return any(place in network for network in networks)

    return is_trusted


def _listed(route: schema.Route) -> tuple[str, ...] | None:
    if isinstance(route.list, tuple):
        return route.list
    return () if route.explicit_only else None


def _made(uses: tuple[MiddlewareUse, ...], deps: Deps) -> list[Middleware]:
    return [make(use.name, use.options, deps) for use in uses]


def _chain(made: list[Middleware], innermost: Handler) -> Handler:
    # What only declares has been read already; as a link it has nothing to do.
    return compile_chain([m for m in made if not isinstance(m, Timeout | Stream | ClientKeys)], innermost)


def _clocks(made: list[Middleware], without: Clocks) -> Clocks:
    return next((m.clocks for m in made if isinstance(m, Timeout)), without)


def _all_available(keys: list[Key]) -> Callable[[], bool]:
    return lambda: all(key.available() for key in keys)
