"""The workers of one program, as their supervisor sees them.

It starts them, hands each new connection to the one that has fewest, passes orders on, and starts one anew
that died. A worker is a fresh process and no fork: it gets the files of the table in force, so that it
serves the same as the others even where the files on disk are broken by now.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from config.files import Files
from proxy import control
from proxy.control import Channel
from proxy.listeners import Listener
from proxy.logs import Journal
from proxy.metrics import Snapshot, merged, past
from proxy.source import Source
from proxy.status import Report

_RESTING_S = (0.25, 30.0)
"""Before a worker that died young twice is started again: at first, and at most. It doubles each time."""
_YOUNG_S = 5.0
_PING_EVERY_S = 5.0
_SILENT_S = 30.0
_HELD_AT_MOST = 1024
"""Connections that wait for a worker while there is none."""
_ENDS_WITHIN_S = 5.0
"""After its exchanges are over; the time to tell them is in it."""
_REPORTS_WITHIN_S = 1.0
_NOT_FOR_WORKERS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


class CannotStart(Exception):
    """A worker that does not come up; the message says why."""


class Crew:
    """`count` workers; make it in a running loop."""

    def __init__(self, count: int, source: Source, journal: Journal) -> None:
        self.limit: int | None = None
        """Of connections of clients, over all workers."""
        self._source = source
        self._journal = journal
        self._members = [Member(number, self, journal) for number in range(1, count + 1)]
        self._held: deque[tuple[socket.socket, control.Accepted]] = deque()
        self._files: bytes = b""
        self.stops = asyncio.Event()
        """Set when who ends is not missed any more."""
        self._asked = 0
        self._asking = asyncio.Lock()
        self._dead: Snapshot | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- for the program

    async def start(self) -> None:
        """Start them, to be kept running, and wait until all serve. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(member.keep()) for member in self._members]
        self._tasks.append(loop.create_task(self._look_after()))
        for member in self._members:
            await member.settled.wait()
            if not member.ready:
                raise CannotStart(f"worker {member.number} did not come up; see the log")

    def load(self, files: Files) -> None:
        """Have all of them serve by the table in `files`, and those that are started later."""
        self._files = msgspec.msgpack.encode(files.contents)
        for member in self._members:
            member.load()

    def take(self, listener: Listener, sock: socket.socket) -> None:
        """Hand a connection on."""
        order = control.Accepted(listener.role, listener.tls)
        if self.limit is not None and self.connections >= self.limit:
            sock.close()
        elif (member := self._idlest()) is not None:
            member.take(sock, order)
        elif len(self._held) < _HELD_AT_MOST:
            self._held.append((sock, order))
        else:
            sock.close()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._held) + sum(member.connections for member in self._members)

    def drain(self, *, taken_over: bool) -> None:
        """No new requests; or, when another process takes what is new, answers and then the end."""
        for member in self._members:
            member.send(control.Drain(taken_over))

    async def finish(self, hurry: asyncio.Event, within: float) -> bool:
        """Let exchanges in flight end, then the workers; False if some had to be cut."""
        self.stops.set()
        while self._held:
            self._held.popleft()[0].close()
        for member in self._members:
            member.send(control.Finish())
        async with asyncio.TaskGroup() as group:
            hurrying = group.create_task(self._hurry(hurry))
            ending = [group.create_task(member.ended()) for member in self._members]
            await asyncio.wait(ending, timeout=within + _ENDS_WITHIN_S)
            hurrying.cancel()
            for member in self._members:
                member.kill()
        return all(member.status == 0 for member in self._members)

    async def stop(self) -> None:
        """End what is still running."""
        self.stops.set()
        for member in self._members:
            member.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reports(self) -> list[Report]:
        """What they say of themselves, the last time that they answered; and what is known of the dead."""
        async with self._asking:
            self._asked += 1
            asked = [member.ask(self._asked) for member in self._members if member.ready]
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORTS_WITHIN_S):
                    for answer in asked:
                        await answer.wait()
        said = [member.said for member in self._members if member.said is not None]
        return said if self._dead is None else [*said, Report(self._dead)]

    # ---- for its members

    @property
    def stopping(self) -> bool:
        """Whether who ends is not missed."""
        return self.stops.is_set()

    def files(self) -> int:
        """A descriptor with the files of the table in force."""
        descriptor = os.memfd_create("tidegate-table", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(self._files)
        return descriptor

    def order(self) -> control.Load:
        """The order that goes with them."""
        overrides = self._source.overrides
        return control.Load(str(self._source.path.absolute()), overrides.listen, overrides.admin)

    def has_died(self, report: Report) -> None:
        """Its counters must not go back: they are kept among those of the dead."""
        gone = past(report.snapshot)
        self._dead = gone if self._dead is None else merged((self._dead, gone))

    def is_ready(self, member: Member) -> None:
        """It takes connections now."""
        while self._held:
            member.take(*self._held.popleft())

    def _idlest(self) -> Member | None:
        return min(self._able(), key=lambda member: member.connections, default=None)

    def _able(self) -> Iterator[Member]:
        return (member for member in self._members if member.ready and member.takes)

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        for member in self._members:
            member.send(control.Hurry())

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            for member in self._members:
                member.look_after()


class Member:
    """One worker, through all the processes that it is."""

    def __init__(self, number: int, crew: Crew, journal: Journal) -> None:
        self.number = number
        self.connections = 0
        self.ready = False
        self.refusal: str | None = None
        self.settled = asyncio.Event()
        self.status: int | None = None
        self.said: Report | None = None
        """Its last report."""
        self._crew = crew
        self._journal = journal
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._over = asyncio.Event()
        self._heard_at = 0.0
        self._answer: tuple[int, asyncio.Event, bytearray] = (0, asyncio.Event(), bytearray())

    @property
    def takes(self) -> bool:
        """Whether what it is sent reaches it at once."""
        return self._channel is not None and self._channel.clear

    async def keep(self) -> None:
        """Be there until the end: a process that dies is followed by another."""
        row = 0
        while not self._crew.stopping:
            began = time.monotonic()
            pid = await self._be_a_process()
            if self._crew.stopping:
                break
            self.settled.set()
            row = row + 1 if time.monotonic() - began < _YOUNG_S else 1
            rest = 0.0 if row == 1 else min(_RESTING_S[0] * 2 ** (row - 2), _RESTING_S[1])
            cause = _cause(self.status) if self.refusal is None else self.refusal
            self._journal.error("worker_died", worker=self.number, pid=pid, cause=cause, again_in_s=rest)
            self.refusal = None
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._crew.stops.wait()
        self._over.set()

    async def _be_a_process(self) -> int:
        process = await self._start()
        if self._crew.stopping:
            self.send(control.Finish())
        self.status = await process.wait()
        self._process = None
        self.ready, self.connections = False, 0
        self._hang_up()
        if self.said is not None:
            self._crew.has_died(self.said)
            self.said = None
        return process.pid

    async def ended(self) -> None:
        """Wait for the end of all its processes."""
        await self._over.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "proxy.worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                # A signal for the whole group of the terminal is the supervisor's alone.
                start_new_session=True,
            )
        self._heard_at = time.monotonic()
        self._channel = Channel(ours, self._heard, self._hang_up)
        self.load()
        return process

    def load(self) -> None:
        """Serve by the table in force."""
        if self._channel is not None:
            self._channel.send(self._crew.order(), self._crew.files())

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
            case control.Ready():
                self.ready = True
                self.settled.set()
                self._crew.is_ready(self)
            case control.Refused(reason):
                self.refusal = reason
                self.kill()
            case control.Left(connections):
                self.connections -= connections
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
