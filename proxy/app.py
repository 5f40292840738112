"""The composition root: everything is made here, handed what it needs, and stopped in order.

Stopping: readiness turns 503 and new requests are refused, after `drain_delay` the listeners close,
exchanges in flight get `drain_timeout`, and what is left then is cut. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.addresses import Address
from config.certificates import listener_context
from config.schema import Table
from config.secrets import SecretStore
from middlewares.clocks import Timer
from proxy import __version__
from proxy.departures import Departures
from proxy.handler import Handler, Serving
from proxy.handshakes import tell_of_failures
from proxy.kernel import LAST_BYTES_WITHIN_MS
from proxy.listeners import BACKLOG, name_of, open_socket
from proxy.listing import ModelList
from proxy.logs import Journal
from proxy.server import Connections, Server, Shared
from proxy.table import RouteTable, compile_table
from proxy.upstream import Client

_TOLD_WITHIN_S = 1.0
"""For the exchanges that are cut: to tell their clients."""
_CLOSED_WITHIN_S = 1.0
"""For the connections that are still open after that."""


class App:
    """One running proxy. Make it in a running loop."""

    def __init__(self, table: Table, secrets: SecretStore, journal: Journal) -> None:
        self.timer: Timer = asyncio.get_running_loop()
        self.journal = journal
        self.draining = False
        self.models = ModelList(self.timer, journal)
        self._client = Client()
        self._departures = Departures()
        self.table: RouteTable = compile_table(table, secrets, self._client, self.timer)
        tls = table.server.tls
        self._tls = None if tls is None else listener_context(tls, secrets.base)
        if self._tls is not None:
            tell_of_failures(self._tls, journal)
        self._in_flight: set[Serving] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._connections = Connections(table.server.max_connections)
        self._front = _Listeners()
        self._back = _Listeners()

    def begin(self, serving: Serving) -> None:
        """An exchange begins."""
        self._in_flight.add(serving)
        self._idle.clear()

    def end(self, serving: Serving) -> None:
        """An exchange is over."""
        self._in_flight.discard(serving)
        if not self._in_flight:
            self._idle.set()

    async def start(self) -> None:
        """Listen. Raises `proxy.listeners.CannotListen`."""
        settings = self.table.server
        for address in settings.listen:
            await self._listen(self._front, address, "client", self._connections)
        if settings.admin is not None:
            # Whoever asks how we are is not to be turned away because everybody is here.
            await self._listen(self._back, settings.admin, "admin", Connections(None))
        without = [name for name, route in self.table.routes.items() if not route.usable()]
        if without:
            self.journal.info("routes_without_key", routes=", ".join(without), answer="503 key_missing")
        self.journal.info("ready", version=__version__, routes=len(self.table.routes))

    async def _listen(
        self, listeners: _Listeners, address: Address, role: str, connections: Connections
    ) -> None:
        sock = open_socket(address)
        if address.kind == "unix":
            listeners.paths.append(Path(address.path))
        timeouts = self.table.server.timeouts
        shared = Shared(self.journal, connections, self._departures)
        server = Server(Handler(self, admin=role == "admin"), shared, timeouts)
        listeners.servers.append(server)
        loop = asyncio.get_running_loop()
        if address.kind == "unix":
            opened = await loop.create_unix_server(server, sock=sock, backlog=BACKLOG)
        elif address.kind == "tls" and self._tls is not None:
            opened = await loop.create_server(
                server,
                sock=sock,
                backlog=BACKLOG,
                ssl=self._tls,
                # A handshake is the client's to finish, as a head is.
                ssl_handshake_timeout=timeouts.header,
                # To take the last bytes, which wait below TLS where nobody sees them.
                ssl_shutdown_timeout=LAST_BYTES_WITHIN_MS / 1000,
            )
        else:
            opened = await loop.create_server(server, sock=sock, backlog=BACKLOG)
        listeners.open.append(opened)
        self.journal.info("listening", role=role, address=name_of(sock, tls=address.kind == "tls"))

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Stop taking requests, let those in flight finish; False if some had to be cut."""
        self.draining = True
        settings = self.table.server
        self.journal.info("draining", in_flight=len(self._in_flight))
        await _either(hurry.wait(), asyncio.sleep(settings.drain_delay))
        self._front.close()
        await _either(hurry.wait(), self._idle.wait(), within=settings.drain_timeout)
        left = len(self._in_flight)
        for serving in tuple(self._in_flight):
            serving.cut()
        await _either(self._idle.wait(), within=_TOLD_WITHIN_S)
        return left == 0

    async def stop(self) -> None:
        """Close everything that is still open."""
        for listeners in (self._front, self._back):
            listeners.close()
            for server in listeners.servers:
                server.pre_shutdown()
                await server.shutdown(_CLOSED_WITHIN_S)
        await self._client.close()
        self._departures.close()


@dataclass(slots=True)
class _Listeners:
    """What listens for one kind of caller, and the unix sockets' files."""

    open: list[asyncio.Server] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def close(self) -> None:
        """Take no more connections; those that are open stay."""
        for listener in self.open:
            listener.close()
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.open.clear()
        self.paths.clear()


async def _either(*waits: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Until one of them is done, or time is up; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def run(table: Table, secrets: SecretStore, journal: Journal) -> int:
    """Serve until told to stop; the exit code."""
    told, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if told.is_set() else told).set()

    # Before anybody is told that we are there: who starts us may stop us in the same breath.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    app = App(table, secrets, journal)
    try:
        await app.start()
        gc.collect()
        gc.freeze()
        await told.wait()
        clean = await app.drain(hurry)
    finally:
        await app.stop()
    journal.info("stopped", clean=clean)
    return 0 if clean else 1
