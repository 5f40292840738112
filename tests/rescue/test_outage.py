"""A provider that is down for a while, behind a breaker: who is asked meanwhile, and when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rescue.caller import ask
from tests.rescue.faults import refusal
from tests.rescue.rungs import COMMITS, KEYS, Heard, Ladder, chain, plain, well, whole
from tests.support.process import Tidegate, write_table
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire, answer, reset_before_head

COOLDOWN_S = 0.4
DOWN_S = 1.2
ASKED_EVERY_S = 0.08
BREAKER = {"breaker": {"failures": 3, "cooldown": f"{int(COOLDOWN_S * 1000)}ms"}}


@asynccontextmanager
async def ladder_of(folder: Path, commit: str, **first: Any) -> AsyncIterator[Ladder]:
    """Two rungs, `a` with these middlewares more."""
    async with ScriptedUpstream() as a, ScriptedUpstream(well("b")) as b:
        routes = {
            "a": {"upstream": a.url, "middlewares": chain("a", commit, **first)},
            "b": {"upstream": b.url, "middlewares": chain("b", commit)},
            "nowhere": {"upstream": "http://127.0.0.1:1/v1", "middlewares": chain("a", commit)},
        }
        models = {"both": ["a/of-a", "b/of-b"], "no-one-there": ["nowhere/of-a", "b/of-b"]}
        async with Tidegate(write_table(folder, routes, models=models), env=KEYS) as gate:
            yield Ladder(gate, {"a": a, "b": b})


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize(
    ("place", "until_open", "probe"),
    [("inner", 3, 1), ("outer", 9, 3)],
    ids=["each attempt counts", "each exchange counts"],
)
async def test_a_provider_that_is_down_is_asked_once_a_cooldown_until_it_is_back(
    tmp_path: Path, commit: str, place: str, until_open: int, probe: int
) -> None:
    async with ladder_of(tmp_path, commit, **{place: [BREAKER]}) as ladder:
        a = ladder.rungs["a"]
        a.behaviour = reset_before_head()
        while_down = await ask_every_so_often(ladder, int(DOWN_S / ASKED_EVERY_S))
        bursts = in_bursts([seen.at for seen in a.seen])
        a.behaviour = well("a")
        after = await ask_every_so_often(ladder, int(DOWN_S / ASKED_EVERY_S))

    assert [heard.body == whole("b") for heard in while_down] == [True] * len(while_down)
    # Until it opens every request tries; then one for each cooldown does, and no more.
    assert bursts[0] == until_open
    assert bursts[1:] and set(bursts[1:]) == {probe}
    assert len(bursts) <= 2 + (DOWN_S + 1) / COOLDOWN_S
    # It is back once, and for good.
    answered = [heard.header("x-tidegate-route") or "" for heard in after]
    assert answered == sorted(answered, reverse=True) and answered[-1] == "a"
    assert answered.count("b") <= COOLDOWN_S / ASKED_EVERY_S + 1
    assert all(heard.ended and heard.body in (whole("a"), whole("b")) for heard in after)
    assert ladder.misplaced() == []


async def ask_every_so_often(ladder: Ladder, times: int) -> list[Heard]:
    loop = asyncio.get_running_loop()
    heard = []
    for _ in range(times):
        due = loop.time() + ASKED_EVERY_S
        heard.append(await ask(ladder.gate.port, "both"))
        await asyncio.sleep(max(0.0, due - loop.time()))
    return heard


def in_bursts(times: Sequence[float]) -> list[int]:
    """How many calls there were, each time after nearly a cooldown without any."""
    bursts: list[int] = []
    before = float("-inf")
    for at in times:
        if at - before >= COOLDOWN_S * 0.9:
            bursts.append(0)
        bursts[-1] += 1
        before = at
    return bursts


async def test_of_many_that_ask_after_the_cooldown_one_is_let_through(tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 1, "cooldown": "300ms"}}
    others = asyncio.Event()

    async def when_the_others_are_served(seen: Seen, wire: Wire) -> None:
        await others.wait()
        await well("a")(seen, wire)

    async def when_all_are_there(seen: Seen, wire: Wire) -> None:
        await ladder.rungs["a"].wait_seen(7)
        await well("a")(seen, wire)

    async with ladder_of(tmp_path, "complete", inner=[breaker]) as ladder:
        ladder.rungs["a"].script(reset_before_head(), when_the_others_are_served)
        await ask(ladder.gate.port, "both")
        await asyncio.sleep(0.35)  # the cooldown: there is nothing to see of its end
        served: list[Heard] = []

        async def one() -> None:
            served.append(await ask(ladder.gate.port, "both"))
            if len(served) == 9:
                others.set()

        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(one())
        calls = ladder.calls()
        # Closed, it lets everybody through at once.
        ladder.rungs["a"].behaviour = when_all_are_there
        back = await asyncio.gather(*(ask(ladder.gate.port, "both") for _ in range(5)))

    assert [heard.header("x-tidegate-route") for heard in served] == ["b"] * 9 + ["a"]
    assert calls == (2, 10)
    assert [heard.header("x-tidegate-route") for heard in back] == ["a"] * 5


@pytest.mark.parametrize(
    ("quota", "least"),
    [
        (refusal(429, "rate_limit_exceeded", wait="90"), 80),
        (answer(429, {"error": "you (someone) have reached your session usage limit"}), 3500),
    ],
    ids=["a long Retry-After", "Ollama's session limit"],
)
async def test_a_quota_opens_it_at_once_and_for_as_long_as_it_lasts(
    tmp_path: Path, quota: Behaviour, least: int
) -> None:
    breaker = {"breaker": {"failures": 5, "cooldown": "1s"}}
    async with ladder_of(tmp_path, "first_event", inner=[breaker]) as ladder:
        ladder.rungs["a"].behaviour = quota
        on_ladder = [await ask(ladder.gate.port, "both") for _ in range(3)]
        alone = await ask(ladder.gate.port, "a/of-a")
        calls = ladder.calls()

    assert [heard.body == whole("b") for heard in on_ladder] == [True] * 3
    assert [heard.header("x-tidegate-attempts") for heard in on_ladder] == ["2", "1", "1"]
    assert (alone.status, alone.error) == (503, "breaker_open")
    assert int(alone.header("retry-after") or 0) >= least
    assert calls == (1, 3)


@pytest.mark.parametrize("commit", COMMITS)
async def test_a_provider_that_is_not_there_gives_way_to_the_next(tmp_path: Path, commit: str) -> None:
    async with ladder_of(tmp_path, commit) as ladder:
        heard = await ask(ladder.gate.port, "no-one-there")
        alone = await ask(ladder.gate.port, "nowhere/of-a")

    assert (heard.body, heard.header("x-tidegate-attempts")) == (whole("b"), "4")
    assert (alone.status, alone.error) == (502, "upstream_connect")
    assert (alone.header("x-tidegate-attempts"), alone.header("x-should-retry")) == ("3", "false")


async def test_a_rung_without_a_free_slot_gives_way_at_once(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def busy(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await well("a")(seen, wire)

    async with ladder_of(tmp_path, "complete", outer=[{"concurrency": {"limit": 1}}]) as ladder:
        ladder.rungs["a"].behaviour = busy
        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            first = group.create_task(ask(ladder.gate.port, "both"))
            await ladder.rungs["a"].wait_seen(1)
            second = await ask(ladder.gate.port, "both")
            alone = await ask(ladder.gate.port, "a/of-a")
            release.set()

    assert first.result().body == whole("a")
    assert (second.body, second.header("x-tidegate-attempts")) == (whole("b"), "1")
    assert (alone.status, alone.error, alone.header("retry-after")) == (429, "queue_full", "1")


@pytest.mark.parametrize(
    ("place", "order"),
    [("outer", ["first", "first", "second"]), ("inner", ["first", "second", "first"])],
    ids=["before retry", "after retry"],
)
async def test_a_slot_is_kept_through_the_back_off_where_it_is_taken_before_retry(
    tmp_path: Path, place: str, order: list[str]
) -> None:
    slots = {"concurrency": {"limit": 1, "queue": 1}}
    async with ladder_of(tmp_path, "complete", **{place: [slots]}) as ladder:
        a = ladder.rungs["a"]
        a.script(refusal(429, "rate_limit_exceeded", wait="1"), well("a"))
        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            first = group.create_task(ask(ladder.gate.port, "a/of-a"))
            await a.wait_seen(1)
            second = group.create_task(ask(ladder.gate.port, "a/of-a", stream=False))
        asked = ["first" if seen.json().get("stream") else "second" for seen in a.seen]

    assert asked == order
    assert (first.result().body, second.result().body) == (whole("a"), plain("a"))


async def test_an_answer_that_was_asked_for_before_it_opened_does_not_close_it(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await well("a")(seen, wire)

    breaker = {"breaker": {"failures": 5, "cooldown": "1s"}}
    quota = refusal(429, "rate_limit_exceeded", wait="90")
    async with ladder_of(tmp_path, "first_event", inner=[breaker]) as ladder:
        a = ladder.rungs["a"]
        a.script(slow, quota, well("a"))
        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            early = group.create_task(ask(ladder.gate.port, "both"))
            await a.wait_seen(1)
            refused = await ask(ladder.gate.port, "both")
            release.set()
        later = await ask(ladder.gate.port, "both")

    assert early.result().body == whole("a")
    assert (refused.body, later.body) == (whole("b"), whole("b"))
    assert ladder.calls() == (2, 2)


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        (refusal(503, "overloaded", wait="1"), 503, "overloaded", "1"),
        (answer(429, {"error": {"message": "weekly usage limit", "code": "limit"}}), 429, "limit", None),
        (reset_before_head(), 502, "upstream_reset", None),
    ],
    ids=["its own error", "its quota", "a reset"],
)
async def test_a_breaker_that_opens_between_two_calls_does_not_hide_what_the_provider_said(
    tmp_path: Path, fault: Behaviour, status: int, code: str, wait: str | None
) -> None:
    breaker = {"breaker": {"failures": 1, "cooldown": "30s"}}
    async with ladder_of(tmp_path, "first_event", inner=[breaker]) as ladder:
        ladder.rungs["a"].behaviour = fault
        heard = await ask(ladder.gate.port, "a/of-a")
        entry = await ladder.gate.log_entry(heard.headers)
        after = await ask(ladder.gate.port, "a/of-a")
        calls = ladder.calls()

    assert (heard.status, heard.error, heard.header("retry-after")) == (status, code, wait)
    assert (heard.header("x-should-retry"), heard.header("x-tidegate-attempts")) == ("false", "1")
    assert heard.header("x-tidegate-changed") == "model=a/of-a->of-a, max_tokens=5->101"
    assert (entry["upstream_model"], entry["outcome"]) == ("of-a", "upstream_error")
    # Nobody was asked for this one: it is the breaker that speaks.
    assert (after.status, after.error, after.header("x-tidegate-attempts")) == (503, "breaker_open", "0")
    assert calls == (1, 0)


async def test_a_ladder_logs_what_failed_and_not_the_breaker_that_opened_on_the_way(tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 2, "cooldown": "30s"}}
    async with ladder_of(tmp_path, "first_event", inner=[breaker]) as ladder:
        ladder.rungs["a"].behaviour = refusal(503, "overloaded")
        heard = await ask(ladder.gate.port, "both")
        failed = await ladder.gate.wait_event("rung_failed")

    assert (heard.body, ladder.calls()) == (whole("b"), (2, 1))
    assert (failed["route"], failed["failure"], failed["attempts"]) == ("a", "503", 2)
