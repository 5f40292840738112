"""Many clients in the middle of their streams, and a provider that ends them all when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

from tests.support.completions import Completion
from tests.support.raw import RawClient, post
from tests.support.scene import CHAT
from tests.support.upstream import DONE, ScriptedUpstream, Seen, Wire, sse_event

FIRST = 3
"""Events that each stream has before it waits for its end."""
LAST = 2


class Provider(ScriptedUpstream):
    """Its streams stand still, but for a comment now and then, until `release` is set."""

    def __init__(self) -> None:
        super().__init__(self._behave)
        self.release = asyncio.Event()

    async def _behave(self, seen: Seen, wire: Wire) -> None:
        body = seen.json()
        if not body.get("stream"):
            await wire.json(200, {"model": body["model"], "choices": []})
            return
        said = Completion("", "simulated")
        await wire.sse(*(said.event({"content": f"word{i} "}) for i in range(FIRST)), done=False)
        while not self.release.is_set():
            try:
                async with asyncio.timeout(0.2):
                    await self.release.wait()
            except TimeoutError:
                await wire.chunk(b": still here\n\n")
        for i in range(FIRST, FIRST + LAST):
            await wire.chunk(sse_event(said.event({"content": f"word{i} "})))
        await wire.chunk(sse_event(said.event({}, "stop")))
        await wire.chunk(sse_event(DONE))
        await wire.finish()


class Crowd:
    """Streams that have begun."""

    def __init__(self, clients: Sequence[RawClient]) -> None:
        self.clients = clients

    async def ends(self) -> list[bytes | Exception]:
        """What each of them got, whole, or how it was disturbed."""
        return [*await asyncio.gather(*(_rest(client) for client in self.clients))]

    def __len__(self) -> int:
        return len(self.clients)


async def _rest(client: RawClient) -> bytes | Exception:
    try:
        return await client.read_body()
    except (OSError, EOFError) as error:
        return error


def whole(said: bytes | Exception) -> bool:
    """Whether a stream has every event in its order, and its end."""
    if isinstance(said, Exception):
        return False
    events = [event for event in said.split(b"\n\n") if event.startswith(b"data: ")]
    words = [b"word%d " % i for i in range(FIRST + LAST)]
    return (
        len(events) == len(words) + 2
        and all(word in event for word, event in zip(words, events, strict=False))
        and events[-1] == b"data: [DONE]"
    )


@asynccontextmanager
async def streaming(port: int, number: int, model: str = "up/x") -> AsyncIterator[Crowd]:
    """So many clients, each with the head of its answer and nothing read behind it."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(port)) for _ in range(number)]
        request = post(CHAT, {"model": model, "messages": [], "stream": True})
        for client in clients:
            await client.send(request)
        for client in clients:
            status, _ = await client.read_head()
            assert status == 200, status
        yield Crowd(clients)


class Asker:
    """Asks without pause, each time on a new connection, and counts what came of it."""

    def __init__(self, port: int, model: str = "up/x") -> None:
        self._port = port
        self._request = post(CHAT, {"model": model, "messages": []}, [("Connection", "close")])
        self.statuses: list[int | str] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            try:
                async with RawClient(self._port) as client:
                    await client.send(self._request)
                    status, _ = await client.read_head()
                    await client.read_body()
                    self.statuses.append(status)
            except (OSError, EOFError) as error:
                self.statuses.append(type(error).__name__)


def sockets_of(pid: int, port: int) -> int:
    """How many connections of clients a process holds, as the kernel knows it."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += str(descriptor.readlink()) in inodes
        except FileNotFoundError:
            continue
    return held


def workers_of(pid: int) -> list[int]:
    """The processes that a program has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
