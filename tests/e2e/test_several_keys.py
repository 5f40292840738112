"""Several keys for one provider, through the real process: the client notices nothing of a refused one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.metrics import ADMIN, figures, status_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.realtime import handshake
from tests.support.scene import CHAT, read_answer
from tests.support.upstream import ScriptedUpstream, Seen, Wire, answer, chat

KEYS = {"KEY_A": "sk-canary-aaaaaaaaaaaaaaaaaaaa", "KEY_B": "sk-canary-bbbbbbbbbbbbbbbbbbbb"}
SEVERAL = {"key": [{"env": "KEY_A"}, {"env": "KEY_B"}]}


class Provider:
    """Answers each key as `says` has it, with a chat where it says nothing."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[int, dict[str, str]]] = {}
        self.asked: list[str] = []

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        value = (seen.header("authorization") or "").removeprefix("Bearer ")
        name = next(name for name, key in KEYS.items() if key == value)
        self.asked.append(name)
        if name in self.says:
            status, headers = self.says[name]
            await answer(status, {"error": {"code": name}}, headers)(seen, wire)
        elif seen.method == "GET":
            await answer(200, {"data": []})(seen, wire)
        else:
            await chat("hello")(seen, wire)


@asynccontextmanager
async def several(
    folder: Path, *around: Any, inside: tuple[Any, ...] = (), **rest: Any
) -> AsyncIterator[tuple[Tidegate, Provider, ScriptedUpstream]]:
    provider = Provider()
    async with ScriptedUpstream(provider) as upstream:
        routes = {
            "up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", *around, SEVERAL, *inside]},
            "other": {"upstream": "demo", "middlewares": ["prefix_rewrite"]},
        }
        table = write_table(folder, routes, server=ADMIN, **rest)
        async with Tidegate(table, env=KEYS) as gate:
            yield gate, provider, upstream


async def ask(gate: Tidegate, body: Any = None) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(gate.port) as raw:
        await raw.send(post(CHAT, body or {"model": "up/x", "messages": []}))
        return await read_answer(raw)


async def test_a_client_never_sees_a_key_that_is_refused_and_the_operator_sees_that_it_rests(
    tmp_path: Path,
) -> None:
    async with several(tmp_path) as (gate, provider, _):
        provider.says["KEY_A"] = (429, {"Retry-After": "300"})
        first, headers, _ = await ask(gate)
        attempts = header(headers, "x-tidegate-attempts")
        second = (await ask(gate))[0]
        status, told = await status_of(gate), await figures(gate)

    assert (first, second, attempts) == (200, 200, "2")
    assert provider.asked == ["KEY_A", "KEY_B", "KEY_B"]
    a, b = status["routes"]["up"]["keys"]
    assert 290 < a.pop("resting_for_s") <= 300
    assert (a, b) == (
        {"source": "env KEY_A", "usable": True},
        {"source": "env KEY_B", "usable": True, "resting_for_s": 0.0},
    )
    assert status["routes"]["up"]["key"] == {"usable": True, "reason": None}
    assert status["routes"]["other"]["keys"] == []
    assert told.by("tidegate_attempts_total", "result", route="up") == {"429": 1, "ok": 2}
    assert told.by("tidegate_requests_total", "status", route="up") == {"200": 2}


async def test_a_stream_and_a_websocket_go_on_with_the_next_key(tmp_path: Path) -> None:
    async with several(tmp_path) as (gate, provider, _):
        provider.says["KEY_A"] = (401, {})
        status, _, said = await ask(gate, {"model": "up/x", "messages": [], "stream": True})
        async with RawClient(gate.port) as raw:
            await raw.send(handshake("/v1/realtime?model=up/x"))
            opened = (await read_answer(raw))[0]

    assert status == 200 and said.rstrip().endswith(b"data: [DONE]")
    assert opened == 200 and provider.asked == ["KEY_A", "KEY_B", "KEY_B"]


async def test_a_403_rests_no_key(tmp_path: Path) -> None:
    async with several(tmp_path) as (gate, provider, _):
        provider.says["KEY_A"] = (403, {})
        statuses = [(await ask(gate))[0] for _ in range(4)]

    assert statuses == [403, 200, 403, 200]
    assert provider.asked == ["KEY_A", "KEY_B"] * 2


async def test_when_all_are_refused_the_provider_s_own_answer_passes_and_a_ladder_moves_on(
    tmp_path: Path,
) -> None:
    models = {"ladder": ["up/x", "other/echo"]}
    async with several(tmp_path, models=models) as (gate, provider, _):
        provider.says = {"KEY_A": (429, {"Retry-After": "7"}), "KEY_B": (401, {})}
        status, headers, said = await ask(gate)
        moved, _, _ = await ask(
            gate, {"model": "ladder", "messages": [{"role": "user", "content": "Answer PONG."}]}
        )

    assert (status, header(headers, "Retry-After"), header(headers, "x-tidegate-attempts")) == (429, "7", "2")
    assert json.loads(said) == {"error": {"code": "KEY_A"}}
    assert moved == 200
    assert provider.asked == ["KEY_A", "KEY_B", "KEY_A"]  # the one that wakes first


async def test_a_breaker_around_counts_no_failure_that_another_key_mends(tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 1}}
    async with several(tmp_path, breaker) as (gate, provider, _):
        provider.says["KEY_A"] = (429, {"Retry-After": "3600"})  # a quota, which would open it for an hour
        statuses = [(await ask(gate))[0] for _ in range(3)]
        status = await status_of(gate)

    assert statuses == [200] * 3
    assert status["routes"]["up"]["breaker"]["state"] == "closed"


async def test_a_retry_around_begins_with_the_keys_that_do_not_rest(tmp_path: Path) -> None:
    retry = {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "1ms"}}}
    async with several(tmp_path, retry) as (gate, provider, _):
        provider.says = {"KEY_A": (429, {"Retry-After": "0"}), "KEY_B": (500, {})}
        status, headers, _ = await ask(gate)

    assert (status, header(headers, "x-tidegate-attempts")) == (500, "4")
    assert provider.asked == ["KEY_A", "KEY_B"] * 2


async def test_an_upload_is_not_sent_twice(tmp_path: Path) -> None:
    async with several(tmp_path) as (gate, provider, _):
        provider.says["KEY_A"] = (401, {})
        async with RawClient(gate.port) as raw:
            await raw.send(post("/up/v1/files", b"abc", [("Content-Type", "text/csv")]))
            status, _, _ = await read_answer(raw)
        again, _, _ = await ask(gate)

    assert (status, again) == (401, 200)
    assert provider.asked == ["KEY_A", "KEY_B"]


async def test_rests_survive_a_reload(tmp_path: Path) -> None:
    async with several(tmp_path) as (gate, provider, _):
        provider.says["KEY_A"] = (402, {"Retry-After": "300"})
        await ask(gate)
        table = tmp_path / "routes.yaml"
        edited = json.loads(table.read_text())
        edited["models"] = {"new": "up/x"}
        table.write_text(json.dumps(edited))
        await gate.wait_event("reloaded", within=10.0)
        status, _, _ = await ask(gate, {"model": "new", "messages": []})

    assert status == 200 and provider.asked == ["KEY_A", "KEY_B", "KEY_B"]


async def test_a_client_that_leaves_while_a_second_key_is_tried_ends_that_call(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        if KEYS["KEY_A"] in (seen.header("authorization") or ""):
            await answer(429, {"error": {}})(seen, wire)
            return
        reached.set()
        await wire.client_gone()

    async with several(tmp_path) as (gate, _, upstream):
        upstream.behaviour = slow
        async with RawClient(gate.port) as raw:
            await raw.send(post(CHAT, {"model": "up/x", "messages": []}))
            async with asyncio.timeout(10):
                await reached.wait()
        await upstream.wait_gone(1)
        (entry,) = await gate.wait_log(1)

    assert (entry["status"], entry["attempts"]) == (499, 2)
