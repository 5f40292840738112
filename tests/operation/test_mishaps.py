"""What goes wrong beside an edit, a worker or an upgrade, and must not take the program along."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.threads import in_thread
from tests.operation.crowd import Provider, streaming, whole, workers_of
from tests.support.metrics import ADMIN, figures
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT, read_answer
from tests.support.upstream import ScriptedUpstream, answer, chat

DEMO = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}


def descriptors(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


async def ask(gate: Tidegate, model: str) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, {"model": model, "messages": []}))
        return await read_answer(client)


async def test_an_upgrade_that_fails_leaves_the_file_of_the_unix_socket(tmp_path: Path) -> None:
    place = tmp_path / "gate.sock"
    table = write_table(tmp_path, DEMO, server={"listen": [f"unix:{place}"]})
    async with Tidegate(table) as gate:
        changed = json.loads(table.read_text())
        changed["server"]["listen"].append("192.0.2.1:1")  # not an address of this machine
        table.write_text(json.dumps(changed))
        gate.process.send_signal(signal.SIGUSR2)
        await gate.wait_event("upgrade_failed", within=20.0)
        reader, writer = await asyncio.open_unix_connection(str(place))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 200")


async def test_upgrades_leave_no_descriptors_behind(tmp_path: Path) -> None:
    async with Tidegate(write_table(tmp_path, DEMO)) as gate:
        pid, counts = gate.process.pid, []
        for generation in range(1, 4):
            counts.append(descriptors(pid))
            os.kill(pid, signal.SIGUSR2)
            await gate._until(
                lambda number=generation: len(gate.events("upgraded")) == number, 20.0, "an upgrade"
            )
            pid = gate.events("upgraded")[-1]["pid"]
            await gate._until(
                lambda number=generation: len(gate.events("stopped")) == number, 20.0, "the old one's end"
            )
        counts.append(descriptors(pid))
        os.kill(pid, signal.SIGTERM)
        await gate.wait()

    assert max(counts) <= min(counts) + 1, counts


async def test_a_worker_that_cannot_be_started_for_a_while_is_started_when_it_can(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    packages = os.pathsep.join(path for path in sys.path if path)
    table = write_table(tmp_path, DEMO, server={"workers": 2})
    command = (str(python), "-m", "proxy", "serve")
    async with Tidegate(table, command=command, env={"PYTHONPATH": packages}) as gate:
        python.unlink()
        os.kill(workers_of(gate.process.pid)[0], signal.SIGKILL)
        await gate._until(
            lambda: any("cannot be started" in died["cause"] for died in gate.events("worker_died")),
            10.0,
            "one that cannot be started",
        )
        python.symlink_to(sys.executable)
        async with asyncio.timeout(20.0):
            while len(workers_of(gate.process.pid)) < 2:
                await asyncio.sleep(0.05)
        status, _, _ = await ask(gate, "demo/echo")
        code = await gate.terminate()

    assert (status, code) == (200, 0)


async def test_a_worker_that_cannot_put_an_edit_in_force_goes_on_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "import sys, msgspec\n"
        "class Shy:\n"
        "    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):\n"
        "        pass\n"
        "    def __init__(self, options, deps):\n"
        "        if 'worker' in sys.argv[0]:\n"
        "            raise RuntimeError('not in here')\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        return await call_next(exchange)\n"
    )
    async with Provider() as upstream:
        plain = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}
        shy = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", "shy:Shy"]}}
        server = {"workers": 2, **ADMIN}
        table = write_table(tmp_path, plain, server=server)
        async with Tidegate(table, env={"PYTHONPATH": str(tmp_path)}) as gate:
            async with streaming(gate.port, 6) as crowd:
                write_table(table, shy, server=server)
                refused = await gate.wait_event("worker_reload_failed")
                behind = await figures(gate)
                upstream.release.set()
                ends = await crowd.ends()

    assert [whole(said) for said in ends] == [True] * 6
    assert "shy:Shy" in refused["reason"] and not gate.events("worker_died")
    assert behind.value("tidegate_config_last_reload_success") == 0


async def test_a_module_that_hangs_while_it_is_loaded_does_not_keep_the_program_from_ending(
    tmp_path: Path,
) -> None:
    loaded = tmp_path / "begun"
    (tmp_path / "hangs.py").write_text(f"import time\nopen({str(loaded)!r}, 'w').close()\ntime.sleep(600)\n")
    table = write_table(tmp_path, DEMO)
    async with Tidegate(table, env={"PYTHONPATH": str(tmp_path)}) as gate:
        write_table(table, {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite", "hangs:X"]}})
        async with asyncio.timeout(10.0):
            while not loaded.exists():
                await asyncio.sleep(0.05)
        status, _, _ = await ask(gate, "demo/echo")
        code = await gate.terminate(within=10.0)

    assert (status, code) == (200, 0)


async def test_what_hangs_in_a_thread_is_given_up_on() -> None:
    with pytest.raises(TimeoutError):
        await in_thread(lambda: asyncio.run(forever()), 0.05)
    assert await in_thread(lambda: 7, 5.0) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, 5.0)


async def forever() -> None:
    await asyncio.sleep(3600)


async def test_half_a_key_is_not_sent(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("test-old-key-0123")
    key.chmod(0o600)
    async with ScriptedUpstream(chat()) as upstream:
        route = {"upstream": upstream.url, "middlewares": ["prefix_rewrite", {"key": {"file": "key"}}]}
        async with Tidegate(write_table(tmp_path, {"up": route})) as gate:
            await ask(gate, "up/x")
            with key.open("w") as file:
                for part in ("test-new-", "key-", "4567"):
                    file.write(part)
                    file.flush()
                    await ask(gate, "up/x")
            await gate.wait_event("key_file_changed")
            await ask(gate, "up/x")

    sent = {seen.header("authorization") for seen in upstream.seen}
    assert sent == {"Bearer test-old-key-0123", "Bearer test-new-key-4567"}


async def test_a_breaker_begins_anew_with_another_provider(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(500, {"error": {}})) as down, ScriptedUpstream(chat()) as up:

        def routes(url: str) -> dict[str, Any]:
            breaker = {"breaker": {"failures": 1, "cooldown": "1h"}}
            return {"up": {"upstream": url, "middlewares": ["prefix_rewrite", breaker]}}

        table = write_table(tmp_path, routes(down.url))
        async with Tidegate(table) as gate:
            await ask(gate, "up/x")
            open_now, headers, _ = await ask(gate, "up/x")
            write_table(table, routes(up.url.replace("127.0.0.1", "localhost")))
            await gate.wait_event("reloaded")
            status, _, _ = await ask(gate, "up/x")

    assert (open_now, header(headers, "x-tidegate-error"), status) == (503, "breaker_open", 200)


async def test_a_worker_that_is_started_during_the_drain_refuses_as_the_others_do(tmp_path: Path) -> None:
    table = write_table(tmp_path, DEMO, server={"workers": 2, "drain_delay": "1m"})
    async with Tidegate(table) as gate:
        gate.process.send_signal(signal.SIGTERM)
        await gate.wait_event("draining")
        for pid in workers_of(gate.process.pid):
            os.kill(pid, signal.SIGKILL)
        await gate._until(lambda: len(gate.events("worker_died")) == 2, 5.0, "two that died")
        status, headers, _ = await ask(gate, "demo/echo")
        gate.process.send_signal(signal.SIGTERM)
        await gate.wait()

    assert (status, header(headers, "x-tidegate-error")) == (503, "draining")


async def test_a_place_of_a_key_that_came_from_the_environment_is_told_to_nobody(tmp_path: Path) -> None:
    routes = {
        "hidden": {
            "upstream": "http://127.0.0.1:9/v1",
            "middlewares": [{"key": [{"file": "/nowhere/${PLACE}/key"}]}],
        },
        "told": {"upstream": "http://127.0.0.1:9/v1", "middlewares": [{"key": {"file": "/nowhere/key"}}]},
    }
    async with Tidegate(write_table(tmp_path, routes), env={"PLACE": "canary-place"}) as gate:
        answers = {name: (await ask(gate, f"{name}/x"))[2].decode() for name in routes}
        text = "\n".join(gate.stdout + gate.stderr)

    assert "canary-place" not in answers["hidden"] + text
    assert "tidegate check says why" in answers["hidden"] and "/nowhere/key" in answers["told"]
