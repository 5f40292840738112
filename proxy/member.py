"""One worker as its supervisor sees it, through all its processes: one that dies is followed by another."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from typing import Protocol

import msgspec

from proxy import control
from proxy.control import Channel
from proxy.logs import Journal
from proxy.status import Report

_RESTING_S = (0.25, 30.0)
"""Before a worker that died young twice is started again: at first, and at most. It doubles each time."""
_YOUNG_S = 5.0
_SILENT_S = 30.0
_NOT_FOR_WORKERS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


class Supervisor(Protocol):
    """What a worker needs of its supervisor."""

    stops: asyncio.Event
    """Set when who ends is not missed any more."""

    @property
    def number(self) -> int:
        """Of the table in force."""
        ...

    def order(self) -> control.Load:
        """To serve by the table in force."""
        ...

    def files(self) -> int:
        """A descriptor with the files that belong to it."""
        ...

    def can_take(self) -> None:
        """A worker takes connections, which may not have been so before."""

    def refused(self, worker: int, reason: str) -> None:
        """A worker that serves cannot put the table in force."""

    def has_died(self, report: Report) -> None:
        """A worker is gone; its last words."""


class Member:
    """One worker, through all the processes that it is."""

    def __init__(self, number: int, crew: Supervisor, journal: Journal) -> None:
        self.number = number
        self.connections = 0
        self.ready = False
        self.mute = False
        """Whether it did not answer when it was asked last."""
        self.settled = asyncio.Event()
        self.status: int | None = None
        self.said: Report | None = None
        """Its last report."""
        self._crew = crew
        self._journal = journal
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._over = asyncio.Event()
        self._refusal: str | None = None
        self._table = 0
        self._draining: control.Drain | None = None
        self._heard_at = 0.0
        self._answer: tuple[int, asyncio.Event, bytearray] = (0, asyncio.Event(), bytearray())

    @property
    def takes(self) -> bool:
        """Whether what it is sent reaches it at once."""
        return self._channel is not None and self._channel.clear

    async def keep(self) -> None:
        """Be there until the end: a process that dies is followed by another."""
        row = 0
        try:
            while not self._crew.stops.is_set():
                began = time.monotonic()
                pid, cause = await self._be_a_process()
                if self._crew.stops.is_set():
                    break
                self.settled.set()
                row = row + 1 if time.monotonic() - began < _YOUNG_S else 1
                rest = 0.0 if row == 1 else min(_RESTING_S[0] * 2 ** (row - 2), _RESTING_S[1])
                self._journal.error("worker_died", worker=self.number, pid=pid, cause=cause, again_in_s=rest)
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await self._crew.stops.wait()
        finally:
            self._over.set()

    async def _be_a_process(self) -> tuple[int | None, str]:
        """From the start of one to its end: its id, and what it died of."""
        self._refusal = None
        try:
            process = await self._start()
        except OSError as error:
            return None, f"it cannot be started: {error.strerror or error}"
        if self._crew.stops.is_set():
            self.send(control.Finish())
        self.status = await process.wait()
        self._process = None
        self.ready, self.connections, self._table = False, 0, 0
        self._hang_up()
        if self.said is not None:
            self._crew.has_died(self.said)
            self.said = None
        refusal: str | None = self._refusal  # which it may have said meanwhile
        return process.pid, refusal or _cause(self.status)

    async def ended(self) -> None:
        """Wait for the end of all its processes."""
        await self._over.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        files = self._crew.files()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as undo, theirs:
            undo.callback(ours.close)
            undo.callback(os.close, files)
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "proxy.worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                # A signal for the whole group of the terminal is the supervisor's alone.
                start_new_session=True,
            )
            undo.pop_all()
        self._heard_at = time.monotonic()
        self._channel = Channel(ours, self._heard, self._hang_up, self._crew.can_take)
        self._channel.send(self._crew.order(), files)
        if self._draining is not None:
            self._channel.send(self._draining)
        return process

    def load(self) -> None:
        """Serve by the table in force."""
        if self._channel is None:
            return
        try:
            files = self._crew.files()
        except OSError as error:
            self._crew.refused(self.number, error.strerror or str(error))
            return  # it is tried again
        self._channel.send(self._crew.order(), files)

    def drain(self, order: control.Drain) -> None:
        """No new requests, in this process and in those that follow it."""
        self._draining = order
        self.send(order)

    def take(self, sock: socket.socket, order: control.Accepted) -> None:
        """Here is a connection."""
        self.connections += 1
        self.send(order, sock.detach())

    def send(self, order: control.Order, descriptor: int | None = None) -> None:
        """An order, if there is somebody to take it."""
        if self._channel is not None:
            self._channel.send(order, descriptor)
        elif descriptor is not None:
            os.close(descriptor)

    def ask(self, number: int) -> asyncio.Event:
        """Have it report; the event is set when `said` is what it said."""
        self._answer = (number, asyncio.Event(), bytearray())
        self.send(control.Ask(number))
        return self._answer[1]

    def look_after(self) -> None:
        """See whether its event loop turns; one that stands is ended, and another started."""
        silent = time.monotonic() - self._heard_at
        if self._process is not None and silent > _SILENT_S:
            self._journal.error(
                "worker_stuck", worker=self.number, pid=self._process.pid, silent_s=round(silent)
            )
            self.kill()
        self.send(control.Ping())
        if self.ready and self._table != self._crew.number:
            self.load()  # the order was lost, or refused for what may have passed

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself in this moment
                self._process.send_signal(signal.SIGKILL)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _heard(self, data: bytes, _descriptor: int | None) -> None:
        self._heard_at = time.monotonic()
        news: control.News = msgspec.msgpack.decode(data, type=control.News)
        match news:
            case control.Ready(number):
                self._table = number
                self.ready = True
                self.settled.set()
                self._crew.can_take()
            case control.Refused(reason):
                if self.ready:
                    self._crew.refused(self.number, reason)
                else:
                    self._refusal = reason
                    self.kill()
            case control.Left(connections):
                self.connections = max(0, self.connections - connections)
            case control.Report(number, part, last):
                asked, said, parts = self._answer
                if number == asked:
                    parts += part
                    if last:
                        self.said = msgspec.msgpack.decode(parts, type=Report)
                        said.set()
            case control.Pong():
                pass


def _environment() -> dict[str, str]:
    """Of a worker: it finds the program's code, and what an operator's middlewares import, where we did."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    return {**kept, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109


def _cause(status: int | None) -> str:
    if status is None:
        return "unknown"
    return f"exit code {status}" if status >= 0 else f"signal {-status}"
