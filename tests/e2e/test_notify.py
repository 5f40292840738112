"""What a service manager hears from the real process, and in which order."""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.manager import Manager
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.scene import CHAT

LIFE = "WATCHDOG=1"
ASKED = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]}


def table(folder: Path, *middlewares: Any, **more: Any) -> Path:
    return write_table(
        folder, {"demo": {"upstream": "demo", "middlewares": [*middlewares, "prefix_rewrite"]}}, **more
    )


async def next_but_life(manager: Manager) -> str:
    """What is said next besides signs of life: its first line."""
    while (said := await manager.next()) == LIFE:
        pass
    return said.partition("\n")[0]


async def ask(gate: Tidegate) -> int:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, ASKED))
        status, _ = await client.read_head()
        return status


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
async def test_it_is_ready_alive_and_stopping_in_this_order(tmp_path: Path, abstract: bool) -> None:
    with Manager.abstract() if abstract else Manager(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": manager.place, "WATCHDOG_USEC": "200000"}
        async with Tidegate(table(tmp_path), env=env) as gate:
            ready = await manager.next()
            assert await ask(gate) == 200, "it is not served by then"
            lives = [await manager.next() for _ in range(4)]
            gate.process.send_signal(signal.SIGTERM)
            stopping = await next_but_life(manager)
            assert await gate.wait() == 0
            after = manager.heard()

    assert ready.partition("\n")[0] == "READY=1"
    assert lives == [LIFE] * 4
    assert stopping == "STOPPING=1"
    assert set(after) <= {LIFE}


async def test_whoever_is_told_that_it_is_ready_can_connect(tmp_path: Path) -> None:
    place = tmp_path / "sock"

    async def connect_when_ready(manager: Manager) -> str:
        said = await manager.next(within=15)
        _, writer = await asyncio.open_unix_connection(place)
        writer.close()
        return said.partition("\n")[0]

    with Manager(tmp_path / "notify") as manager:
        file = table(tmp_path, server={"listen": [f"unix:{place}"]})
        connected = asyncio.create_task(connect_when_ready(manager))
        async with Tidegate(file, env={"NOTIFY_SOCKET": manager.place}):
            assert await connected == "READY=1"


async def test_a_reload_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    with Manager(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": manager.place, "WATCHDOG_USEC": "200000"}
        async with Tidegate(table(tmp_path), env=env) as gate:
            told = [await next_but_life(manager)]
            before = time.monotonic_ns() // 1000
            gate.process.send_signal(signal.SIGHUP)
            reloading = await manager.next()
            while reloading == LIFE:
                reloading = await manager.next()
            told += [reloading.partition("\n")[0], await next_but_life(manager)]
            # A table with errors is not taken; systemd waits all the same for the end of it.
            (tmp_path / "routes.yaml").write_text("version: 2\n")
            gate.process.send_signal(signal.SIGHUP)
            told += [await next_but_life(manager), await next_but_life(manager)]
            gate.process.send_signal(signal.SIGTERM)
            told.append(await next_but_life(manager))
            assert await gate.wait() == 0

    assert told == ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    # Of the clock that systemd compares it with, and after the signal.
    fields = dict(line.split("=", 1) for line in reloading.splitlines())
    assert before <= int(fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


async def test_a_loop_that_is_stuck_gives_no_sign_of_life(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import time\n"
        "class Stuck:\n"
        "    def __init__(self, options, deps):\n"
        "        pass\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        time.sleep(1.5)\n"
        "        return await call_next(exchange)\n"
    )
    with Manager(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": manager.place, "WATCHDOG_USEC": "200000", "PYTHONPATH": str(tmp_path)}
        async with Tidegate(table(tmp_path, {"stuck:Stuck": {}}), env=env) as gate:
            await manager.next()
            times = []
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(ask(gate))
                while not asked.done():
                    await manager.next()
                    times.append(time.monotonic())

    longest = max(later - earlier for earlier, later in pairwise(times))
    assert asked.result() == 200
    assert longest > 1.2


async def test_it_serves_on_where_the_manager_is_gone_and_says_so_once(tmp_path: Path) -> None:
    with Manager(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": manager.place, "WATCHDOG_USEC": "100000"}
        async with Tidegate(table(tmp_path), env=env) as gate:
            await manager.next()
            manager.leave()
            await gate.wait_event("notify_failed", level="warning")
            statuses = [await ask(gate) for _ in range(5)]
            assert await gate.terminate() == 0

    assert statuses == [200] * 5
    assert len(gate.events("notify_failed")) == 1


async def test_without_a_manager_nothing_is_said_of_one(tmp_path: Path) -> None:
    async with Tidegate(table(tmp_path), env={"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000"}) as gate:
        assert await ask(gate) == 200
        assert await gate.terminate() == 0

    assert gate.events("notify_failed") == []
