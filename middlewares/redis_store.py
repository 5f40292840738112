"""A Redis that several processes count in, on one machine or many.

Each decision is one script and one round trip. Slots are leases, which a heartbeat renews: those of a process
that was killed come back by themselves. When Redis does not answer, this process decides by what it has
counted itself, or refuses, as the limit says; it goes on asking Redis whether it is back, and no request
waits for that. Every slot that is held here is known here too, so that neither side starts from nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from config.stores import Store
from middlewares.redis_link import BUDGET_S, Argument, Link, Reply, StoreLost
from middlewares.redis_scripts import (
    CORRECT,
    LEASE_MS,
    PROBE,
    PROBE_MS,
    RELEASE,
    RENEW,
    SHARE,
    TAKE,
)
from middlewares.sharing import Heard, Sharing
from middlewares.store import SLOT_RETRY_S, Demand, Grant, MemoryStore, Refused

_TURN_S = 0.25
"""How often what is shared is told and heard."""
_TRY_AGAIN_S = 0.5
_RENEW_S = 5.0
_REFUSE_FOR_S = 1.0
_ON_ITS_WAY_S = 0.01
"""For a slot that is given back after the last byte, to arrive."""
_CIRCUITS = "tidegate:{shared}:circuits"
_RESTING = "tidegate:{shared}:resting"
_HEARD = msgspec.json.Decoder(Heard)


class RedisStore:
    """Does nothing until `start`. `told` hears `store_lost` and `store_back`, with the facts for the log."""

    def __init__(self, store: Store, sharing: Sharing, told: Callable[[str, dict[str, str]], None]) -> None:
        self.name = store.shown
        self.failures = 0
        """How often it was asked in vain."""
        self._told = told
        self._link = Link(store.url, self._lost)
        self._local = MemoryStore()
        self._sharing = sharing
        self._process = secrets.token_hex(8)
        self._number = 0
        self._leases: dict[str, set[str]] = {}
        self._first = asyncio.Event()
        self._away = False
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._link.up

    def start(self) -> None:
        """Connect, and keep in touch until `close`. Once is enough."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_in_touch())

    async def close(self) -> None:
        """Let go of it. What is still held runs out by itself."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._first.set()
        await self._link.close()

    # ---- limits

    async def take(self, demand: Demand, *, refuses: bool = False) -> Grant | Refused:
        """Decide for all processes; without Redis for this one, or not at all."""
        if not self._first.is_set():
            await self._until_first()
        if self._link.up:
            with suppress(StoreLost):
                return await self._ask_twice(demand)
        if refuses:
            return Refused(None, _REFUSE_FOR_S)
        decided = self._local.decide(demand)
        if isinstance(decided, Refused):
            return decided
        return _Counted(self, demand, self._lease(demand), remotely=False)

    async def _until_first(self) -> None:
        """The first to come may come before the connection is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BUDGET_S):
                await self._first.wait()

    async def _ask_twice(self, demand: Demand) -> Grant | Refused:
        """A client that has its answer may ask another machine before the slot's return is known there."""
        found = await self._ask(demand)
        if isinstance(found, Refused) and found.kind == "concurrent":
            await asyncio.sleep(_ON_ITS_WAY_S)
            found = await self._ask(demand)
        return found

    async def _ask(self, demand: Demand) -> Grant | Refused:
        lease = "" if demand.limits.concurrent is None else self._next_lease()
        keys, arguments = taking(demand, lease)

        def granted(reply: Reply) -> Grant | Refused:
            if (refused := refusal_in(demand, reply)) is not None:
                return refused
            if lease:
                self._local.hold(demand.name)
                self._leases.setdefault(demand.name, set()).add(lease)
            return _Counted(self, demand, lease, remotely=True)

        def unwanted(reply: Reply) -> None:
            grant = granted(reply)
            if not isinstance(grant, Refused):
                grant.end(0)

        answer = self._link.ask(TAKE, keys, arguments, unwanted)
        try:
            reply = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # It came in the very moment in which whoever waited for it was told to leave.
                unwanted(answer.result())
            raise
        return granted(reply)

    def _lease(self, demand: Demand) -> str:
        """One that Redis does not know yet; it will, by the next heartbeat that reaches it."""
        if demand.limits.concurrent is None:
            return ""
        lease = self._next_lease()
        self._leases.setdefault(demand.name, set()).add(lease)
        return lease

    def _next_lease(self) -> str:
        self._number += 1
        return f"{self._process}:{self._number}"

    def end(self, counted: _Counted, tokens: int | None) -> None:
        """What was counted is over."""
        demand = counted.demand
        if counted.lease:
            self._local.let_go(demand.name)
            held = self._leases[demand.name]
            held.discard(counted.lease)
            if not held:
                del self._leases[demand.name]
            self._link.tell(RELEASE, [_slots_key(demand.name)], [counted.lease])
        rate = demand.limits.tokens
        if rate is None or tokens is None or tokens == demand.held:
            return
        more = tokens - demand.held
        if counted.remotely:
            key = _bucket_key(demand.name, "tokens", rate.seconds)
            self._link.tell(CORRECT, [key], [rate.count, rate.seconds, more])
        else:
            self._local.correct(demand.name, rate, more)

    # ---- what else is shared

    async def may_probe(self, route: str) -> bool:
        """Whether this process is the one that may try a provider whose breaker was opened."""
        if self._link.up:
            with suppress(StoreLost):
                mine = await self._link.ask(PROBE, [f"{_CIRCUITS}:probe:{route}"], [self._process, PROBE_MS])
                if mine:
                    self._sharing.claimed(route)
                return bool(mine)
        return True

    async def _keep_in_touch(self) -> None:
        loop = asyncio.get_running_loop()
        renewed = 0.0
        while True:
            if not self._link.up:
                await self._open()
                renewed = 0.0
            if self._link.up:
                with suppress(StoreLost):
                    if loop.time() - renewed >= _RENEW_S:
                        await self._renew()
                        renewed = loop.time()
                    await self._share()
            await asyncio.sleep(_TURN_S if self._link.up else _TRY_AGAIN_S)

    async def _open(self) -> None:
        try:
            await self._link.open()
        except StoreLost as error:
            self._lost(error.reason)
        else:
            self._sharing.again()
            if self._away:
                self._away = False
                self._told("store_back", {"store": self.name})
        self._first.set()

    async def _renew(self) -> None:
        for name, leases in tuple(self._leases.items()):
            if current := sorted(leases):
                await self._link.ask(RENEW, [_slots_key(name)], [LEASE_MS, *current])

    async def _share(self) -> None:
        news = msgspec.json.encode(self._sharing.news()).decode()
        told = await self._link.ask(SHARE, [_CIRCUITS, _RESTING], [news, self._process, PROBE_MS])
        self._sharing.hear(_HEARD.decode(told))

    def _lost(self, reason: str) -> None:
        self.failures += 1
        if not self._away:
            self._away = True
            self._told("store_lost", {"store": self.name, "reason": reason})


@dataclass(slots=True, eq=False)
class _Counted:
    """Granted; `lease` is empty without a slot, `remotely` whether Redis has counted it."""

    store: RedisStore
    demand: Demand
    lease: str
    remotely: bool

    def end(self, tokens: int | None) -> None:
        """Give the slot back, and charge what it cost."""
        self.store.end(self, tokens)


def taking(demand: Demand, lease: str) -> tuple[list[str], list[Argument]]:
    """The keys and the arguments of the script `TAKE`."""
    charges, limit = list(demand.charges()), demand.limits.concurrent
    keys = [_bucket_key(demand.name, charge.kind, charge.rate.seconds) for charge in charges]
    arguments: list[Argument] = [len(charges)]
    for charge in charges:
        arguments += [charge.rate.count, charge.rate.seconds, charge.cost]
    if limit is not None:
        keys.append(_slots_key(demand.name))
        arguments += [limit, lease, LEASE_MS]
    return keys, arguments


def refusal_in(demand: Demand, reply: Reply) -> Refused | None:
    """What its reply says; None if the demand was granted."""
    number, wait = int(reply[0]), float(reply[1])
    if not number:
        return None
    charges = list(demand.charges())
    if number > len(charges):
        return Refused("concurrent", SLOT_RETRY_S)
    return Refused(charges[number - 1].kind, wait)


def _bucket_key(name: str, kind: str, seconds: float) -> str:
    return f"tidegate:{{{quote(name, safe='|.:@/ ')}}}:{kind}:{seconds:g}"


def _slots_key(name: str) -> str:
    return f"tidegate:{{{quote(name, safe='|.:@/ ')}}}:slots"
