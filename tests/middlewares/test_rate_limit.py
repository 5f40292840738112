"""Whom a limit is for, and the limits that come with a client."""

from __future__ import annotations

import pytest

from config import clients
from config.clients import Client
from config.units import Rate
from middlewares.exchange import Exchange
from middlewares.faults import Refusal
from middlewares.rate_limit import ClientLimits, Options, RateLimit, network_of
from middlewares.store import Limits, MemoryStore
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of


def named(name: str, limits: Limits | None = None) -> Client:
    own = limits or Limits()
    return Client(
        name=name,
        digest=b"",
        limits=clients.ClientLimits(requests=own.requests, tokens=own.tokens, concurrent=own.concurrent),
    )


def asked_by(client: Client | None) -> Exchange:
    exchange = exchange_of()
    exchange.client = client
    return exchange


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unix", "unix"),
        ("no:address", "no:address"),
    ],
)
def test_an_address_is_its_network(remote: str, network: str) -> None:
    assert network_of(remote) == network


async def test_limits_of_the_clients_file_are_each_clients_own() -> None:
    enforce = ClientLimits(MemoryStore())
    two = Limits(requests=Rate(2, 60.0))
    for name in ("ci", "dev"):
        for _ in range(2):
            await enforce(asked_by(named(name, two)), FakeNext())
        with pytest.raises(Refusal) as caught:
            await enforce(asked_by(named(name, two)), FakeNext())
        assert (caught.value.code, caught.value.retry_after) == ("rate_limited", 30)
        told = f"The limit of 2 requests/min for the client '{name}' is reached: wait 30 s."
        assert caught.value.message == told


@pytest.mark.parametrize("client", [None, named("root"), named("all", Limits())])
async def test_whoever_has_no_limits_is_not_counted(client: Client | None) -> None:
    store = MemoryStore()
    await ClientLimits(store)(asked_by(client), FakeNext())

    assert store.buckets == 0


async def test_a_clients_slot_comes_back_with_its_exchange() -> None:
    enforce = ClientLimits(MemoryStore())
    first, second = (asked_by(named("ci", Limits(concurrent=1))) for _ in range(2))
    await enforce(first, FakeNext())
    with pytest.raises(Refusal, match="All 1 exchanges at a time of the client 'ci' are under way"):
        await enforce(second, FakeNext())
    await first.stack.aclose()
    await enforce(second, FakeNext())


async def test_per_client_counts_by_the_clients_name() -> None:
    limit = RateLimit(Options(requests=Rate(1, 60.0), per="client"), deps_of())
    for name in ("ci", "dev"):
        await limit(asked_by(named(name)), FakeNext())
        with pytest.raises(Refusal, match=f"for the client '{name}'"):
            await limit(asked_by(named(name)), FakeNext())
