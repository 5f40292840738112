"""Edits of the table of a live process: noticed, taken whole or refused, and no stream disturbed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.operation.crowd import Provider, streaming, whole
from tests.support.certificates import self_signed
from tests.support.metrics import ADMIN, figures, status_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT, read_answer
from tests.support.upstream import ScriptedUpstream, answer, chat

LIVE_WITHIN_S = 2.0
BROKEN = [
    "version: 1\nroutes: {up: {upstream: ",
    "version: 1\nrouts: {}\n",
    "version: 1\nroutes: {up: {upstream: http://127.0.0.1:1/v1}}\nmodels: {edit: nowhere/x}\n",
    "version: 1\nroutes: {up: {upstream: http://127.0.0.1:1/v1, middlewares: [timeout: {total: 5}]}}\n",
    "",
]


async def ask(
    gate: Tidegate, model: str = "edit", **headers: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, {"model": model, "messages": []}, [*headers.items()]))
        return await read_answer(client)


def route(upstream: ScriptedUpstream, *chain: Any) -> dict[str, Any]:
    return {"upstream": upstream.url, "middlewares": ["prefix_rewrite", *chain]}


def replace(path: Path, text: str) -> None:
    """As editors do it."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


async def judged(gate: Tidegate, event: str, edit: Callable[..., object], *what: Any) -> dict[str, Any]:
    """Make an edit and wait until it has been judged; the event."""
    before = len(gate.events(event))
    edit(*what)
    await gate._until(lambda: len(gate.events(event)) > before, 5.0, event)
    return gate.events(event)[-1]


@pytest.mark.timeout(240)
async def test_a_hundred_edits_half_of_them_broken_disturb_none_of_two_hundred_streams(
    tmp_path: Path,
) -> None:
    async with Provider() as upstream:
        routes = {"up": route(upstream)}
        table = write_table(tmp_path, routes, models={"edit": "up/model-0"}, server=ADMIN)
        loop = asyncio.get_running_loop()
        async with Tidegate(table) as gate, streaming(gate.port, 200) as crowd:
            good = json.loads(table.read_text())
            for edit in range(1, 51):
                good["models"]["edit"] = f"up/model-{edit}"
                began = loop.time()
                await judged(gate, "reloaded", replace, table, json.dumps(good))
                assert loop.time() - began < LIVE_WITHIN_S
                _, _, said = await ask(gate)
                assert json.loads(said)["model"] == f"model-{edit}"

                broken = BROKEN[edit % len(BROKEN)]
                refused = await judged(gate, "reload_failed", replace, table, broken)
                assert "error" in refused["reason"] and refused["level"] == "error"
                _, _, said = await ask(gate)
                assert json.loads(said)["model"] == f"model-{edit}"
            refusing, told = await figures(gate), await status_of(gate)
            replace(table, json.dumps(good))
            await gate._until(lambda: len(gate.events("reloaded")) == 51, 5.0, "the last edit")
            good_again = await figures(gate)
            upstream.release.set()
            ends = await crowd.ends()

    assert [whole(said) for said in ends] == [True] * 200
    assert (len(gate.events("reloaded")), len(gate.events("reload_failed"))) == (51, 50)
    success, at = "tidegate_config_last_reload_success", "tidegate_config_last_reload_timestamp_seconds"
    assert (refusing.value(success), good_again.value(success)) == (0, 1)
    assert good_again.value(at) > refusing.value(at)
    assert told["config"]["last_reload_success"] is False
    problems = {event["place"].rpartition("routes.yaml")[2] for event in gate.events("table_problem")}
    assert ":2:1" in problems and {event["code"] for event in gate.events("table_problem")} >= {"unknown-key"}


async def test_a_file_that_is_written_piece_by_piece_is_read_when_it_is_whole(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        table = write_table(tmp_path, {"up": route(upstream)}, models={"edit": "up/old"})
        async with Tidegate(table) as gate:
            text = table.read_text().replace("up/old", "up/new")
            with table.open("w") as file:
                for start in range(0, len(text), 40):
                    file.write(text[start : start + 40])
                    file.flush()
                    await asyncio.sleep(0.05)
            await gate.wait_event("reloaded")
            await ask(gate)

    assert not gate.events("reload_failed") and upstream.seen[-1].json()["model"] == "new"


async def test_a_symlink_that_is_swapped_as_kubernetes_does_is_an_edit(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        for version in ("one", "two"):
            (tmp_path / version).mkdir()
            write_table(tmp_path / version, {"up": route(upstream)}, models={"edit": f"up/{version}"})
        (tmp_path / "..data").symlink_to("one")
        table = tmp_path / "routes.yaml"
        table.symlink_to("..data/routes.yaml")
        async with Tidegate(table) as gate:
            (tmp_path / "..new").symlink_to("two")
            (tmp_path / "..new").rename(tmp_path / "..data")
            await gate.wait_event("reloaded")
            await ask(gate)

    assert upstream.seen[-1].json()["model"] == "two"


async def test_sighup_reloads_what_has_not_changed_and_a_table_that_is_gone_stays_in_force(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as upstream:
        table = write_table(tmp_path, {"up": route(upstream)}, models={"edit": "up/x"})
        async with Tidegate(table) as gate:
            gate.process.send_signal(signal.SIGHUP)
            await gate.wait_event("reloaded")
            table.unlink()
            await gate.wait_event("reload_failed")
            status, _, _ = await ask(gate)

    (problem,) = gate.events("table_problem")
    assert (status, problem["code"]) == (200, "unreadable")


async def test_what_only_a_restart_can_change_is_said_and_the_rest_is_applied(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        table = write_table(tmp_path, {"up": route(upstream)}, models={"edit": "up/old"})
        async with Tidegate(table) as gate:
            changed = json.loads(table.read_text())
            changed["server"] |= {"listen": ["127.0.0.1:1"], "workers": 3, "max_body": "1KiB"}
            changed["models"]["edit"] = "up/new"
            await judged(gate, "reloaded", table.write_text, json.dumps(changed))
            await ask(gate)
            status, _, _ = await ask(gate, "edit" * 500)

    assert {event["option"] for event in gate.events("needs_restart")} == {"server.listen", "server.workers"}
    assert upstream.seen[-1].json()["model"] == "new"
    assert status == 413


async def test_a_key_file_that_changes_is_used_and_one_that_is_shadowed_is_told(tmp_path: Path) -> None:
    keys = {name: tmp_path / name for name in ("plain", "shadowed")}
    for name, path in keys.items():
        path.write_text(f"test-{name}-key-one")
        path.chmod(0o600)
    async with ScriptedUpstream() as upstream:
        routes = {
            "plain": route(upstream, {"key": {"file": "plain"}}),
            "shadowed": route(upstream, {"key": {"env": "SHADOWING", "file": "shadowed"}}),
        }
        env = {"SHADOWING": "test-shadowing-key"}
        async with Tidegate(write_table(tmp_path, routes), env=env) as gate:
            for name, path in keys.items():
                path.write_text(f"test-{name}-key-two")
            event = await gate.wait_event("key_file_shadowed")
            await gate.wait_event("key_file_changed")
            sent = []
            for name in keys:
                await ask(gate, f"{name}/x")
                sent.append(upstream.seen[-1].header("authorization"))
            await judged(gate, "reloaded", keys["plain"].chmod, 0o644)
            status, headers, _ = await ask(gate, "plain/x")

    assert sent == ["Bearer test-plain-key-two", "Bearer test-shadowing-key"]
    assert (event["route"], event["by"]) == ("shadowed", "SHADOWING")
    assert (status, header(headers, "x-tidegate-error")) == (503, "key_missing")


async def test_a_renewed_certificate_meets_the_next_connection_and_spares_those_that_are_open(
    tmp_path: Path,
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in ("old", "new", "tls"):
        (tmp_path / name).mkdir()
    old, new = self_signed(tmp_path / "old"), self_signed(tmp_path / "new")
    files = {"cert": tmp_path / "tls" / "cert.pem", "key": tmp_path / "tls" / "key.pem"}

    def install(certificate: Any) -> None:
        for name, path in files.items():
            replace(path, getattr(certificate, name).read_text())

    install(old)
    async with ScriptedUpstream() as upstream:
        tls = {name: str(path) for name, path in files.items()}
        table = write_table(
            tmp_path, {"up": route(upstream)}, server={"listen": ["https://127.0.0.1:0"], "tls": tls}
        )
        async with Tidegate(table) as gate:
            async with RawClient(gate.port, tls=old.client_context()) as client:
                install(new)
                await gate.wait_event("reloaded")
                await client.send(post(CHAT, {"model": "up/x", "messages": []}))
                kept, _, _ = await read_answer(client)
                async with RawClient(gate.port, tls=new.client_context()) as renewed:
                    await renewed.send(post(CHAT, {"model": "up/x", "messages": []}))
                    fresh, _, _ = await read_answer(renewed)
                with pytest.raises(ssl.SSLCertVerificationError):
                    async with RawClient(gate.port, tls=old.client_context()):
                        pass
            replace(files["key"], "no key")
            await gate.wait_event("reload_failed")
            async with RawClient(gate.port, tls=new.client_context()):
                pass

    assert (kept, fresh) == (200, 200)


async def test_an_open_breaker_and_held_slots_survive_a_reload(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(500, {"error": {}})) as upstream, Provider() as slow:
        breaker = {"breaker": {"failures": 1, "cooldown": "1m"}}
        slots = {"concurrency": {"limit": 1, "queue": 1, "wait": "20s"}}
        routes = {"up": route(upstream, breaker), "slow": route(slow, slots)}
        table = write_table(tmp_path, routes)
        async with Tidegate(table) as gate, streaming(gate.port, 1, "slow/x") as crowd:
            await ask(gate, "up/x")
            both = [asyncio.create_task(ask(gate, "slow/x")) for _ in range(2)]
            refused, (queued,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            full = refused.pop().result()[0]
            await judged(gate, "reloaded", os.utime, table)
            open_still, headers, _ = await ask(gate, "up/x")
            full_still, _, _ = await ask(gate, "slow/x")
            routes["slow"]["middlewares"][1]["concurrency"]["limit"] = 2
            await judged(gate, "reloaded", write_table, table, routes)
            served, _, _ = await asyncio.wait_for(queued, 5.0)
            slow.release.set()
            ends = await crowd.ends()

    assert (full, full_still, served) == (429, 429, 200)
    assert (open_still, header(headers, "x-tidegate-error")) == (503, "breaker_open")
    assert len(upstream.seen) == 1 and whole(ends[0])


async def test_a_middleware_of_others_that_cannot_be_made_is_an_edit_refused(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(
        "import msgspec\n"
        "class Breaks:\n"
        "    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):\n"
        "        pass\n"
        "    def __init__(self, options, deps):\n"
        "        raise RuntimeError('not today')\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        return await call_next(exchange)\n"
    )
    async with ScriptedUpstream(chat()) as upstream:
        table = write_table(tmp_path, {"up": route(upstream)}, models={"edit": "up/x"})
        async with Tidegate(table, env={"PYTHONPATH": str(tmp_path)}) as gate:
            broken = {"up": route(upstream, "breaks:Breaks")}
            refused = await judged(gate, "reload_failed", write_table, table, broken)
            status, _, _ = await ask(gate)

    assert status == 200 and "breaks:Breaks" in refused["reason"]
