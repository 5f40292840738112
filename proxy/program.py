"""The life of the program: signals, listeners, edits of the table, and the end.

It serves by itself, or has a crew of workers serve, and then keeps only the admin listener.

Stopping: readiness turns 503 and new requests are refused, after `drain_delay` the listeners close,
exchanges in flight get `drain_timeout`, and what is left then is cut. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Sequence, Sized
from dataclasses import replace
from importlib import import_module

from config.addresses import Address
from config.files import Files
from config.loader import Loaded
from config.schema import Server
from proxy import __version__
from proxy.acceptor import Acceptor
from proxy.activation import Passed, require, take_sockets
from proxy.app import App, either
from proxy.crew import Crew
from proxy.listeners import Listener, Role, open_listener
from proxy.logs import Journal
from proxy.notify import Notifier
from proxy.reload import Reloads
from proxy.source import Source
from proxy.upgrade import CannotUpgrade, Inherited, start_anew

_HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Program:
    """Make it in a running loop; `loaded` is the table to begin with, without errors."""

    def __init__(self, source: Source, loaded: Loaded, journal: Journal) -> None:
        assert loaded.table is not None, "one with errors is not served"
        server = loaded.table.server
        if any(address.kind == "tls" for address in server.listen):
            # Those listeners stay until a restart, and so does what they need.
            source = replace(source, tls=server.tls)
        self._loaded = loaded
        self._journal = journal
        workers = _number_of(server)
        self._app = App(source.secrets, journal, serves=workers == 1)
        self._crew = self._made(Crew(workers, source, journal)) if workers > 1 else None
        self._reloads = Reloads(source, self, journal)
        self._acceptors: list[Acceptor] = []
        self._inherited = Inherited(os.environ)
        self._notifier = Notifier(os.environ, asyncio.get_running_loop(), journal)
        self._told, self._hurry = asyncio.Event(), asyncio.Event()
        self._reload, self._upgrade = asyncio.Event(), asyncio.Event()
        self._signalled = self._taken_over = False

    def _made(self, crew: Crew) -> Crew:
        app = self._app
        app.others, app.served = crew.reports, lambda: crew.serves
        crew.full, crew.free = self._pause, self._go_on
        crew.fell_behind = lambda: app.metrics.reloaded(success=False)
        return crew

    async def run(self, files: Files) -> int:
        """Serve until told to stop; the exit code.

        Raises CannotListen, CannotStart, UnusableSocket, UnusableCertificate, Unusable.
        """
        # Before anybody is told that we are there: who starts us may stop us in the same breath.
        self._heed_signals()
        try:
            self._reloads.begin(self._loaded, files)
            self._bind()
            if self._crew is not None:
                await self._start_crew(self._crew)
            if not self._told.is_set():
                self._start()
                gc.collect()
                gc.freeze()
                await self._until_told()
            clean = await self._drain()
        finally:
            self._close_listeners("client", "admin")
            if self._crew is not None:
                await self._crew.stop()
            await self._app.stop()
            self._notifier.close()
            # A signal in this last moment has nobody left to tell, and must not be what we died of.
            signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
        self._journal.info("stopped", clean=clean)
        return 0 if clean else 1

    def put_in_force(self, loaded: Loaded, files: Files) -> None:
        """Serve by it from now on. Raises UnusableCertificate, Unusable."""
        self._app.adopt(self._app.compile(loaded, files))
        if self._crew is not None:
            self._crew.limit = self._app.table.server.max_connections
            self._crew.load(files)

    def reloading(self) -> None:
        """An edit was noticed."""
        self._notifier.reloading("reading the table again")

    def reloaded(self, *, success: bool) -> None:
        """It was taken, or refused."""
        self._app.metrics.reloaded(success=success)
        self._notifier.ready(
            _status(self._app.table.routes) + ("" if success else "; the last edit was refused")
        )

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            (self._hurry if self._signalled else self._told).set()
            self._signalled = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.add_signal_handler(signal.SIGUSR2, self._upgrade.set)

    async def _start_crew(self, crew: Crew) -> None:
        """Until it serves, or until somebody has us stop. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        starting, told = loop.create_task(crew.start()), loop.create_task(self._told.wait())
        try:
            await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait((starting,))
        if not starting.cancelled():
            starting.result()

    def _bind(self) -> None:
        server = self._app.table.server
        addresses: list[tuple[Address, Role]] = [
            (address, "client") for address in dict.fromkeys(server.listen)
        ]
        if server.admin is not None:
            addresses.append((server.admin, "admin"))
        passed = take_sockets(os.environ)
        for address, role in addresses:
            found = self._inherited.take(address, role)
            if not found and address.kind == "systemd":
                found = _of_systemd(address, role, passed, admin_too=server.admin == address)
            found = found or [open_listener(address, role)]
            self._acceptors += [Acceptor(listener, self._take, self._journal) for listener in found]

    def _start(self) -> None:
        for acceptor in self._acceptors:
            acceptor.start()
            listener = acceptor.listener
            self._journal.info("listening", role=listener.role, address=listener.name)
        routes = self._app.table.routes
        without = [name for name, route in routes.items() if not route.usable()]
        if without:
            self._journal.info("routes_without_key", routes=", ".join(without), answer="503 key_missing")
        self._notifier.ready(_status(routes))
        took_over = self._inherited.serve()
        self._journal.info("ready", version=__version__, routes=len(routes), took_over=took_over)

    def _pause(self) -> None:
        """Nobody could serve another client now."""
        for acceptor in self._acceptors:
            if acceptor.listener.role == "client":
                acceptor.pause()

    def _go_on(self) -> None:
        for acceptor in self._acceptors:
            acceptor.go_on()

    def _take(self, listener: Listener, sock: socket.socket) -> None:
        if self._crew is not None and listener.role == "client":
            self._crew.take(listener, sock)
        else:
            self._app.take(sock, listener.role, tls=listener.tls)

    async def _until_told(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = (
                group.create_task(self._reloads.run(self._reload)),
                group.create_task(self._upgrade_when_told()),
                # While it is still the code of this version: another may be installed before it is needed.
                group.create_task(asyncio.to_thread(import_module, "proxy.exposition")),
            )
            await self._told.wait()
            for task in tasks:
                task.cancel()

    async def _upgrade_when_told(self) -> None:
        while not self._taken_over:
            await self._upgrade.wait()
            self._upgrade.clear()
            try:
                environ = {**os.environ, **self._notifier.for_successor}
                pid = await start_anew((one.listener for one in self._acceptors), environ)
            except CannotUpgrade as error:
                self._journal.error("upgrade_failed", reason=str(error), serving="as before")
                continue
            self._notifier.hand_over(pid)
            self._journal.info("upgraded", pid=pid)
            self._taken_over = True
            self._told.set()

    async def _drain(self) -> bool:
        """Stop taking requests, let those in flight finish; False if some had to be cut."""
        settings = self._app.table.server
        self._notifier.stopping("finishing what is in flight")
        if self._crew is None:
            self._journal.info("draining", in_flight=len(self._app.in_flight))
        else:
            self._journal.info("draining", connections=self._crew.connections)
            self._crew.drain(taken_over=self._taken_over)
        if self._taken_over:
            self._close_listeners("client", "admin")
            self._app.hand_over()
        else:
            self._app.draining = True
            await either(self._hurry.wait(), asyncio.sleep(settings.drain_delay))
            self._close_listeners("client")
        return await (self._crew or self._app).finish(self._hurry, settings.drain_timeout)

    def _close_listeners(self, *roles: Role) -> None:
        """Take no more connections; those that are open stay."""
        for acceptor in tuple(self._acceptors):
            if acceptor.listener.role in roles:
                acceptor.stop()
                listener = acceptor.listener
                mine = self._inherited.served or not listener.inherited
                listener.close(leave_file=self._taken_over or not mine)
                self._acceptors.remove(acceptor)


def _of_systemd(address: Address, role: Role, passed: Sequence[Passed], *, admin_too: bool) -> list[Listener]:
    """The sockets that systemd passed for that role: `admin` is named so, the others are for clients.

    Raises UnusableSocket.
    """
    mine = [one for one in passed if not admin_too or (one.name == "admin") == (role == "admin")]
    require(mine)
    return [Listener(address, role, one.socket) for one in mine]


def _status(routes: Sized) -> str:
    return f"serving {len(routes)} {'route' if len(routes) == 1 else 'routes'}"


def _number_of(server: Server) -> int:
    """Of processes that serve. "auto" is one for each core that we may use."""
    return len(os.sched_getaffinity(0)) if server.workers == "auto" else server.workers
