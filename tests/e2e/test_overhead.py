"""`tidegate_overhead_seconds`: our own time, and nobody else's.

It is compared with the whole time of the same exchanges, so that a busy machine, on which everything takes
longer, makes no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.metrics import ADMIN, figures
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import (
    DONE,
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    chat,
    sse_event,
)

CHAT = "/up/v1/chat/completions"
BODY = {"messages": [], "stream": True}
BURNS = """
import time

class Burner:
    def __init__(self, options, deps): pass
    async def __call__(self, exchange, call_next):
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        return await call_next(exchange)
"""


@asynccontextmanager
async def route_with(
    folder: Path, behaviour: Behaviour, *chain: Any
) -> AsyncIterator[tuple[Tidegate, ScriptedUpstream]]:
    (folder / "burner.py").write_text(BURNS)
    async with ScriptedUpstream(behaviour) as upstream:
        routes = {"up": {"upstream": upstream.url, "middlewares": list(chain)}}
        table = write_table(folder, routes, server=ADMIN)
        async with Tidegate(table, env={"PYTHONPATH": str(folder)}) as gate:
            yield gate, upstream


async def ask(gate: Tidegate, body: Any = BODY) -> None:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, body))
        await client.read_head()
        await client.read_body()


async def times(gate: Tidegate, exchanges: int = 1) -> tuple[float, float]:
    """The overhead and the whole time of all exchanges so far."""
    await gate.wait_log(exchanges)
    told = await figures(gate)
    assert told.value("tidegate_overhead_seconds_count", route="up") == exchanges
    return (
        told.value("tidegate_overhead_seconds_sum", route="up"),
        told.value("tidegate_request_seconds_sum", route="up"),
    )


async def test_what_the_provider_takes_is_not_ours(tmp_path: Path) -> None:
    """To its head, and between the events of its stream."""

    async def slow(_seen: Seen, wire: Wire) -> None:
        await wire.pause(0.3)
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for _ in range(3):
            await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {"content": "a"}}]}))
            await wire.pause(0.1)
        await wire.chunk(DONE)
        await wire.finish()

    async with route_with(tmp_path, slow) as (gate, _):
        await ask(gate)
        overhead, whole = await times(gate)

    assert 0 < overhead <= whole - 0.59


async def test_what_the_client_takes_is_not_ours(tmp_path: Path) -> None:
    request = post(CHAT, {"messages": [], "user": "x" * 1000})
    async with route_with(tmp_path, chat("well")) as (gate, _), RawClient(gate.port) as client:
        await client.send(request[:-500])
        await asyncio.sleep(0.4)  # what is measured: nothing happens meanwhile
        await client.send(request[-500:])
        await client.read_head()
        await client.read_body()
        overhead, whole = await times(gate)

    # It begins when the head is looked at, which may be a while after it was sent.
    assert whole > 0.2
    assert 0 < overhead <= whole / 2


async def test_a_client_that_is_slow_to_take_its_answer_takes_its_own_time(tmp_path: Path) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "x" * 60_000}, "finish_reason": None}]}

    async def much(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for _ in range(200):
            await wire.chunk(sse_event(event))
        await wire.chunk(DONE)
        await wire.finish()

    async with route_with(tmp_path, much) as (gate, upstream):
        async with RawClient(gate.port, receive_buffer=4096) as client:
            await client.send(post(CHAT, BODY))
            await client.read_head()
            await asyncio.sleep(0.6)
            assert not upstream.wires[0].complete  # it is halted, since nobody takes anything
            await client.read_body()
            overhead, whole = await times(gate)

    assert 0 < overhead <= whole - 0.4


async def test_a_back_off_is_not_ours(tmp_path: Path) -> None:
    busy = answer(429, {"error": {"message": "no"}}, {"Retry-After": "1"})
    async with route_with(tmp_path, busy, "retry") as (gate, upstream):
        upstream.script(busy, chat("well"))
        await ask(gate)
        overhead, whole = await times(gate)

    assert len(upstream.seen) == 2
    assert 0 < overhead <= whole - 0.99


async def test_a_wait_for_a_slot_is_not_ours(tmp_path: Path) -> None:
    async def slow(seen: Seen, wire: Wire) -> None:
        await wire.pause(0.4)
        await chat("well")(seen, wire)

    async with route_with(tmp_path, slow, {"concurrency": {"limit": 1, "queue": 1}}) as (gate, _):
        await asyncio.gather(ask(gate), ask(gate))
        overhead, whole = await times(gate, 2)

    # 0.4 s for the first, and twice that for the second.
    assert 0 < overhead <= whole - 1.18


async def test_what_a_middleware_computes_is_ours(tmp_path: Path) -> None:
    async with route_with(tmp_path, chat("well"), "burner:Burner") as (gate, _):
        for _ in range(5):
            await ask(gate)
        overhead, whole = await times(gate, 5)

    assert 0.1 <= overhead <= whole
