"""Stand-ins for what surrounds a middleware: time, the rest of the chain, a provider's body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from multidict import CIMultiDict, CIMultiDictProxy

from config.secrets import SecretStore
from middlewares.clocks import Clocks, Watch
from middlewares.commit import observed
from middlewares.envelope import Envelope
from middlewares.exchange import Body, Deps, Exchange, Inbound, Reply, ReplyBody, Sink

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For hypothesis on a machine under load: an example may take as long as it takes."""

NO_CLOCKS = Clocks(connect=None)


class FakeTimer:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._armed: list[tuple[asyncio.TimerHandle, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self._armed.append((handle, callback))
        return handle

    @property
    def pending(self) -> list[float]:
        """When it will call back, the earliest first."""
        return sorted(handle.when() for handle, _ in self._armed if not handle.cancelled())

    def advance(self, seconds: float) -> None:
        """Let so much time pass, calling back at the times that were asked for."""
        until = self.now + seconds
        while (due := self._next(until)) is not None:
            handle, callback = due
            self._armed.remove(due)
            self.now = max(self.now, handle.when())
            callback()
        self.now = until

    def _next(self, until: float) -> tuple[asyncio.TimerHandle, Callable[[], object]] | None:
        live = [armed for armed in self._armed if not armed[0].cancelled() and armed[0].when() <= until]
        return min(live, key=lambda armed: armed[0].when(), default=None)


class FakeBody:
    """A provider's body, step by step: bytes arrive, an event is waited for, an exception is raised."""

    def __init__(self, *script: bytes | asyncio.Event | BaseException) -> None:
        self._script = list(script)
        self._halted = False
        self.closed = False
        self.between_events = False
        self.calls: list[str] = []

    @property
    def left(self) -> int:
        """Steps that were not taken yet."""
        return len(self._script)

    async def pump(self, sink: Sink, /) -> bool:
        self._halted = False
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, BaseException):
                raise step
            else:
                sink(step)
                if self._halted:
                    return False
        return True

    def halt(self) -> None:
        self._halted = True

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.closed = True


class FakeNext:
    """The rest of the chain: keeps the exchange that it was called with, and answers."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or reply_of(b"{}", kind="application/json")
        self.exchange: Exchange | None = None
        self.calls = 0

    async def __call__(self, exchange: Exchange) -> Reply:
        self.exchange = exchange
        self.calls += 1
        return self.reply


def reply_of(
    *script: bytes | asyncio.Event | BaseException,
    status: int = 200,
    kind: str = "text/event-stream",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    return Reply(status, CIMultiDict({"Content-Type": kind, **(headers or {})}), FakeBody(*script))


def exchange_of(
    raw: bytes | Body = b'{"model":"kimi/k2"}',
    *,
    path: str = "/chat/completions",
    headers: Sequence[tuple[str, str]] = (),
    credentials: Sequence[tuple[str, str]] = (),
    watch: Watch | None = None,
) -> Exchange:
    inbound = Inbound("POST", path, "", CIMultiDictProxy(CIMultiDict(headers)), "127.0.0.1")
    return Exchange(
        inbound=inbound,
        route="kimi",
        headers=CIMultiDict(headers),
        credentials=CIMultiDict(credentials),
        body=Envelope.parse(raw) if isinstance(raw, bytes) else raw,
        query="",
        watch=watch or Watch(NO_CLOCKS, FakeTimer()),
        stack=AsyncExitStack(),
    )


def deps_of(*, route: str = "kimi", host: str = "", environ: Mapping[str, str] | None = None) -> Deps:
    # No folder: a test that reads key files brings a store of its own.
    return Deps(route, host, SecretStore(environ or {}, Path("/nowhere")), "tidegate/9.9")


def observed_reply(exchange: Exchange, reply: Reply) -> Reply:
    """As an upstream hands it over: the head is here, the observers are in place."""
    exchange.note_head()
    return observed(exchange, reply)


async def pumped(body: ReplyBody) -> list[bytes]:
    """The pieces of a body, to its end."""
    pieces: list[bytes] = []
    assert await body.pump(pieces.append)
    return pieces


def sent(exchange: Exchange) -> bytes:
    """The JSON body as it would go up."""
    assert isinstance(exchange.body, Envelope)
    return exchange.body.encode()


async def settle(task: asyncio.Task[object]) -> None:
    """Run the loop until `task` waits for something, or is done; nothing here takes real time."""
    for _ in range(10):
        if task.done():
            return
        await asyncio.sleep(0)
