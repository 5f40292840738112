"""The stores of one process: its memory, and each Redis that the table in force names.

They outlive tables. A Redis is not connected to before a table that names it is in force, and let go of with
the last that did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from config.stores import Store as Place
from middlewares.resting import Resting
from middlewares.sharing import Shareable, Sharing
from middlewares.store import MemoryStore, Store

if TYPE_CHECKING:
    from middlewares.redis_store import RedisStore

Told = Callable[[str, dict[str, str]], None]


class Figures(NamedTuple):
    """Whether a store answers, and how often it did not."""

    up: bool
    failures: int


class Stores:
    """`told` hears what is for the log. Without `connects` no Redis is ever asked: for who serves nobody."""

    def __init__(self, told: Told = lambda _event, _facts: None, *, connects: bool = True) -> None:
        self.memory = MemoryStore()
        self.resting = Resting()
        self._told = told
        self._connects = connects
        self._shared: dict[Place, RedisStore] = {}
        self._sharing: dict[Place, Sharing] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def find(self, place: Place) -> Store:
        """The store at that place; nothing is connected yet."""
        return self.shared(place) if place.url else self.memory

    def shared(self, place: Place) -> RedisStore:
        """The Redis at that place, made if there is none yet."""
        if place not in self._shared:
            # Late: it brings a client for Redis along, and most tables need none.
            from middlewares.redis_store import RedisStore  # noqa: PLC0415

            sharing = self._sharing[place] = Sharing(self.resting)
            self._shared[place] = RedisStore(place, sharing, self._told)
        return self._shared[place]

    def adopt(
        self, wanted: Collection[Place], fleet: Place | None, circuits: Mapping[str, Shareable]
    ) -> None:
        """These are the table's. `fleet` is where `circuits`, the breakers of its routes, are shared."""
        for place in [place for place in self._shared if place not in wanted]:
            self._let_go(self._shared.pop(place))
            del self._sharing[place]
        for place in wanted:
            store = self.shared(place)
            self._sharing[place].share(circuits if place == fleet else {})
            if self._connects:
                store.start()

    def _let_go(self, store: RedisStore) -> None:
        if self._connects:
            task = asyncio.get_running_loop().create_task(store.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def figures(self) -> dict[str, Figures]:
        """Of each Redis, by its name without the login."""
        if not self._connects:
            return {}
        return {store.name: Figures(store.up, store.failures) for store in self._shared.values()}

    async def close(self) -> None:
        """Nobody is served any more."""
        for place in tuple(self._shared):
            self._let_go(self._shared.pop(place))
        await asyncio.gather(*self._closing)
