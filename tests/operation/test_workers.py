"""Several processes behind one set of listeners: connections spread evenly, and what becomes of the dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.operation.crowd import Asker, Provider, sockets_of, streaming, whole, workers_of
from tests.support.metrics import ADMIN, figures, status_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.scene import CHAT, read_answer


def table_to(folder: Path, upstream: Provider, **server: Any) -> Path:
    routes = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}
    return write_table(folder, routes, server={"workers": 2, **server}, models={"edit": "up/old"})


async def test_connections_are_spread_evenly(tmp_path: Path) -> None:
    async with Provider() as upstream, AsyncExitStack() as stack:
        async with Tidegate(table_to(tmp_path, upstream)) as gate:
            clients = [await stack.enter_async_context(RawClient(gate.port)) for _ in range(400)]
            for client in clients:
                await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            for client in clients:
                await read_answer(client)
            held = [sockets_of(pid, gate.port) for pid in workers_of(gate.process.pid)]

    assert sum(held) == 400 and all(160 <= number <= 240 for number in held), held


async def test_a_worker_that_is_killed_takes_only_its_own_exchanges_along_and_is_back_within_a_second(
    tmp_path: Path,
) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream)) as gate:
            async with streaming(gate.port, 40) as crowd, Asker(gate.port) as asker:
                victim, other = workers_of(gate.process.pid)
                lost = sockets_of(victim, gate.port)
                os.kill(victim, signal.SIGKILL)
                died = await gate.wait_event("worker_died")
                loop = asyncio.get_running_loop()
                began = loop.time()
                async with asyncio.timeout(10.0):
                    while not (new := set(workers_of(gate.process.pid)) - {victim, other}):
                        await asyncio.sleep(0.01)
                    while not sockets_of(new.copy().pop(), gate.port):
                        await asyncio.sleep(0.01)
                back_after = loop.time() - began
                upstream.release.set()
                ends = await crowd.ends()
            asked = asker.statuses

    assert 15 <= 40 - sum(whole(said) for said in ends) <= lost
    assert (died["pid"], died["cause"], died["again_in_s"]) == (victim, "signal 9", 0.0)
    assert back_after < 1.5, "a second, and the share of a busy machine"
    # One that was being answered when it died is its own, and nobody else was refused.
    assert sum(status != 200 for status in asked) <= 1 and len(asked) > 10, asked


async def test_workers_follow_an_edit_and_a_new_one_serves_what_is_in_force_and_not_what_is_on_disk(
    tmp_path: Path,
) -> None:
    async with Provider() as upstream:
        table = table_to(tmp_path, upstream)
        async with Tidegate(table) as gate:
            changed = json.loads(table.read_text())
            changed["models"]["edit"] = "up/new"
            table.write_text(json.dumps(changed))
            await gate.wait_event("reloaded")
            table.write_text("routes: [")
            await gate.wait_event("reload_failed")
            before = await models(gate, 6)
            for pid in workers_of(gate.process.pid):
                os.kill(pid, signal.SIGKILL)
            await gate._until(lambda: len(gate.events("worker_died")) == 2, 5.0, "two that died")
            after = await models(gate, 6)

    assert before == after == {"new"}


async def models(gate: Tidegate, number: int) -> set[str]:
    """What the name under `models` stands for, asked on several connections at a time."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(gate.port)) for _ in range(number)]
        for client in clients:
            await client.send(post(CHAT, {"model": "edit", "messages": []}))
        return {json.loads((await read_answer(client))[2])["model"] for client in clients}


async def test_workers_whose_supervisor_is_killed_finish_what_they_have(tmp_path: Path) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream)) as gate:
            async with streaming(gate.port, 20) as crowd:
                gate.process.send_signal(signal.SIGKILL)
                await gate.wait_event("supervisor_died")
                upstream.release.set()
                ends = await crowd.ends()
            # The log is whole, and nobody holds it open any more: they have ended.
            await gate.wait(within=10.0)

    assert [whole(said) for said in ends] == [True] * 20


async def test_metrics_and_status_are_those_of_all_workers_and_do_not_go_back_when_one_dies(
    tmp_path: Path,
) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream, **ADMIN)) as gate:
            async with streaming(gate.port, 10):
                await models(gate, 8)
                before, told = await figures(gate), await status_of(gate)
                victim = workers_of(gate.process.pid)[0]
                os.kill(victim, signal.SIGKILL)
                await gate.wait_event("worker_died")
                await gate.wait_event("ready", within=5.0)
                after = await figures(gate)
                await models(gate, 8)
                later = await figures(gate)
                workers = {worker["pid"] for worker in (await status_of(gate))["workers"]}
            now = set(workers_of(gate.process.pid))

    name = "tidegate_requests_total"
    assert (before.value(name, route="up"), told["routes"]["up"]["requests"]) == (8, {"ok": 8})
    assert before.value("tidegate_streams_in_flight", route="up") == told["routes"]["up"]["in_flight"] == 10
    assert (told["in_flight"], told["pid"], len(told["workers"])) == (10, gate.process.pid, 2)
    assert {worker["in_flight"] for worker in told["workers"]} == {5}
    assert (after.value(name, route="up"), later.value(name, route="up")) >= (8, 16)
    assert after.value("tidegate_streams_in_flight", route="up") == 5
    assert workers <= now and victim not in now


async def test_the_limit_of_connections_is_that_of_all_workers_together(tmp_path: Path) -> None:
    async with Provider() as upstream, AsyncExitStack() as stack:
        async with Tidegate(table_to(tmp_path, upstream, max_connections=4)) as gate:
            clients = [await stack.enter_async_context(RawClient(gate.port)) for _ in range(4)]
            for client in clients:
                await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await read_answer(client)
            async with RawClient(gate.port) as refused:
                assert await refused.read_until_closed() == b""
            clients[0].close()
            async with asyncio.timeout(5.0):
                while not await answers(gate.port):
                    await asyncio.sleep(0.02)


async def answers(port: int) -> bool:
    async with RawClient(port) as client:
        try:
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b"200 OK" in await client.read_until_closed()
        except OSError:
            return False
