"""What processes with one Redis share: slots, breakers, probes; and what becomes of it when Redis is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.certificates import self_signed
from tests.support.metrics import ADMIN, figures, status_of
from tests.support.process import ROOT, Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.redis import RedisServer, needs
from tests.support.scene import CHAT, read_answer
from tests.support.upstream import ScriptedUpstream, Seen, Wire, answer, chat, silent

pytestmark = [needs("redis-server"), pytest.mark.timeout(120)]

BODY = {"model": "up/x", "messages": []}
PASSWORD = "no-word-of-it-0123456789"


@asynccontextmanager
async def two(
    folder: Path, upstream: ScriptedUpstream, redis: RedisServer, *chain: Any, **limit: Any
) -> AsyncIterator[tuple[Tidegate, Tidegate]]:
    """Two processes with one table."""
    shared = {"rate_limit": {"requests": "1000000/min", "per": "route", "store": "${REDIS_URL}", **limit}}
    routes = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", *chain]}}
    table = write_table(folder, routes, middlewares=[shared], server=ADMIN)
    env = {"REDIS_URL": redis.url}
    async with Tidegate(table, env=env, secrets=[PASSWORD]) as one:
        async with Tidegate(table, env=env, secrets=[PASSWORD]) as other:
            yield one, other


async def ask(gate: Tidegate) -> tuple[int, str | None]:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, BODY))
        status, headers, _ = await read_answer(client)
        return status, header(headers, "x-tidegate-error")


async def until(holds: Callable[[], Awaitable[bool]], within: float) -> float:
    """Seconds until it held, which is asked again and again."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(within):
        while not await holds():
            await asyncio.sleep(0.02)
    return loop.time() - began


async def test_slots_are_those_of_all_processes_and_whoever_waits_has_one_when_it_comes_free(
    tmp_path: Path,
) -> None:
    now = most = 0

    async def behave(seen: Seen, wire: Wire) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)  # as a provider that works; the next one waits for its end
        now -= 1
        await chat("well")(seen, wire)

    slots = {"concurrency": {"limit": 3, "queue": 50, "wait": "40s"}}
    async with RedisServer(tmp_path) as redis, ScriptedUpstream(behave) as upstream:
        async with two(tmp_path, upstream, redis, slots) as gates:
            found = await asyncio.gather(*(ask(gate) for gate in gates for _ in range(15)))
            told = await status_of(gates[0])

    assert {status for status, _ in found} == {200}
    assert most == 3
    assert told["routes"]["up"]["slots"] == {"limit": 3, "in_use": 0, "queued": 0, "shared": True}


async def test_without_a_queue_the_slot_of_another_process_refuses_at_once(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def behave(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await chat("well")(seen, wire)

    async with RedisServer(tmp_path) as redis, ScriptedUpstream(behave) as upstream:
        async with two(tmp_path, upstream, redis, {"concurrency": {"limit": 1}}) as (one, other):
            first = asyncio.create_task(ask(one))
            await upstream.wait_seen(1)
            refused = await ask(other)
            release.set()
            served = await first
            again = await ask(other)

    assert (refused, served, again) == ((429, "queue_full"), (200, None), (200, None))


async def test_the_slots_of_a_process_that_was_killed_come_back_within_half_a_minute(tmp_path: Path) -> None:
    async with RedisServer(tmp_path) as redis, ScriptedUpstream(silent()) as upstream:
        async with two(tmp_path, upstream, redis, {"concurrency": {"limit": 1}}) as (one, other):
            async with RawClient(one.port) as client:
                await client.send(post(CHAT, BODY))
                await upstream.wait_seen(1)
                upstream.behaviour = chat("well")
                one.process.kill()
                await one.wait()
                taken, _ = await ask(other)

                async def served() -> bool:
                    return (await ask(other))[0] == 200

                back_after = await until(served, 40)

    assert taken == 429
    assert 5 < back_after < 30


async def test_a_breaker_that_opens_opens_all_and_one_probe_of_them_all_closes_them(tmp_path: Path) -> None:
    release, probes = asyncio.Event(), 0

    async def probed(seen: Seen, wire: Wire) -> None:
        nonlocal probes
        probes += 1
        await release.wait()
        await chat("well")(seen, wire)

    breaker = {"breaker": {"failures": 3, "cooldown": "2s"}}
    async with RedisServer(tmp_path) as redis, ScriptedUpstream() as upstream:
        upstream.behaviour = answer(500, {"error": {"message": "no"}})
        async with two(tmp_path, upstream, redis, breaker) as (one, other):
            for _ in range(3):
                assert await ask(one) == (500, None)

            async def opened(gate: Tidegate, state: str) -> bool:
                return bool((await status_of(gate))["routes"]["up"]["breaker"]["state"] == state)

            told_after = await until(lambda: opened(other, "open"), 10)
            asked = len(upstream.seen)
            refused = await ask(other)
            assert len(upstream.seen) == asked
            upstream.behaviour = probed
            for gate in (one, other):
                await until(partial(opened, gate, "half_open"), 10)
            tries = [asyncio.create_task(ask(gate)) for gate in (one, other) for _ in range(10)]
            await upstream.wait_seen(asked + 1)
            # Those that are refused are told at once; the one that is not waits for its answer.
            while sum(task.done() for task in tries) < 19:
                await asyncio.wait([task for task in tries if not task.done()], return_when="FIRST_COMPLETED")
            in_all = probes
            release.set()
            found = await asyncio.gather(*tries)
            for gate in (one, other):
                await until(partial(opened, gate, "closed"), 10)

    assert told_after < 5 and refused == (503, "breaker_open")
    assert in_all == 1
    assert sorted(found) == [(200, None)] + [(503, "breaker_open")] * 19


async def test_an_opening_that_redis_has_forgotten_is_told_to_it_again(tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 1, "cooldown": "60s"}}
    async with RedisServer(tmp_path) as redis, ScriptedUpstream() as upstream:
        upstream.behaviour = answer(500, {"error": {"message": "no"}})
        async with two(tmp_path, upstream, redis, breaker) as (one, other):
            await ask(one)

            await redis.kill()
            for gate in (one, other):
                await gate.wait_event("store_lost", within=10)
            await redis.start()
            for gate in (one, other):
                await gate.wait_event("store_back", within=10)
            state = await status_of(one)

            async def known() -> bool:
                async with redis.client() as client:
                    return bool(await client.hexists("tidegate:{shared}:circuits", "up"))

            await until(known, 10)

    assert state["routes"]["up"]["breaker"]["state"] == "open"


class Load:
    """Ten clients that always ask; every answer by its status, and when it came."""

    def __init__(self, gate: Tidegate) -> None:
        self._gate = gate
        self.found: list[tuple[float, int]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(10)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [one for one in ended if not isinstance(one, asyncio.CancelledError)] == []

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        async with RawClient(self._gate.port) as client:
            while True:
                await client.send(post(CHAT, BODY))
                status, _, _ = await read_answer(client)
                self.found.append((loop.time(), status))
                await asyncio.sleep(0.01)

    async def more(self, count: int = 50) -> set[int]:
        """The statuses of what comes from now on."""
        since = len(self.found)
        async with asyncio.timeout(20):
            while len(self.found) < since + count:
                await asyncio.sleep(0.01)
        return {status for _, status in self.found[since + 10 :]}


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("option", ["local", "refuse"])
async def test_redis_is_lost_under_load_and_comes_back(option: str, how: str, tmp_path: Path) -> None:
    login = ("--requirepass", PASSWORD)
    redis_server = RedisServer(tmp_path, *login, login=f"default:{PASSWORD}@")
    async with redis_server as redis, ScriptedUpstream(chat("well")) as upstream:
        async with two(tmp_path, upstream, redis, on_store_failure=option) as (gate, _):
            async with Load(gate) as load:
                before = await load.more()
                if how == "killed":
                    await redis.kill()
                else:
                    redis.stand_still()
                lost = await gate.wait_event("store_lost", within=10)
                during = await load.more()
                scraped, told = await figures(gate), await status_of(gate)
                if how == "killed":
                    await redis.start()
                else:
                    redis.go_on()
                loop = asyncio.get_running_loop()
                back = loop.time()
                await gate.wait_event("store_back", within=10)
                back_after = loop.time() - back
                after = await load.more()
                healed = await figures(gate)
        lines = json.dumps([lost, told]) + scraped.text

    assert before == after == {200}
    assert during == ({200} if option == "local" else {429})
    if option == "local":
        assert {status for _, status in load.found} == {200}
    assert back_after < 2.0
    assert len(gate.events("store_lost")) == 1
    name = redis.name
    assert scraped.value("tidegate_store_up", store=name) == 0 and told["stores"][name]["up"] is False
    assert scraped.value("tidegate_store_failures_total", store=name) >= 1
    assert healed.value("tidegate_store_up", store=name) == 1
    assert PASSWORD not in lines and "default" not in lines


async def test_a_table_that_names_another_store_lets_go_of_the_first(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    async with RedisServer(folders[0]) as first, RedisServer(folders[1]) as second:

        def write(*servers: RedisServer) -> Path:
            limits = [
                {"rate_limit": {"requests": f"{number}00/min", "per": "route", "store": server.url}}
                for number, server in enumerate(servers, 1)
            ]
            return write_table(tmp_path, {"demo": {"upstream": "demo"}}, middlewares=limits, server=ADMIN)

        async def connected(server: RedisServer) -> int:
            async with server.client() as client:
                return len(await client.client_list()) - 1

        async with Tidegate(write(first)) as gate:

            async def only(there: RedisServer, gone: RedisServer) -> bool:
                return (await connected(there), await connected(gone)) == (1, 0)

            await until(lambda: only(first, second), 10)
            write(second)
            await gate.wait_event("reloaded")
            await until(lambda: only(second, first), 10)
            told = await status_of(gate)
            write()
            await gate.wait_event("reloaded", routes=1)

            async def none() -> bool:
                return (await connected(second), await connected(first)) == (0, 0)

            await until(none, 10)

    assert list(told["stores"]) == [second.name]


async def test_check_and_explain_never_connect(tmp_path: Path) -> None:
    seen = 0

    async def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://someone:{PASSWORD}@127.0.0.1:{port}/0"
    limit = {"rate_limit": {"requests": "60/min", "per": "route", "store": url}}
    chain = ["prefix_rewrite", {"breaker": {}}, {"concurrency": {"limit": 1}}]
    table = write_table(tmp_path, {"demo": {"upstream": "demo", "middlewares": chain}}, middlewares=[limit])
    said = ""
    for command in (["check"], ["explain", "demo/echo"], ["explain", "demo/echo", "--json"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", *command, "-c", str(table)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        said += out.decode()
    server.close()
    with contextlib.suppress(asyncio.CancelledError):
        await server.wait_closed()

    assert seen == 0
    assert "a password stands in the table" in said
    assert PASSWORD not in said and "someone" not in said
    assert f"redis://127.0.0.1:{port}/0" in said and "requests: 60/min" in said


async def test_each_worker_has_one_connection_and_their_supervisor_none(tmp_path: Path) -> None:
    async with RedisServer(tmp_path) as redis:
        limit = {"rate_limit": {"requests": "5/d", "per": "route", "store": redis.url}}
        routes = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
        server = {"workers": 2, **ADMIN}
        table = write_table(tmp_path, routes, middlewares=[limit], server=server)
        async with Tidegate(table, ready_within=30) as gate:

            async def connected() -> bool:
                async with redis.client() as client:
                    return len(await client.client_list()) - 1 == 2

            await until(connected, 10)
            body = {"model": "demo/echo", "messages": [{"role": "user", "content": "a"}]}
            statuses = []
            for _ in range(8):
                async with RawClient(gate.port) as client:
                    await client.send(post(CHAT, body))
                    statuses.append((await read_answer(client))[0])
            told, scraped = await status_of(gate), await figures(gate)

    assert statuses == [200] * 5 + [429] * 3
    assert told["stores"] == {redis.name: {"up": True, "failures": 0}}
    assert scraped.value("tidegate_store_up", store=redis.name) == 1


async def test_a_store_over_tls_is_verified_and_its_user_is_in_the_environment(tmp_path: Path) -> None:
    made = self_signed(tmp_path)
    files = ("--tls-cert-file", str(made.cert), "--tls-key-file", str(made.key), "--tls-ca-cert-file")
    options = (*files, str(made.cert), "--tls-auth-clients", "no")
    users = tmp_path / "users.acl"
    users.write_text(f"user default off\nuser gate on >{PASSWORD} ~* +@all\n")
    found = {}
    async with RedisServer(
        tmp_path, *options, "--aclfile", str(users), login=f"gate:{PASSWORD}@", tls=True
    ) as redis:
        for name, url in (
            ("trusted", f"{redis.url}?ssl_ca_certs={made.cert}".replace("127.0.0.1", "localhost")),
            ("unknown", redis.url.replace("127.0.0.1", "localhost")),
        ):
            limit = {"rate_limit": {"requests": "5/d", "per": "route", "store": "${REDIS_URL}"}}
            routes = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
            table = write_table(tmp_path, routes, middlewares=[limit], server=ADMIN)
            async with Tidegate(table, env={"REDIS_URL": url}, secrets=[PASSWORD]) as gate:

                async def tried(gate: Tidegate = gate) -> bool:
                    (store,) = (await status_of(gate))["stores"].values()
                    return bool(store["up"] or store["failures"])

                await until(tried, 10)
                found[name] = (await status_of(gate))["stores"], gate.events("store_lost")

    place = f"localhost:{redis.port}/0"
    assert found["trusted"] == ({place: {"up": True, "failures": 0}}, [])
    assert found["unknown"][0][place]["up"] is False and found["unknown"][1]
