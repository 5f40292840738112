"""The composition root: everything is made here, handed what it needs, and stopped in order.

Stopping: readiness turns 503 and new requests are refused, after `drain_delay` the listeners close,
exchanges in flight get `drain_timeout`, and what is left then is cut. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from config.addresses import Address
from config.schema import Table
from config.secrets import SecretStore
from middlewares.clocks import Timer
from proxy import __version__
from proxy.handler import Handler
from proxy.listeners import BACKLOG, name_of, open_socket
from proxy.listing import ModelList
from proxy.logs import Journal
from proxy.server import Server
from proxy.table import RouteTable, compile_table
from proxy.upstream import Client

_CUT_WITHIN = 2.0


class App:
    """One running proxy. Make it in a running loop."""

    def __init__(self, table: Table, secrets: SecretStore, journal: Journal) -> None:
        self.timer: Timer = asyncio.get_running_loop()
        self.journal = journal
        self.draining = False
        self.models = ModelList(self.timer)
        self._client = Client()
        self.table: RouteTable = compile_table(table, secrets, self._client, self.timer)
        self._settings = table.server
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._front: list[asyncio.Server] = []
        self._back: list[asyncio.Server] = []
        self._servers: list[Server] = []
        self._paths: list[Path] = []

    def enter(self) -> None:
        """An exchange begins."""
        self._in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """An exchange is over."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    async def start(self) -> None:
        """Listen. Raises `proxy.listeners.CannotListen`."""
        opened = [(address, open_socket(address)) for address in self._settings.listen]
        for address, sock in opened:
            self._front.append(await self._serve(address, sock, "client"))
        if (admin := self._settings.admin) is not None:
            self._back.append(await self._serve(admin, open_socket(admin), "admin"))
        without = [name for name, route in self.table.routes.items() if not route.usable()]
        if without:
            self.journal.info("routes_without_key", routes=", ".join(without), answer="503 key_missing")
        self.journal.info("ready", version=__version__, routes=len(self.table.routes))

    async def _serve(self, address: Address, sock: socket.socket, role: str) -> asyncio.Server:
        server = Server(
            Handler(self, admin=role == "admin"),
            keepalive=self._settings.timeouts.keepalive,
            max_connections=self._settings.max_connections,
        )
        self._servers.append(server)
        if address.kind == "unix":
            self._paths.append(Path(address.path))
        loop = asyncio.get_running_loop()
        if address.kind == "unix":
            listener = await loop.create_unix_server(server, sock=sock, backlog=BACKLOG)
        else:
            listener = await loop.create_server(server, sock=sock, backlog=BACKLOG)
        self.journal.info("listening", role=role, address=name_of(sock))
        return listener

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Stop taking requests, let those in flight finish; False if some had to be cut."""
        self.draining = True
        self.journal.info("draining", in_flight=self._in_flight)
        await _either(hurry.wait(), asyncio.sleep(self._settings.drain_delay))
        for listener in self._front:
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        await _either(hurry.wait(), self._idle.wait(), within=self._settings.drain_timeout)
        return self._in_flight == 0

    async def stop(self) -> None:
        """Close everything that is still open."""
        for listener in (*self._front, *self._back):
            listener.close()
        for server in self._servers:
            server.pre_shutdown()
        for server in self._servers:
            await server.shutdown(_CUT_WITHIN if self._in_flight == 0 else 0.1)
        await self._client.close()


async def _either(*waits: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Until one of them is done, or time is up; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def run(table: Table, secrets: SecretStore, journal: Journal) -> int:
    """Serve until told to stop; the exit code."""
    app = App(table, secrets, journal)
    told, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if told.is_set() else told).set()

    try:
        await app.start()
        gc.collect()
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await told.wait()
        clean = await app.drain(hurry)
    finally:
        await app.stop()
    journal.info("stopped", clean=clean)
    return 0 if clean else 1
