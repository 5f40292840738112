"""Two hundred thousand inputs that no client would send, refused or served; and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faithful.flood import Flood
from tests.faithful.memory import MIB, open_files, resident
from tests.faithful.peers import Feeder, Message, Write
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post

INPUTS = 100_000
"""For each of two processes, since a machine has two cores at least."""
WARM_UP = 20_000
SEED = int(os.environ.get("TIDEGATE_FUZZ_SEED", "20260707"))
EXPECTED = {"listening", "ready"}
ASK = {"messages": [{"role": "user", "content": "still there"}]}


def answer(request: Message) -> list[Write]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    return [head if request.start.startswith("HEAD ") else head + b"{}"]


@dataclass
class Scene:
    """A process and its upstream, and how many files it has open when nobody asks anything."""

    gate: Tidegate
    upstream: Feeder
    path: str
    idle: int

    @property
    def left_open(self) -> int:
        """Files that are no connection to the upstream, of which some are kept."""
        return open_files(self.gate.process.pid) - len(self.upstream.open)

    async def settled(self) -> int:
        """The memory of the process once every client's connection is closed."""
        for _ in range(100):
            if self.left_open <= self.idle:
                break
            await asyncio.sleep(0.1)
        return resident(self.gate.process.pid)


@asynccontextmanager
async def on_a_unix_socket(folder: Path) -> AsyncIterator[Scene]:
    folder.mkdir()
    path = str(folder / "s")
    server = {"listen": ["127.0.0.1:0", f"unix:{path}"]}
    async with Feeder(answer) as upstream:
        routes = {
            name: {"upstream": url, "middlewares": ["prefix_rewrite"]}
            for name, url in {"demo": "demo", "up": upstream.url}.items()
        }
        async with Tidegate(write_table(folder, routes, server=server)) as gate:
            await gate.wait_event("listening", address=f"unix:{path}")
            await gate.wait_event("ready")
            # The event loop opens /dev/null with its first connection, and keeps it.
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            yield Scene(gate, upstream, path, open_files(gate.process.pid))
    # What went on to the upstream was HTTP to a strict reader, every byte of it.
    assert not upstream.failures
    assert upstream.served > INPUTS / 100


async def endure(scene: Scene, seed: int) -> None:
    gate = scene.gate
    await asyncio.to_thread(Flood(scene.path, seed + 1).run, WARM_UP)
    before = await scene.settled()
    tally = await asyncio.to_thread(Flood(scene.path, seed).run, INPUTS)
    grown = await scene.settled() - before
    told = f"seed {seed}, {tally}, {grown / MIB:.1f} MiB"

    assert gate.process.returncode is None, told
    assert scene.left_open <= scene.idle, told
    assert grown < 5 * MIB, told
    # Not all of them break off in the parser: a good part is served, and a good part refused.
    assert min(tally.statuses[status] for status in (0, 200, 400, 404)) > INPUTS / 1000, told
    for model in ("demo/echo", "up/x"):
        async with RawClient(gate.port) as client:
            await client.send(post("/v1/chat/completions", {"model": model} | ASK))
            assert (await client.read_head())[0] == 200, told
    assert {json.loads(line)["event"] for line in gate.stderr} <= EXPECTED, told


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")
@pytest.mark.timeout(300)  # forty seconds on two cores of its own, and a machine may be shared
async def test_nothing_that_arrives_upsets_it(tmp_path: Path) -> None:
    async with on_a_unix_socket(tmp_path / "a") as first, on_a_unix_socket(tmp_path / "b") as second:
        ends = await asyncio.gather(endure(first, SEED), endure(second, SEED + 100), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end


async def test_a_probe_whose_client_has_left_is_no_surprise(tmp_path: Path) -> None:
    async with Tidegate(write_table(tmp_path, {"demo": {"upstream": "demo"}})) as gate:
        for _ in range(20):
            async with RawClient(gate.port) as client:
                await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
                client.reset()
        async with RawClient(gate.port) as client:
            await client.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_head()
