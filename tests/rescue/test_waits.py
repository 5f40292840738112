"""What ends a wait: the clock `total`, and a client that leaves. Nobody is asked after either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.rescue import faults
from tests.rescue.caller import CHAT, ask
from tests.rescue.faults import refusal
from tests.rescue.rungs import KEYS, Ladder, chain, well, whole
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import Behaviour, ScriptedUpstream, silent


@asynccontextmanager
async def ladder_with(
    folder: Path, fault: Behaviour, total: str, top: str | None = None
) -> AsyncIterator[Ladder]:
    """Two rungs, the first with nothing but this clock; `top` bounds the exchange."""
    async with ScriptedUpstream(fault) as a, ScriptedUpstream(well("b")) as b:
        hasty = [
            *chain("a", "complete")[:-2],
            {"timeout": {"total": total}},
            {"stream": {"commit": "complete"}},
        ]
        routes = {
            "a": {"upstream": a.url, "middlewares": hasty},
            "b": {"upstream": b.url, "middlewares": chain("b", "complete")},
        }
        rest = {} if top is None else {"middlewares": [{"timeout": {"total": top}}]}
        table = write_table(folder, routes, models={"both": ["a/of-a", "b/of-b"]}, **rest)
        async with Tidegate(table, env=KEYS) as gate:
            yield Ladder(gate, {"a": a, "b": b})


async def test_a_wait_that_total_would_not_see_the_end_of_is_not_begun(tmp_path: Path) -> None:
    busy = refusal(429, "rate_limit_exceeded", wait="2")
    async with ladder_with(tmp_path, busy, "1500ms") as ladder:
        heard = await ask(ladder.gate.port, "a/of-a")
        calls = ladder.calls()

    assert (heard.status, heard.error, heard.header("retry-after")) == (429, "rate_limit_exceeded", "2")
    # Later it may well be answered: the client may try.
    assert heard.header("x-should-retry") is None
    assert calls == (1, 0)


@pytest.mark.parametrize("fault", [silent(), faults.stalled("a", 20)], ids=["silent", "stalled"])
async def test_a_rungs_total_moves_the_ladder_on(tmp_path: Path, fault: Behaviour) -> None:
    async with ladder_with(tmp_path, fault, "1s") as ladder:
        heard = await ask(ladder.gate.port, "both")
        calls = ladder.calls()
        await ladder.rungs["a"].wait_gone(1)

    assert heard.body == whole("b")
    assert 0.95 <= heard.took <= 2.0
    assert calls == (1, 1)


async def test_the_top_levels_total_ends_the_exchange(tmp_path: Path) -> None:
    async with ladder_with(tmp_path, silent(), "9s", top="1s") as ladder:
        heard = await ask(ladder.gate.port, "both")
        calls = ladder.calls()
        await ladder.rungs["a"].wait_gone(1)

    assert (heard.status, heard.error) == (504, "timeout_total")
    assert heard.header("x-should-retry") == "false"
    assert 0.95 <= heard.took <= 2.0
    assert calls == (1, 0)


async def test_a_client_that_leaves_during_a_back_off_has_nobody_asked_again(tmp_path: Path) -> None:
    busy = refusal(429, "rate_limit_exceeded", wait="2")
    async with ladder_with(tmp_path, busy, "9s") as ladder:
        await leave_after_the_first_call(ladder)
        (entry,) = await ladder.gate.wait_log(1, within=1.5)
        calls = ladder.calls()

    assert (entry["outcome"], entry["attempts"]) == ("client_gone", 1)
    assert calls == (1, 0)


async def test_a_client_that_leaves_while_its_answer_is_held_ends_the_call(tmp_path: Path) -> None:
    async with ladder_with(tmp_path, faults.stalled("a", 20), "9s") as ladder:
        await leave_after_the_first_call(ladder)
        await ladder.rungs["a"].wait_gone(1, within=1.5)
        (entry,) = await ladder.gate.wait_log(1)
        calls = ladder.calls()

    assert entry["outcome"] == "client_gone"
    assert calls == (1, 0)


async def leave_after_the_first_call(ladder: Ladder) -> None:
    async with asyncio.timeout(10), RawClient(ladder.gate.port) as client:
        await client.send(post(CHAT, {"model": "both", "messages": [], "max_tokens": 5, "stream": True}))
        await ladder.rungs["a"].wait_seen(1)
        client.close()
