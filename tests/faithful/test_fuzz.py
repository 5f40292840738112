"""Two hundred thousand inputs that no client would send, refused or served; and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faithful.flood import Flood
from tests.faithful.memory import MIB, open_files, resident
from tests.faithful.peers import Feeder, Message
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post

INPUTS = 100_000
"""For each of two processes, since a machine has two cores at least."""
WARM_UP = 5_000
SEED = int(os.environ.get("TIDEGATE_FUZZ_SEED", "20260707"))
EXPECTED = {"listening", "ready"}
ASK = {"messages": [{"role": "user", "content": "still there"}]}


def answer(request: Message) -> list[bytes | None]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    return [head if request.start.startswith("HEAD ") else head + b"{}"]


@asynccontextmanager
async def on_a_unix_socket(folder: Path, upstream: Feeder) -> AsyncIterator[tuple[Tidegate, str]]:
    folder.mkdir()
    path = str(folder / "s")
    chain = ["prefix_rewrite"]
    table = write_table(
        folder,
        {
            "demo": {"upstream": "demo", "middlewares": chain},
            "up": {"upstream": upstream.url, "middlewares": chain},
        },
        server={"listen": ["127.0.0.1:0", f"unix:{path}"]},
    )
    async with Tidegate(table) as gate:
        await gate.wait_event("listening", address=f"unix:{path}")
        yield gate, path


async def settled(gate: Tidegate, files: int) -> tuple[int, int]:
    """Memory and open files once the process has no more of these than that, or does not get there."""
    for _ in range(100):
        if open_files(gate.process.pid) <= files:
            break
        await asyncio.sleep(0.1)
    return resident(gate.process.pid), open_files(gate.process.pid)


async def endure(gate: Tidegate, path: str, seed: int) -> None:
    idle = open_files(gate.process.pid)
    await asyncio.to_thread(Flood(path, seed + 1).run, WARM_UP)
    before, files = await settled(gate, idle + 1)
    tally = await asyncio.to_thread(Flood(path, seed).run, INPUTS)
    after, files_after = await settled(gate, files)
    told = f"seed {seed}, {tally}"

    assert gate.process.returncode is None, told
    assert files_after <= files, told
    assert after - before < 8 * MIB, f"{(after - before) / MIB:.1f} MiB, {told}"
    # Not all of them break off in the parser: a good part is served, and a good part refused.
    assert min(tally.statuses[status] for status in (0, 200, 400, 404)) > INPUTS / 1000, told
    for model in ("demo/echo", "up/x"):
        async with RawClient(gate.port) as client:
            await client.send(post("/v1/chat/completions", {"model": model} | ASK))
            assert (await client.read_head())[0] == 200, told
    assert {json.loads(line)["event"] for line in gate.stderr} <= EXPECTED, told


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")
@pytest.mark.timeout(300)  # a shared machine; forty seconds on two cores of its own
async def test_nothing_that_arrives_upsets_it(tmp_path: Path) -> None:
    async with (
        Feeder(answer) as upstream,
        on_a_unix_socket(tmp_path / "a", upstream) as first,
        on_a_unix_socket(tmp_path / "b", upstream) as second,
    ):
        await asyncio.gather(endure(*first, SEED), endure(*second, SEED + 100))
    # What went on to the upstream was HTTP to a strict reader, every byte of it.
    assert not upstream.failures
    assert upstream.served > INPUTS / 100
