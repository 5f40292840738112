"""The workers of one program, as their supervisor sees them.

It starts them, hands each new connection to the one that has fewest, passes orders on, and starts one anew
that died. A worker is a fresh process and no fork: it gets the files of the table in force, so that it
serves the same as the others even where the files on disk are broken by now.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from config.files import Files
from proxy import control
from proxy.app import either
from proxy.listeners import Listener
from proxy.logs import Journal
from proxy.member import Member
from proxy.metrics import Snapshot, merged, past
from proxy.source import Source
from proxy.status import Report

_PING_EVERY_S = 5.0
_ENDS_WITHIN_S = 5.0
"""After its exchanges are over; the time to tell them is in it."""
_REPORTS_WITHIN_S = 1.0
_HURRIES_WITHIN_S = 3.0


class CannotStart(Exception):
    """A worker that does not come up; the message says why."""


class Crew:
    """`count` workers; make it in a running loop."""

    def __init__(self, count: int, source: Source, journal: Journal) -> None:
        self.limit: int | None = None
        """Of connections of clients, over all workers."""
        self.full: Callable[[], object] = _nothing
        """Called when there is nobody to take another connection."""
        self.free: Callable[[], object] = _nothing
        """Called when there is again."""
        self.fell_behind: Callable[[], object] = _nothing
        """Called when a worker goes on with an older table."""
        self.number = 0
        self._source = source
        self._journal = journal
        self._members = [Member(number, self, journal) for number in range(1, count + 1)]
        self._held: deque[tuple[socket.socket, control.Accepted]] = deque()
        self._files: bytes = b""
        self.stops = asyncio.Event()
        """Set when who ends is not missed any more."""
        self._asked = 0
        self._gathering: asyncio.Task[None] | None = None
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
        self.number += 1
        for member in self._members:
            member.load()

    def take(self, listener: Listener, sock: socket.socket) -> None:
        """Hand a connection on."""
        if self.limit is not None and self.connections >= self.limit:
            sock.close()
            return
        self._held.append((sock, control.Accepted(listener.role, listener.tls)))
        self._hand_on()

    def _hand_on(self) -> None:
        while self._held and (member := self._idlest()) is not None:
            member.take(*self._held.popleft())
        if self._idlest() is None:
            # Those that come now wait in the kernel's queue; at most one waits here.
            self.full()

    @property
    def serves(self) -> bool:
        """Whether there is a worker that serves."""
        return any(member.ready for member in self._members)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._held) + sum(member.connections for member in self._members)

    def drain(self, *, taken_over: bool) -> None:
        """No new requests; or, when another process takes what is new, answers and then the end."""
        for member in self._members:
            member.drain(control.Drain(taken_over))

    async def finish(self, hurry: asyncio.Event, within: float) -> bool:
        """Let exchanges in flight end, then the workers; False if some had to be cut."""
        self.stops.set()
        while self._held:
            self._held.popleft()[0].close()
        for member in self._members:
            member.send(control.Finish())
        await either(self._all_ended(), hurry.wait(), within=within + _ENDS_WITHIN_S)
        for member in self._members:
            member.send(control.Hurry())
        await either(self._all_ended(), within=_HURRIES_WITHIN_S)
        for member in self._members:
            member.kill()
        await either(self._all_ended(), within=_ENDS_WITHIN_S)
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
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.get_running_loop().create_task(self._gather())
        # Whoever asks meanwhile is told the same.
        await asyncio.wait((self._gathering,))
        said = [member.said for member in self._members if member.said is not None]
        return said if self._dead is None else [*said, Report(self._dead)]

    async def _gather(self) -> None:
        self._asked += 1
        asked = [(member, member.ask(self._asked)) for member in self._members if member.ready]
        with suppress(TimeoutError):
            async with asyncio.timeout(_REPORTS_WITHIN_S):
                for member, answer in asked:
                    if not member.mute:
                        await answer.wait()
        for member, answer in asked:
            member.mute = not answer.is_set()

    # ---- for its members

    def files(self) -> int:
        """A descriptor with the files of the table in force."""
        descriptor = os.memfd_create("tidegate-table", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(self._files)
        return descriptor

    def order(self) -> control.Load:
        """The order that goes with them."""
        overrides = self._source.overrides
        path = str(self._source.path.absolute())
        return control.Load(self.number, path, overrides.listen, overrides.admin, self._source.tls)

    def has_died(self, report: Report) -> None:
        """Its counters must not go back: they are kept among those of the dead."""
        gone = past(report.snapshot)
        self._dead = gone if self._dead is None else merged((self._dead, gone))

    def can_take(self) -> None:
        """A worker takes connections, which may not have been so before."""
        self._hand_on()
        if self._idlest() is not None:
            self.free()

    def refused(self, worker: int, reason: str) -> None:
        """A worker that serves cannot put the table in force, and goes on with the one before."""
        self._journal.error(
            "worker_reload_failed", worker=worker, reason=reason, serving="the table as it was before"
        )
        self.fell_behind()

    def _idlest(self) -> Member | None:
        return min(self._able(), key=lambda member: member.connections, default=None)

    def _able(self) -> Iterator[Member]:
        return (member for member in self._members if member.ready and member.takes)

    async def _all_ended(self) -> None:
        for member in self._members:
            await member.ended()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            for member in self._members:
                member.look_after()


def _nothing() -> None:
    return None
