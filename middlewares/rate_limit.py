"""`rate_limit`: so many requests, tokens and exchanges at a time, for each client, route or address.

What is over a limit is refused at once, 429 with the seconds after which it would not be. All limits of one
use are decided together. A slot is held to the last byte; tokens are charged when the answer says what it
cost. The limits of the clients file are enforced here as well.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.catalog import Scene
from config.problems import Finding, Invalid
from config.stores import MEMORY, StoreText
from config.units import RateText, written_rate
from middlewares.charges import Charge, guess
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import Refusal
from middlewares.store import Demand, Limits, Refused, Store

_UNLIMITED = Limits()
_IPV6_NETWORK = 64
"""Bits: what one household or machine is given, and may change its address within at will."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At least one of `requests`, `tokens`, `concurrent`; whom they are for, and where they are counted."""

    requests: RateText | None = None
    tokens: RateText | None = None
    concurrent: Annotated[int, Meta(ge=1)] | None = None
    per: Literal["client", "route", "address"] = "client"
    store: StoreText = MEMORY
    on_store_failure: Literal["local", "refuse"] = "local"

    def __post_init__(self) -> None:
        if self.requests is None and self.tokens is None and self.concurrent is None:
            raise Invalid("give at least one of requests, tokens, concurrent")

    @property
    def limits(self) -> Limits:
        """The numbers alone."""
        return Limits(self.requests, self.tokens, self.concurrent)

    def review(self, _scene: Scene) -> Iterator[Finding]:
        """A store needs its library, and its password a place outside of the table."""
        if not self.store.url:
            return
        if importlib.util.find_spec("redis") is None:
            message = "a redis store needs the Python package redis: install tidegate[redis]"
            yield Finding("error", "store-library", message, "store")


class Limiter:
    """Enforces limits around the rest of a chain, for whatever name it is given."""

    def __init__(self, store: Store, *, refuses: bool) -> None:
        self._store = store
        self._refuses = refuses

    async def __call__(
        self, subject: Subject, limits: Limits, exchange: Exchange, call_next: Handler
    ) -> Reply:
        """Raises Refusal `rate_limited`."""
        demand = Demand(subject.key, limits, 0 if limits.tokens is None else guess(exchange))
        granted = await self._store.take(demand, refuses=self._refuses)
        if isinstance(granted, Refused):
            raise _refusal(granted, limits, subject.told)
        charge = Charge(exchange, granted, demand.held)
        exchange.stack.callback(charge.close)
        try:
            charge.reply = await call_next(exchange)
        except BaseException as error:
            charge.failed(error)
            raise
        return charge.reply


class Subject(Struct, frozen=True):
    """Whom limits are for: by which name they are counted, and how a message says it."""

    key: str
    told: str


class RateLimit:
    """One use of it."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._limits = options.limits
        self._limiter = Limiter(deps.stores.find(options.store), refuses=options.on_store_failure == "refuse")
        start = f"{deps.route or 'top'}|{options.per}"
        self._subject_of = _SUBJECTS[options.per](start)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raises Refusal `rate_limited`."""
        return await self._limiter(self._subject_of(exchange), self._limits, exchange, call_next)


class ClientLimits:
    """The limits that the clients file gives to the client who asks; nothing without one."""

    def __init__(self, store: Store, *, refuses: bool = False) -> None:
        self._limiter = Limiter(store, refuses=refuses)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raises Refusal `rate_limited`."""
        client = exchange.client
        if client is None:
            return await call_next(exchange)
        own = client.limits
        limits = Limits(own.requests, own.tokens, own.concurrent)
        if limits == _UNLIMITED:
            return await call_next(exchange)
        subject = Subject(f"clients|{client.name}", f"the client {client.name!r}")
        return await self._limiter(subject, limits, exchange, call_next)


def _by_client(start: str) -> Callable[[Exchange], Subject]:
    def of(exchange: Exchange) -> Subject:
        name = "" if exchange.client is None else exchange.client.name
        return Subject(f"{start}|{name}", f"the client {name!r}")

    return of


def _by_route(start: str) -> Callable[[Exchange], Subject]:
    def of(exchange: Exchange) -> Subject:
        # At the top level the route is the first that would be tried.
        route = exchange.route or (exchange.rungs[0].route if exchange.rungs else "")
        return Subject(f"{start}|{route}", f"the route {route!r}")

    return of


def _by_address(start: str) -> Callable[[Exchange], Subject]:
    return lambda exchange: Subject(f"{start}|{network_of(exchange.inbound.remote)}", "your address")


_SUBJECTS = {"client": _by_client, "route": _by_route, "address": _by_address}


def network_of(remote: str) -> str:
    """The address, of IPv6 its network; an IPv4 address in IPv6 clothes is itself."""
    if ":" not in remote:
        return remote
    try:
        address = ipaddress.IPv6Address(remote.partition("%")[0])
    except ValueError:
        return remote
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = int(address) >> (128 - _IPV6_NETWORK) << (128 - _IPV6_NETWORK)
    return f"{ipaddress.IPv6Address(network)}/{_IPV6_NETWORK}"


def _refusal(refused: Refused, limits: Limits, told: str) -> Refusal:
    after = max(1, math.ceil(refused.wait - 1e-6))
    if refused.kind is None:
        message = "Limits cannot be counted at the moment."
    elif refused.kind == "concurrent":
        message = f"All {limits.concurrent} exchanges at a time of {told} are under way."
    else:
        rate = limits.requests if refused.kind == "requests" else limits.tokens
        assert rate is not None, "it has refused"
        count, _, period = written_rate(rate).partition("/")
        message = f"The limit of {count} {refused.kind}/{period} for {told} is reached: wait {after} s."
    return Refusal("rate_limited", message, retry_after=after)
