"""What an operator sees of an outage while it lasts: the breaker, the attempts, the clock that ran out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.rescue import faults
from tests.rescue.caller import CHAT, ask
from tests.rescue.faults import refusal
from tests.rescue.rungs import KEYS, Ladder, chain, well, whole
from tests.support.metrics import ADMIN, Figures, figures, status_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire, reset_before_head, silent

COOLDOWN_S = 1.0
STATES = {"closed": 0, "half_open": 1, "open": 2}


@asynccontextmanager
async def ladder_of(
    folder: Path, fault: Behaviour, first: list[Any], *, python_path: Path | None = None, **rest: Any
) -> AsyncIterator[Ladder]:
    """Two rungs; `first` is the first one's chain."""
    env = KEYS if python_path is None else KEYS | {"PYTHONPATH": str(python_path)}
    async with ScriptedUpstream(fault) as a, ScriptedUpstream(well("b")) as b:
        routes = {
            "a": {"upstream": a.url, "middlewares": first},
            "b": {"upstream": b.url, "middlewares": chain("b", "first_event")},
        }
        models = {"both": ["a/of-a", "b/of-b"]}
        table = write_table(folder, routes, models=models, server=ADMIN, **rest)
        async with Tidegate(table, env=env) as gate:
            yield Ladder(gate, {"a": a, "b": b})


async def shown(ladder: Ladder) -> dict[str, Any]:
    """The first rung's breaker as /status has it, and that /metrics says the same before or after."""
    before = (await figures(ladder.gate)).value("tidegate_breaker_state", route="a")
    breaker: dict[str, Any] = (await status_of(ladder.gate))["routes"]["a"]["breaker"]
    after = (await figures(ladder.gate)).value("tidegate_breaker_state", route="a")
    assert STATES[breaker["state"]] in (before, after)
    return breaker


async def until(ladder: Ladder, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Look again and again until it does."""
    async with asyncio.timeout(10):
        while not holds(breaker := await shown(ladder)):
            await asyncio.sleep(0.05)
    return breaker


async def test_the_breaker_is_seen_to_open_to_let_one_through_and_to_close(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def when_released(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await well("a")(seen, wire)

    first = chain("a", "first_event", outer=[{"breaker": {"failures": 2, "cooldown": f"{COOLDOWN_S:g}s"}}])
    # Before retry it counts exchanges: two of them open it.
    async with ladder_of(tmp_path, reset_before_head(), first) as ladder:
        a = ladder.rungs["a"]
        at_first = await shown(ladder)
        await ask(ladder.gate.port, "both")
        after_one = await shown(ladder)
        await ask(ladder.gate.port, "both")
        opened = await shown(ladder)
        refused = await ask(ladder.gate.port, "both")
        half = await until(ladder, lambda breaker: breaker["state"] == "half_open")
        a.behaviour = when_released
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            probe = group.create_task(ask(ladder.gate.port, "both"))
            await a.wait_seen(7)
            probing = await shown(ladder)
            release.set()
        await ladder.gate.wait_log(4)
        closed = await shown(ladder)
        told = await figures(ladder.gate)
        routes = (await status_of(ladder.gate))["routes"]

    assert at_first == {"state": "closed", "failures_in_row": 0, "open_for_s": 0.0}
    assert after_one == {"state": "closed", "failures_in_row": 1, "open_for_s": 0.0}
    assert opened["state"] == "open" and 0 < opened["open_for_s"] <= COOLDOWN_S
    assert half["state"] == probing["state"] == "half_open"
    assert half["open_for_s"] == 0
    assert closed == {"state": "closed", "failures_in_row": 0, "open_for_s": 0.0}
    assert refused.body == whole("b") and probe.result().body == whole("a")
    results = told.by("tidegate_attempts_total", "result", route="a")
    assert results == {"upstream_reset": 6, "breaker_open": 1, "ok": 1}
    # A route without a breaker has no state to be in.
    assert routes["b"]["breaker"] is None
    assert 'tidegate_breaker_state{route="b"}' not in told.text


async def results_of(ladder: Ladder, route: str = "a") -> dict[str, float]:
    return (await figures(ladder.gate)).by("tidegate_attempts_total", "result", route=route)


async def test_an_attempt_counts_when_it_ends_and_not_with_the_exchange(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await well("b")(seen, wire)

    async with ladder_of(tmp_path, refusal(503, "overloaded"), chain("a", "first_event")) as ladder:
        ladder.rungs["b"].behaviour = slow
        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            asked = group.create_task(ask(ladder.gate.port, "both"))
            await ladder.rungs["b"].wait_seen(1)
            meanwhile = await figures(ladder.gate)
            release.set()
        await ladder.gate.wait_log(1)
        at_last = await figures(ladder.gate)

    assert asked.result().body == whole("b")
    assert meanwhile.by("tidegate_attempts_total", "result") == {"503": 3}
    assert meanwhile.by("tidegate_requests_total", "status") == {}
    # The stream is one of the rung that is asked now.
    assert meanwhile.by("tidegate_streams_in_flight", "route") == {"b": 1}
    assert at_last.by("tidegate_attempts_total", "result") == {"503": 3, "ok": 1}
    assert at_last.by("tidegate_streams_in_flight", "route") == {}


async def test_a_rungs_total_is_the_end_of_the_call_that_it_meets(tmp_path: Path) -> None:
    first = ["prefix_rewrite", {"retry": {"backoff": {"initial": "1ms"}}}, {"timeout": {"total": "700ms"}}]
    async with ladder_of(tmp_path, silent(), first) as ladder:
        ladder.rungs["a"].script(refusal(503, "overloaded"), silent())
        heard = await ask(ladder.gate.port, "both")
        results = await results_of(ladder)

    assert heard.body == whole("b")
    assert results == {"503": 1, "timeout_total": 1}


async def test_a_total_that_runs_out_before_anybody_was_asked_is_counted_too(tmp_path: Path) -> None:
    (tmp_path / "dreamy.py").write_text(
        "import asyncio\n"
        "class Dreamy:\n"
        "    def __init__(self, options, deps): pass\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        await asyncio.Event().wait()\n"
    )
    first = ["prefix_rewrite", "dreamy:Dreamy", {"timeout": {"total": "500ms"}}]
    async with ladder_of(tmp_path, silent(), first, python_path=tmp_path) as ladder:
        heard = await ask(ladder.gate.port, "both")
        results = await results_of(ladder)
        calls = ladder.calls()

    assert heard.body == whole("b")
    assert (results, calls) == ({"timeout_total": 1}, (0, 1))


async def test_what_the_top_levels_total_and_a_client_that_leaves_cut_short_is_counted(
    tmp_path: Path,
) -> None:
    top = [{"timeout": {"total": "700ms"}}]
    async with ladder_of(tmp_path, silent(), ["prefix_rewrite"], middlewares=top) as ladder:
        heard = await ask(ladder.gate.port, "both")
        async with RawClient(ladder.gate.port) as client:
            await client.send(post(CHAT, {"model": "both", "messages": []}))
            await ladder.rungs["a"].wait_seen(2)
            client.close()
        await ladder.gate.wait_log(2)
        told: Figures = await figures(ladder.gate)

    assert heard.error == "timeout_total"
    assert told.by("tidegate_attempts_total", "result") == {"timeout_total": 1, "client_gone": 1}
    assert told.by("tidegate_requests_total", "outcome", route="a") == {"timeout": 1, "client_gone": 1}
    assert told.by("tidegate_requests_total", "status", route="a") == {"504": 1, "499": 1}


async def test_a_full_queue_a_missing_key_and_a_closed_port_are_named(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        routes = {
            "full": {"upstream": upstream.url, "middlewares": [{"concurrency": {"limit": 1}}]},
            "keyless": {"upstream": upstream.url, "middlewares": [{"key": {"env": "NOT_THERE"}}]},
            "nowhere": {"upstream": "http://127.0.0.1:1/v1"},
        }
        table = write_table(tmp_path, routes, server=ADMIN)
        async with Tidegate(table) as gate, RawClient(gate.port) as holder:
            await holder.send(post("/full/v1/chat/completions", {"messages": []}))
            await upstream.wait_seen(1)
            for route in routes:
                async with RawClient(gate.port) as client:
                    await client.send(post(f"/{route}/v1/chat/completions", {"messages": []}))
                    await client.read_head()
            await gate.wait_log(3)
            told = await figures(gate)
            slots = (await status_of(gate))["routes"]["full"]["slots"]

    assert told.by("tidegate_attempts_total", "result", route="full") == {"queue_full": 1}
    assert told.by("tidegate_attempts_total", "result", route="keyless") == {"key_missing": 1}
    assert told.by("tidegate_attempts_total", "result", route="nowhere") == {"upstream_connect": 1}
    assert slots == {"limit": 1, "in_use": 1, "queued": 0, "shared": False}


async def test_an_error_that_is_told_inside_of_a_stream_is_an_attempt_that_failed(tmp_path: Path) -> None:
    good_then_bad = faults.says(
        b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
        b'data: {"error":{"message":"no","code":502}}\n\ndata: [DONE]\n\n'
    )
    async with ladder_of(tmp_path, good_then_bad, chain("a", "first_event")) as ladder:
        heard = await ask(ladder.gate.port, "both")
        entry = await ladder.gate.log_entry(heard.headers)
        told = await figures(ladder.gate)

    assert entry["outcome"] == "upstream_error"
    assert told.by("tidegate_attempts_total", "result") == {"error_event": 1}
    assert told.by("tidegate_requests_total", "outcome") == {"upstream_error": 1}
