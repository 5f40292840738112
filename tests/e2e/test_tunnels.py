"""What a WebSocket's tunnel does under pressure: odd bytes, slow ends, floods, and ends of all kinds."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from tests.faithful.memory import resident
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header
from tests.support.realtime import (
    KEY,
    SWITCHED,
    RealtimeProvider,
    handshake,
    realtime_table,
    serving,
)
from tests.support.upstream import ScriptedUpstream, Seen, Wire, answer


async def test_bytes_pass_as_they_are_however_they_are_cut(tmp_path: Path) -> None:
    """Frames that no implementation would write: nobody here may read more of them than where they end."""
    chance = random.Random(20261122)
    up, down = chance.randbytes(300_000), chance.randbytes(300_000)

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED + down[:7])
        for start in range(7, len(down), 9973):
            writer.write(down[start : start + 9973])
            await writer.drain()
        received.append(await reader.readexactly(len(up)))
        writer.close()

    received: list[bytes] = []
    listener = await asyncio.start_server(provider, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener, Tidegate(realtime_table(tmp_path, url), env={"UP_KEY": KEY}) as gate:
        async with RawClient(gate.port) as client:
            # The first bytes come before the answer to the handshake: they wait for it.
            await client.send(handshake() + up[:100])
            await client.read_head()
            for start in range(100, len(up), 7919):
                await client.send(up[start : start + 7919])
            got = await client.read_until_closed()

    assert got == down
    assert received == [up]


async def test_a_side_that_takes_nothing_halts_the_other_and_memory_stays_small(tmp_path: Path) -> None:
    stalled = asyncio.Event()
    release = asyncio.Event()

    async def flood(socket: web.WebSocketResponse) -> None:
        for _ in range(200):
            try:
                await asyncio.wait_for(socket.send_bytes(b"x" * 500_000), timeout=1.0)
            except TimeoutError:
                stalled.set()
                await release.wait()
                return

    async with serving(tmp_path, RealtimeProvider(flood)) as gate:
        async with RawClient(gate.port, receive_buffer=4096) as client:
            before = resident(gate.process.pid)
            await client.send(handshake())
            await client.read_head()
            async with asyncio.timeout(20):
                await stalled.wait()
            grown = resident(gate.process.pid) - before
            release.set()

    assert grown < 4 << 20, f"{grown / (1 << 20):.1f} MiB"


async def test_a_provider_that_takes_nothing_halts_the_client_and_memory_stays_small(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        await release.wait()
        writer.transport.abort()  # a close would wait for what nobody reads

    listener = await asyncio.start_server(provider, "127.0.0.1", 0, limit=4096)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener, Tidegate(realtime_table(tmp_path, url), env={"UP_KEY": KEY}) as gate:
        async with RawClient(gate.port) as client:
            await client.send(handshake())
            await client.read_head()
            before = resident(gate.process.pid)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    for _ in range(600):  # more than all the kernel's buffers on the way hold
                        await client.send(b"\x82\x7e\xff\xff" + b"x" * 65_535)
            grown = resident(gate.process.pid) - before
            release.set()

    assert grown < 4 << 20, f"{grown / (1 << 20):.1f} MiB"


async def test_a_peer_of_very_many_frames_does_not_hold_up_the_others(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED + b"\x89\x00" * 1_000_000)
        while await reader.read(1 << 20):
            pass
        writer.close()

    listener = await asyncio.start_server(provider, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener, Tidegate(realtime_table(tmp_path, url), env={"UP_KEY": KEY}) as gate:
        async with RawClient(gate.port) as client, RawClient(gate.port) as other:
            await client.send(handshake())
            await client.read_head()
            flood = asyncio.create_task(client.send(b"\x89\x80\x01\x02\x03\x04" * 500_000))
            slowest = 0.0
            for _ in range(20):
                began = loop.time()
                await other.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await other.read_head()
                await other.read_body()
                slowest = max(slowest, loop.time() - began)
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)

    assert slowest < 0.5, f"{slowest:.2f} s"


@asynccontextmanager
async def sipping(
    folder: Path, pause: float, **clocks: str
) -> AsyncIterator[tuple[Tidegate, bytearray, asyncio.Event]]:
    """A provider that takes 64 KiB at a time; what it took, and when it had come to the end."""
    taken, ended = bytearray(), asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                taken.extend(data)
                await asyncio.sleep(pause)
        writer.transport.abort()
        ended.set()

    listener = await asyncio.start_server(provider, "127.0.0.1", 0, limit=65_536)
    listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener:
        async with Tidegate(realtime_table(folder, url, **clocks), env={"UP_KEY": KEY}) as gate:
            yield gate, taken, ended
        async with asyncio.timeout(20):
            while not ended.is_set():
                writers[0].transport.abort()
                await asyncio.sleep(0.1)


async def test_idle_does_not_run_while_the_provider_takes_bytes_however_slowly(tmp_path: Path) -> None:
    async with sipping(tmp_path, 0.1, idle="700ms") as (gate, taken, _), RawClient(gate.port) as client:
        await client.send(handshake())
        await client.read_head()
        message = b"\x82\x7f" + (40 << 20).to_bytes(8) + b"x" * (12 << 20)
        sending = asyncio.create_task(client.send(message))
        await asyncio.sleep(3)
        before = len(taken)
        assert not gate.stdout, gate.stdout
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert before > 1 << 20


async def test_a_clients_last_words_reach_a_slow_provider_though_it_has_left(tmp_path: Path) -> None:
    async with sipping(tmp_path, 0.005) as (gate, taken, ended), RawClient(gate.port) as client:
        await client.send(handshake())
        await client.read_head()
        message = b"\x82\x7f" + (8 << 20).to_bytes(8) + b"x" * (8 << 20) + b"\x88\x02\x03\xe8"
        await client.send(message)
        client.close()
        async with asyncio.timeout(20):
            await ended.wait()
        (entry,) = await gate.wait_log(1)

    assert len(taken) == len(message) and taken.endswith(b"\x88\x02\x03\xe8")
    assert entry["outcome"] == "ok"


async def test_nothing_piles_up_before_the_answer_may_go_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\n"
        "class Slow:\n"
        "    def __init__(self, options, deps): pass\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        reply = await call_next(exchange)\n"
        "        await asyncio.sleep(1.5)\n"
        "        return reply\n"
    )

    async def flood(socket: web.WebSocketResponse) -> None:
        with suppress(ConnectionError):
            while True:
                await socket.send_bytes(b"x" * 500_000)

    async with RealtimeProvider(flood) as provider:
        routes = {"up": {"upstream": provider.url, "middlewares": ["prefix_rewrite", "slow:Slow"]}}
        env = {"PYTHONPATH": str(tmp_path)}
        async with Tidegate(write_table(tmp_path, routes), env=env) as gate, RawClient(gate.port) as client:
            before = resident(gate.process.pid)
            await client.send(handshake())
            await client.read_head()
            grown = resident(gate.process.pid) - before

    assert grown < 4 << 20, f"{grown / (1 << 20):.1f} MiB"


async def test_a_header_that_only_looks_like_an_upgrade_is_none(tmp_path: Path) -> None:
    request = handshake("/up/v1/models").replace(b"keep-alive, Upgrade", b"keep-alive, noupgrade")
    async with ScriptedUpstream(answer(200, {"data": []})) as upstream:
        async with Tidegate(realtime_table(tmp_path, upstream.url), env={"UP_KEY": KEY}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(request)
                status, _ = await client.read_head()

    assert status == 200
    assert upstream.seen[0].header("Upgrade") is None and upstream.seen[0].header("Connection") is None


async def test_headers_of_a_body_do_not_stand_on_a_switch(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        odd = b"Content-Length: 5\r\nContent-Type: text/event-stream\r\nX-Own: kept\r\n\r\n"
        await wire.raw(SWITCHED[:-2] + odd)
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(realtime_table(tmp_path, upstream.url), env={"UP_KEY": KEY}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(handshake())
                status, headers = await client.read_head()
    names = {name.lower() for name, _ in headers}

    assert status == 101 and header(headers, "x-own") == "kept"
    assert not names & {"content-length", "content-type", "x-accel-buffering", "transfer-encoding"}


async def test_a_conversation_that_was_closing_when_time_was_up_is_ok(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(SWITCHED + b"\x88\x00")
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream:
        path = write_table(tmp_path, {"up": {"upstream": upstream.url}}, server={"drain_timeout": "300ms"})
        async with Tidegate(path) as gate, RawClient(gate.port) as client:
            await client.send(handshake("/up/v1/realtime"))
            await client.read_head()
            gate.process.terminate()
            (entry,) = await gate.wait_log(1)

    assert (entry["status"], entry["outcome"], entry["error"]) == (101, "ok", None)
