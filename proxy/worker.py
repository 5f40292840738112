"""One of several processes that serve the clients of one program: `python -m proxy.worker DESCRIPTOR`.

Connections, tables and the end come as orders through the descriptor. Signals are for the supervisor: here
they do nothing. When the supervisor dies, what is in flight is finished and nothing new is taken.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from config.catalog import Unusable
from config.certificates import UnusableCertificate
from config.files import Files
from config.loader import Overrides
from config.secrets import SecretStore
from proxy import control
from proxy.app import App
from proxy.control import Channel
from proxy.logs import Journal, where
from proxy.runtime import close_all_but, event_loop
from proxy.source import Source
from proxy.status import report_of
from proxy.threads import in_thread

_LEFT_TOLD_EVERY_S = 0.05
_LOADED_WITHIN_S = 30.0


class Worker:
    """Make it in a running loop; `sock` is its end of the channel."""

    def __init__(self, sock: socket.socket, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(sock, self._heard, self._orphaned)
        self._hurry, self._over = asyncio.Event(), asyncio.Event()
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._app: App | None = None
        self._source: Source | None = None
        self._left = 0
        self._draining: control.Drain | None = None

    async def run(self) -> int:
        """Serve until told to finish; the exit code."""
        await self._over.wait()
        app, clean = self._app, True
        if app is not None:
            clean = await app.finish(self._hurry, app.table.server.drain_timeout)
            await app.stop()
        self._channel.close()
        return 0 if clean else 1

    def _orphaned(self) -> None:
        if not self._over.is_set():
            self._journal.error("supervisor_died", pid=os.getpid(), so="what is in flight is finished")
        if self._app is not None:
            self._app.draining = True
        self._over.set()

    def _heard(self, data: bytes, descriptor: int | None) -> None:
        order: control.Order = msgspec.msgpack.decode(data, type=control.Order)
        match order:
            case control.Accepted() | control.Load() if descriptor is None:
                self._lost_descriptor(order)
            case control.Accepted(role, tls):
                assert self._app is not None, "it is sent to those that are ready"
                self._app.take(socket.socket(fileno=descriptor), role, tls=tls)
            case control.Load():
                assert descriptor is not None, "or it was lost"
                self._spawn_load(order, read_files(descriptor))
            case control.Drain():
                self._draining = order
                self._drain()
            case control.Finish():
                self._over.set()
            case control.Hurry():
                self._hurry.set()
                self._over.set()
            case control.Ping():
                self._channel.send(control.Pong())
            case control.Ask(number):
                for part in control.in_parts(number, self._report()):
                    self._channel.send(part)

    def _lost_descriptor(self, order: control.Accepted | control.Load) -> None:
        """The kernel drops what would be one open file too many."""
        if isinstance(order, control.Accepted):
            self._journal.error("cannot_accept", reason=os.strerror(errno.EMFILE))
            self._note_left()
        else:
            self._channel.send(control.Refused(os.strerror(errno.EMFILE)))

    def _drain(self) -> None:
        if self._app is None or self._draining is None:
            return
        if self._draining.taken_over:
            self._app.hand_over()
        else:
            self._app.draining = True

    def _spawn_load(self, load: control.Load, contents: Mapping[str, bytes]) -> None:
        task = self._loop.create_task(self._load(load, contents))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, load: control.Load, contents: Mapping[str, bytes]) -> None:
        async with self._loading:  # one after the other: the last is to win
            try:
                await self._put_in_force(load, contents)
            except (UnusableCertificate, Unusable, ValueError) as error:
                self._channel.send(control.Refused(str(error)))
            except Exception as error:
                # The last resort: what is served goes on, and the supervisor knows.
                reason = f"{type(error).__name__} was not foreseen, {where(error)}"
                self._channel.send(control.Refused(reason))
            else:
                self._channel.send(control.Ready(load.number))

    async def _put_in_force(self, load: control.Load, contents: Mapping[str, bytes]) -> None:
        source = _source(load, None if self._source is None else self._source.secrets)
        files = Files(source.secrets.base, contents)
        loaded = await in_thread(lambda: source.load(files), _LOADED_WITHIN_S)
        if loaded.table is None:
            raise ValueError("; ".join(str(problem) for problem in loaded.problems))
        app = self._app or App(source.secrets, self._journal, left=self._note_left)
        app.adopt(app.compile(loaded, files))
        app.metrics.reloaded(success=True)
        self._source = source
        if self._app is None:
            self._app = app
            self._drain()
            gc.collect()
            gc.freeze()

    def _report(self) -> bytes:
        if self._app is None:
            return b""
        return msgspec.msgpack.encode(report_of(self._app))

    def _note_left(self) -> None:
        self._left += 1
        if self._left == 1:
            self._loop.call_later(_LEFT_TOLD_EVERY_S, self._tell_left)

    def _tell_left(self) -> None:
        left, self._left = self._left, 0
        self._channel.send(control.Left(left))


def _source(load: control.Load, secrets: SecretStore | None) -> Source:
    path = Path(load.path)
    overrides = Overrides(listen=load.listen, admin=load.admin)
    return Source(path, os.environ, overrides, secrets or SecretStore(os.environ, path.parent), load.tls)


def read_files(descriptor: int) -> dict[str, bytes]:
    """The files that came with an order."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return msgspec.msgpack.decode(file.read(), type=dict[str, bytes])


def main(arguments: list[str]) -> int:
    """Be a worker; the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    close_all_but({int(arguments[0])})
    journal = Journal()
    journal.take_over_stdlib()
    sock = socket.socket(fileno=int(arguments[0]))

    async def work() -> int:
        return await Worker(sock, journal).run()

    with asyncio.Runner(loop_factory=event_loop) as runner:
        return runner.run(work())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
