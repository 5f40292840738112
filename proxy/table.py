"""A loaded table, compiled: every chain built, every decision that can be made before a request made.

Immutable. A new file gives a new `RouteTable`, whole; exchanges in flight keep the one that they
began with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from yarl import URL

from config import clients, schema
from config.files import Files
from config.report import Place
from config.schema import MiddlewareUse, Server
from config.secrets import SecretStore
from config.stores import Store
from middlewares import rate_limit
from middlewares.breaker import Breaker, Circuit
from middlewares.chain import compile_chain
from middlewares.client_keys import Allowance, ClientKeys, Gate
from middlewares.clocks import Clocks, Timer
from middlewares.concurrency import Concurrency
from middlewares.exchange import FIRST_EVENT, Deps, Handler, Middleware
from middlewares.key import Key
from middlewares.rate_limit import ClientLimits
from middlewares.registry import make
from middlewares.states import States
from middlewares.stores import Stores
from middlewares.stream import Stream
from middlewares.timeout import Timeout
from middlewares.waits import RETRY_AFTER_MAX_S
from proxy import __version__
from proxy.demo.model import DemoModel
from proxy.ladder import Ladder, Route
from proxy.router import Router
from proxy.upstream import Client, Upstream
from proxy.ways import way_to

STATEFUL = frozenset({"breaker", "concurrency", "rate_limit", "retry"})
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
    stores: Stores
    shared: tuple[Store, ...] = ()
    """Every Redis that it names; the first is that of the fleet."""

    def adopt(self) -> None:
        """It is in force from now on: what outlives tables follows this one."""
        circuits: dict[str, Circuit] = {}
        for name, route in self.routes.items():
            for middleware in route.adopting:
                middleware.adopt()
                if isinstance(middleware, Breaker):
                    circuits[name] = middleware.circuit
        self.stores.adopt(self.shared, self.shared[0] if self.shared else None, circuits)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every table of one process is compiled with."""

    secrets: SecretStore
    timer: Timer
    states: States
    stores: Stores = field(default_factory=Stores)


def calling(client: Client, files: Files) -> Innermost:
    """The providers themselves, with the `files` that routes name. Raises UnusableCertificate."""

    def made(route: schema.Route) -> Handler:
        return DemoModel() if route.upstream == "demo" else Upstream(client, way_to(route, files))

    return made


def compile_table(
    table: schema.Table,
    innermost: Innermost,
    around: Surroundings,
    admitted: Sequence[clients.Client] = (),
    interpolated: Collection[Place] = (),
) -> RouteTable:
    """Build everything that `table` describes around what `innermost` makes for each route.

    `admitted` are those of its clients file: where it has `client_keys`, nobody else is let in. What stands
    at the places `interpolated` came from the environment.

    Nothing changes by it until `RouteTable.adopt`. Raises what `innermost` raises, and Unusable for a
    third-party middleware that cannot be made.
    """
    limits = _shared_limits(table)
    fleet = around.stores.shared(limits[0].store) if limits else None
    deps = Deps("", "", around.secrets, OWN_AGENT, states=around.states, stores=around.stores, fleet=fleet)
    top = _made(table.middlewares, deps)
    guarded = any(isinstance(middleware, ClientKeys) for middleware in top)
    if guarded:
        refuses = bool(limits) and limits[0].on_store_failure == "refuse"
        top.append(ClientLimits(fleet or around.stores.memory, refuses=refuses))
    routes = {
        name: _route(
            name,
            route,
            Allowance(innermost(route)) if guarded else innermost(route),
            replace(deps, hides_key=any(_is_of_key(name, place) for place in interpolated)),
        )
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
        stores=around.stores,
        shared=tuple(dict.fromkeys(options.store for options in limits)),
    )


def _shared_limits(table: schema.Table) -> list[rate_limit.Options]:
    """The limits that are counted in a Redis, in the file's order: the first says where the fleet meets."""
    chains = [table.middlewares, *(route.middlewares for route in table.routes.values())]
    uses = [use.options for chain in chains for use in chain if use.name == "rate_limit"]
    return [options for options in uses if options.store.url]


def host_of(route: schema.Route) -> str:
    """The host that a route's keys go to, empty for the embedded demo."""
    return "" if route.upstream == "demo" else URL(route.upstream).host or ""


def _is_of_key(route: str, place: Place) -> bool:
    return place[:3] == ("routes", route, "middlewares") and "key" in place[3:5]


def _route(name: str, route: schema.Route, innermost: Handler, around: Deps) -> Route:
    retries = (use.options for use in route.middlewares if use.name == "retry")
    longest = next((options.retry_after_max for options in retries), RETRY_AFTER_MAX_S)
    deps = replace(around, route=name, host=host_of(route), retry_after_max=longest)
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
