"""The life of the program: signals, listeners, edits of the table, and the end.

Stopping: readiness turns 503 and new requests are refused, after `drain_delay` the listeners close,
exchanges in flight get `drain_timeout`, and what is left then is cut. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket

from config.files import Files
from config.schema import Table
from proxy import __version__
from proxy.acceptor import Acceptor
from proxy.app import App, either
from proxy.listeners import Listener, open_listener
from proxy.logs import Journal
from proxy.reload import Reloads
from proxy.source import Source


class Program:
    """Make it in a running loop."""

    def __init__(self, source: Source, journal: Journal) -> None:
        self._journal = journal
        self._app = App(source.secrets, journal)
        self._reloads = Reloads(source, self, journal)
        self._acceptors: list[Acceptor] = []
        self._told, self._hurry, self._reload = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, table: Table, files: Files) -> int:
        """Serve until told to stop; the exit code. Raises CannotListen, UnusableCertificate, Unusable."""
        # Before anybody is told that we are there: who starts us may stop us in the same breath.
        self._heed_signals()
        try:
            self._reloads.begin(table, files)
            self._start()
            gc.collect()
            gc.freeze()
            await self._until_told()
            clean = await self._drain()
        finally:
            self._close_listeners("client", "admin")
            await self._app.stop()
        self._journal.info("stopped", clean=clean)
        return 0 if clean else 1

    def put_in_force(self, table: Table, _files: Files) -> None:
        """Serve by it from now on. Raises UnusableCertificate, Unusable."""
        self._app.adopt(*self._app.compile(table))

    def reloaded(self, *, success: bool) -> None:
        """An edit was taken, or refused."""

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            (self._hurry if self._told.is_set() else self._told).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    def _start(self) -> None:
        server = self._app.table.server
        for address in server.listen:
            self._listen(open_listener(address, "client"))
        if server.admin is not None:
            self._listen(open_listener(server.admin, "admin"))
        routes = self._app.table.routes
        without = [name for name, route in routes.items() if not route.usable()]
        if without:
            self._journal.info("routes_without_key", routes=", ".join(without), answer="503 key_missing")
        self._journal.info("ready", version=__version__, routes=len(routes))

    def _listen(self, listener: Listener) -> None:
        acceptor = Acceptor(listener, self._take, self._journal)
        self._acceptors.append(acceptor)
        acceptor.start()
        self._journal.info("listening", role=listener.role, address=listener.name)

    def _take(self, listener: Listener, sock: socket.socket) -> None:
        self._app.take(sock, listener.role, tls=listener.tls)

    async def _until_told(self) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._reloads.run(self._reload, lambda _: None))
            await self._told.wait()
            task.cancel()

    async def _drain(self) -> bool:
        """Stop taking requests, let those in flight finish; False if some had to be cut."""
        settings = self._app.table.server
        self._app.draining = True
        self._journal.info("draining", in_flight=self._app.in_flight)
        await either(self._hurry.wait(), asyncio.sleep(settings.drain_delay))
        self._close_listeners("client")
        return await self._app.finish(self._hurry, settings.drain_timeout)

    def _close_listeners(self, *roles: str) -> None:
        """Take no more connections; those that are open stay."""
        for acceptor in tuple(self._acceptors):
            if acceptor.listener.role in roles:
                acceptor.stop()
                acceptor.listener.close()
                self._acceptors.remove(acceptor)
