"""`GET /status`: the state of one process as data, for a person with curl and for programs.

Field by field it is described in docs/operation.md. It holds no key and no value that came from the
environment, and it can be encoded, so that another process may show it among others of its kind.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from msgspec import Struct, structs
from yarl import URL

from config.loader import Loaded
from config.report import Place
from middlewares.breaker import Breaker, State
from middlewares.clocks import Clocks
from middlewares.concurrency import Concurrency
from middlewares.exchange import Middleware
from middlewares.faults import Refusal
from middlewares.key import Key
from middlewares.stores import Stores
from proxy import __version__
from proxy.ladder import Route
from proxy.metrics import BREAKER, Metrics, Snapshot, outcomes_of
from proxy.server import Connections
from proxy.table import RouteTable

_REDACTED = "[redacted]"
T = TypeVar("T")


class InFlight(Protocol):
    """One exchange that is not over. `route` is empty before one was tried."""

    @property
    def route(self) -> str: ...

    @property
    def client(self) -> str | None: ...

    @property
    def streams(self) -> bool: ...


class Observed(Protocol):
    """What is looked at of the program."""

    table: RouteTable
    loaded: Loaded
    metrics: Metrics
    draining: bool
    connections: Connections
    served: Callable[[], bool]
    """Whether somebody serves its clients."""
    stores: Stores
    others: Callable[[], Awaitable[Sequence[Report]]]
    """What other processes that serve for it report of themselves."""

    @property
    def in_flight(self) -> Collection[InFlight]: ...


class KeyStatus(Struct, frozen=True):
    """`reason` is why a route has no usable key."""

    usable: bool
    reason: str | None = None


class KeyPlace(Struct, frozen=True):
    """One of a route's keys; `source` is where it is, and not what it is."""

    source: str
    usable: bool
    resting_for_s: float


class BreakerStatus(Struct, frozen=True):
    """`open_for_s` is 0 unless it is open."""

    state: State
    failures_in_row: int
    open_for_s: float


class SlotsStatus(Struct, frozen=True):
    """Of `concurrency`. `shared`: the limit is that of a fleet, of which this process has `in_use`."""

    limit: int | str
    in_use: int
    queued: int
    shared: bool = False


class StoreStatus(Struct, frozen=True):
    """Of a Redis that limits are counted in; `failures` since the start."""

    up: bool
    failures: int


class RouteStatus(Struct, frozen=True):
    """What stands in the table is shown unless it was interpolated. `clocks` in seconds."""

    upstream: str
    explicit_only: bool | str
    key: KeyStatus | None
    keys: tuple[KeyPlace, ...]
    clocks: dict[str, float | str | None]
    breaker: BreakerStatus | None
    slots: SlotsStatus | None
    in_flight: int
    requests: dict[str, int]


class ClientStatus(Struct, frozen=True):
    """One client of the clients file."""

    in_flight: int
    requests: dict[str, int]


class ConfigStatus(Struct, frozen=True):
    """The table that is served."""

    file: str
    loaded: str
    last_reload_success: bool


class Status(Struct, frozen=True):
    """One process. Times are ISO 8601, UTC."""

    version: str
    pid: int
    started: str
    uptime_s: float
    config: ConfigStatus
    draining: bool
    in_flight: int
    connections: int
    routes: dict[str, RouteStatus]
    clients: dict[str, ClientStatus]
    stores: dict[str, StoreStatus] = {}
    workers: tuple[Status, ...] = ()
    """Each by itself, where there are several; the rest is then of all of them together."""


class Report(Struct, frozen=True):
    """What one process says of itself; `status` is None of one that has ended."""

    snapshot: Snapshot
    status: Status | None = None


def report_of(program: Observed) -> Report:
    """How things are now, for another process to show."""
    return Report(snapshot_of(program), status_of(program))


def status_of(program: Observed) -> Status:
    """How things are now."""
    metrics = program.metrics
    in_flight = Counter(exchange.route for exchange in program.in_flight)
    return Status(
        version=__version__,
        pid=os.getpid(),
        started=_at(metrics.started),
        uptime_s=round(metrics.uptime, 3),
        config=ConfigStatus(
            program.loaded.file, _at(metrics.reloaded_at), last_reload_success=metrics.reload_success
        ),
        draining=program.draining,
        in_flight=in_flight.total(),
        connections=program.connections.open,
        routes={
            name: _route(program, route, in_flight[name]) for name, route in program.table.routes.items()
        },
        clients=_clients(program),
        stores={name: StoreStatus(one.up, one.failures) for name, one in program.stores.figures().items()},
    )


def _clients(program: Observed) -> dict[str, ClientStatus]:
    gate = program.table.gate
    in_flight = Counter(exchange.client for exchange in program.in_flight)
    return {
        name: ClientStatus(in_flight[name], program.metrics.outcomes_of(name))
        for name in (() if gate is None else gate.names)
    }


def together(own: Status, reports: Sequence[Report]) -> Status:
    """A program whose clients are served by others: sums, and of several breakers the worst."""
    workers = tuple(one.status for one in reports if one.status is not None)
    counted = [one.snapshot.requests for one in reports]
    return structs.replace(
        own,
        in_flight=sum(worker.in_flight for worker in workers),
        connections=sum(worker.connections for worker in workers),
        routes={
            name: _added(
                route, [worker.routes[name] for worker in workers if name in worker.routes], name, counted
            )
            for name, route in own.routes.items()
        },
        clients={name: _client_together(name, workers, counted) for name in own.clients},
        stores=_stores_together(workers),
        workers=workers,
    )


def _client_together(
    name: str, workers: Sequence[Status], counted: Iterable[Mapping[tuple[str, str, int, str], int]]
) -> ClientStatus:
    outcomes: Counter[str] = Counter()
    for requests in counted:
        outcomes.update(outcomes_of(requests, name))
    in_flight = sum(worker.clients[name].in_flight for worker in workers if name in worker.clients)
    return ClientStatus(in_flight, dict(outcomes))


def _stores_together(workers: Sequence[Status]) -> dict[str, StoreStatus]:
    """A store is up when it is to all of them."""
    names = dict.fromkeys(name for worker in workers for name in worker.stores)
    seen = {name: [worker.stores[name] for worker in workers if name in worker.stores] for name in names}
    return {
        name: StoreStatus(all(one.up for one in by_each), sum(one.failures for one in by_each))
        for name, by_each in seen.items()
    }


def _added(
    own: RouteStatus,
    parts: Sequence[RouteStatus],
    name: str,
    counted: Iterable[Mapping[tuple[str, str, int, str], int]],
) -> RouteStatus:
    outcomes: Counter[str] = Counter()
    for requests in counted:
        for (route, _, _, outcome), number in requests.items():
            outcomes[outcome] += number if route == name else 0
    breakers = [part.breaker for part in parts if part.breaker is not None]
    slots = [part.slots for part in parts if part.slots is not None]
    same = [part.keys for part in parts if len(part.keys) == len(own.keys)]
    return structs.replace(
        own,
        keys=tuple(map(_worst, zip(*same, strict=True))) if same else own.keys,
        breaker=max(breakers, key=lambda one: (BREAKER[one.state], one.failures_in_row), default=own.breaker),
        slots=_slots_together(slots) if slots else own.slots,
        in_flight=sum(part.in_flight for part in parts),
        requests={outcome: number for outcome, number in outcomes.items() if number},
    )


def _worst(of_one: Sequence[KeyPlace]) -> KeyPlace:
    """Each process has its own experience with a key."""
    return KeyPlace(
        of_one[0].source,
        usable=all(one.usable for one in of_one),
        resting_for_s=max(one.resting_for_s for one in of_one),
    )


def _slots_together(slots: Sequence[SlotsStatus]) -> SlotsStatus:
    """Each process counts by itself, so that the limits add up; a fleet's is one."""
    limits = [one.limit for one in slots if isinstance(one.limit, int)]
    shared = all(one.shared for one in slots)
    in_all = max(limits, default=0) if shared else sum(limits)
    return SlotsStatus(
        limit=in_all if len(limits) == len(slots) else _REDACTED,
        in_use=sum(one.in_use for one in slots),
        queued=sum(one.queued for one in slots),
        shared=shared,
    )


def snapshot_of(program: Observed) -> Snapshot:
    """The metrics now: what was counted, and what can be looked at."""
    routes = program.table.routes
    streams = dict.fromkeys(routes, 0)
    for exchange in program.in_flight:
        if exchange.streams and (name := exchange.route):
            streams[name] = streams.get(name, 0) + 1
    found = {name: _one(route.middlewares, Breaker) for name, route in routes.items()}
    breakers = {name: one.circuit.state for name, one in found.items() if one is not None}
    return program.metrics.snapshot(streams, breakers, program.stores.figures())


def _route(program: Observed, route: Route, in_flight: int) -> RouteStatus:
    secret = _Secret(program.loaded.interpolated, route)
    settings = route.settings
    breaker = _one(route.middlewares, Breaker)
    return RouteStatus(
        upstream=_REDACTED if secret.interpolated("upstream") else _host(settings.upstream),
        explicit_only=_REDACTED if secret.interpolated("explicit_only") else settings.explicit_only,
        key=_key(route, secret),
        keys=_keys(route, secret),
        clocks=_clocks(route.clocks, secret),
        breaker=None if breaker is None else _breaker(breaker),
        slots=_slots(route, secret),
        in_flight=in_flight,
        requests=program.metrics.outcomes(route.name),
    )


class _Secret:
    """What of one route came from the environment and is not shown."""

    def __init__(self, interpolated: Collection[Place], route: Route) -> None:
        start = ("routes", route.name)
        self._places = [place[2:] for place in interpolated if place[:2] == start]
        self._uses = [use.name for use in route.settings.middlewares]

    def interpolated(self, *place: str | int) -> bool:
        """Whether anything at that place of the route, or below it, was."""
        return any(found[: len(place)] == place for found in self._places)

    def of(self, middleware: str, *option: str) -> bool:
        """Whether an option of that middleware was, or any of them."""
        if middleware not in self._uses:
            return False
        return self.interpolated("middlewares", self._uses.index(middleware), middleware, *option)


def _host(upstream: str) -> str:
    return upstream if upstream == "demo" else URL(upstream).host_port_subcomponent or ""


def _key(route: Route, secret: _Secret) -> KeyStatus | None:
    key = _one(route.middlewares, Key)
    if key is None:
        return None
    if key.available():
        return KeyStatus(usable=True)
    if secret.of("key"):
        return KeyStatus(usable=False, reason="there is no usable key")
    try:
        key.next_key()
    except Refusal as refusal:
        return KeyStatus(usable=False, reason=refusal.message)
    return KeyStatus(usable=True)  # it came this very moment


def _keys(route: Route, secret: _Secret) -> tuple[KeyPlace, ...]:
    key = _one(route.middlewares, Key)
    shown = not secret.of("key")
    return tuple(
        KeyPlace(one.place if shown else _REDACTED, one.usable, round(one.resting_for, 1))
        for one in (() if key is None else key.states())
    )


def _clocks(clocks: Clocks, secret: _Secret) -> dict[str, float | str | None]:
    return {
        name: _REDACTED if secret.of("timeout", name) else getattr(clocks, name)
        for name in clocks.__struct_fields__
    }


def _breaker(breaker: Breaker) -> BreakerStatus:
    circuit = breaker.circuit
    return BreakerStatus(circuit.state, circuit.row, round(circuit.left, 1))


def _slots(route: Route, secret: _Secret) -> SlotsStatus | None:
    for middleware in route.middlewares:
        if isinstance(middleware, Concurrency):
            slots = middleware.slots
            shown = _REDACTED if secret.of("concurrency", "limit") else slots.limit
            held = slots.in_use - slots.lining_up
            return SlotsStatus(shown, held, slots.queued, shared=middleware.shared)
    return None


def _one(middlewares: Collection[Middleware], kind: type[T]) -> T | None:
    return next((one for one in middlewares if isinstance(one, kind)), None)


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
