"""What serves requests in one process: the table in force, and everything that outlives a table.

It is handed connections (`take`) and tables (`adopt`); where they come from is `program`'s business, or in a
worker that of its supervisor. An exchange keeps the table that it began with.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from config.certificates import listener_context
from config.files import Files
from config.loader import Loaded
from config.schema import ClientTimeouts
from config.secrets import SecretStore
from middlewares.clocks import Timer
from middlewares.states import States
from middlewares.stores import Stores
from proxy.departures import Departures
from proxy.handler import Handler, Serving
from proxy.handshakes import tell_of_failures
from proxy.kernel import LAST_BYTES_WITHIN_MS
from proxy.listeners import Role
from proxy.listing import ModelList
from proxy.logs import Journal
from proxy.metrics import Metrics
from proxy.server import Connections, Server, Shared
from proxy.status import Report
from proxy.table import RouteTable, Surroundings, calling, compile_table
from proxy.upstream import Client

_TOLD_WITHIN_S = 1.0
"""For the exchanges that are cut: to tell their clients."""
_CLOSED_WITHIN_S = 1.0
"""For the connections that are still open after that."""


class Compiled(NamedTuple):
    """A table that can be put in force."""

    loaded: Loaded
    table: RouteTable
    tls: ssl.SSLContext | None


class App:
    """Make it in a running loop, and `adopt` a table before anything else.

    `left` is called whenever a client's connection is gone. Without `serves` others serve the clients.
    """

    table: RouteTable
    loaded: Loaded

    def __init__(
        self,
        secrets: SecretStore,
        journal: Journal,
        *,
        left: Callable[[], object] = lambda: None,
        serves: bool = True,
    ) -> None:
        self.metrics = Metrics()
        self.served: Callable[[], bool] = lambda: True
        """Whether somebody serves clients, here or in a worker."""
        self.others: Callable[[], Awaitable[Sequence[Report]]] = _nobody
        """What the workers report, where there are any."""
        self.timer: Timer = asyncio.get_running_loop()
        self.journal = journal
        self.draining = False
        self.leaving = False
        """Whether another process has taken over: connections are closed after their next answer."""
        self.models = ModelList(self.timer, journal)
        self._client = Client()
        self._departures = Departures()
        self._left = left
        self.stores = Stores(self._tell_of_store, connects=serves)
        self._around = Surroundings(secrets, self.timer, States(), self.stores)
        self._tls: ssl.SSLContext | None = None
        self._in_flight: set[Serving] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._counted: dict[Role, Connections] = {
            "client": Connections(None, self._gone),
            # Whoever asks how we are is not to be turned away because everybody is here.
            "admin": Connections(None),
        }
        self.connections = self._counted["client"]
        """Of clients, from being accepted on."""
        self._servers: dict[Role, Server] = {
            role: Server(
                Handler(self, admin=role == "admin"),
                Shared(journal, counted, self._departures, self.metrics),
                ClientTimeouts(),
            )
            for role, counted in self._counted.items()
        }

    def compile(self, loaded: Loaded, files: Files) -> Compiled:
        """Everything that `adopt` needs, with nothing changed yet. Raises UnusableCertificate, Unusable."""
        table = loaded.table
        assert table is not None, "one with errors is not served"
        tls = table.server.tls
        context = None if tls is None else listener_context(tls, files)
        if context is not None:
            tell_of_failures(context, self.journal)
        providers = calling(self._client, files)
        compiled = compile_table(table, providers, self._around, loaded.clients or (), loaded.interpolated)
        return Compiled(loaded, compiled, context)

    def adopt(self, compiled: Compiled) -> None:
        """Serve what comes from now on by this table, new connections with this certificate."""
        table = compiled.table
        table.adopt()
        self.loaded, self.table, self._tls = compiled
        self.connections.limit = table.server.max_connections
        for server in self._servers.values():
            server.timeouts = table.server.timeouts

    def _tell_of_store(self, event: str, facts: Mapping[str, str]) -> None:
        (self.journal.warning if event == "store_lost" else self.journal.info)(event, **facts)

    @property
    def in_flight(self) -> Collection[Serving]:
        """The exchanges that are not over."""
        return self._in_flight

    def begin(self, serving: Serving) -> None:
        """An exchange begins."""
        self._in_flight.add(serving)
        self._quiet.clear()

    def end(self, serving: Serving) -> None:
        """An exchange is over."""
        self._in_flight.discard(serving)
        self._judge_quiet()

    def _gone(self) -> None:
        self._left()
        self._judge_quiet()

    def _judge_quiet(self) -> None:
        if not self._in_flight and not (self.leaving and self.connections.open):
            self._quiet.set()

    def take(self, sock: socket.socket, role: Role, *, tls: bool) -> None:
        """Serve a connection that was accepted, unless there are as many as there may be."""
        counted = self._counted[role]
        if not counted.enter():
            sock.close()
            counted.leave()
            return
        opening = asyncio.get_running_loop().create_task(self._open(sock, role, tls=tls))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket, role: Role, *, tls: bool) -> None:
        loop = asyncio.get_running_loop()
        connection = self._servers[role]()
        try:
            if not tls:
                await loop.connect_accepted_socket(lambda: connection, sock)
            elif self._tls is None:
                sock.close()  # never in the clear where TLS was promised
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._tls,
                    # A handshake is the client's to finish, as a head is.
                    ssl_handshake_timeout=self.table.server.timeouts.header,
                    # To take the last bytes, which wait below TLS where nobody sees them.
                    ssl_shutdown_timeout=LAST_BYTES_WITHIN_MS / 1000,
                )
        except (OSError, TimeoutError):
            pass  # gone before it said anything; of a handshake that failed `handshakes` has told
        finally:
            if not connection.made:
                self._counted[role].leave()

    def hand_over(self) -> None:
        """Another process takes what is new; what is asked on open connections is still answered."""
        self.leaving = True
        if self.connections.open:
            self._quiet.clear()

    async def finish(self, hurry: asyncio.Event, within: float) -> bool:
        """Let exchanges in flight end; False if some had to be cut."""
        await either(hurry.wait(), self._quiet.wait(), within=within)
        left = len(self._in_flight)
        for serving in tuple(self._in_flight):
            serving.cut()
        self.leaving = False
        self._judge_quiet()
        await either(self._quiet.wait(), within=_TOLD_WITHIN_S)
        return left == 0

    async def stop(self) -> None:
        """Close everything that is still open."""
        for opening in tuple(self._opening):
            opening.cancel()
        for server in self._servers.values():
            server.pre_shutdown()
            await server.shutdown(_CLOSED_WITHIN_S)
        await self._client.close()
        await self.stores.close()
        self._departures.close()


async def _nobody() -> Sequence[Report]:
    return ()


async def either(*waits: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Until one of them is done, or time is up; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
