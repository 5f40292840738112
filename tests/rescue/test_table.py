"""Every row of the rescue table, through the real process: what the caller saw, who was asked, how long.

What holds for every row, whatever its result: no fault hangs past its clocks by more than a second, nothing
that is cut looks complete, no rung is asked more often than it may be, nothing of one rung reaches another,
and the next call is answered as if nothing had been.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.rescue.caller import Shown, ask
from tests.rescue.counted import COUNTED, counts
from tests.rescue.rows import ROWS, Answer, Cut, Error, Row
from tests.rescue.rungs import (
    ATTEMPTS,
    BACKOFF_MAX_S,
    BACKOFF_S,
    CLOCKS,
    COMMITS,
    KEYS,
    RUNGS,
    Heard,
    Ladder,
    events,
    plain,
    route,
    well,
    whole,
    write,
)
from tests.support.metrics import Figures, figures
from tests.support.process import Tidegate
from tests.support.upstream import DONE, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SLACK_S = 1.0
_EARLY_S = 0.05
"""A clock begins with the last byte of the request, not with the first."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ladder]:
    """One process for all rows; the providers keep no connection from one row to the next."""
    async with ScriptedUpstream() as a, ScriptedUpstream() as b, ScriptedUpstream() as c:
        async with Tidegate(write(tmp_path_factory.mktemp("rescue"), (a, b, c)), env=KEYS) as gate:
            yield Ladder(gate, dict(zip(RUNGS, (a, b, c), strict=True)))


@pytest_asyncio.fixture(loop_scope="module")
async def ladder(shared: Ladder) -> AsyncIterator[Ladder]:
    yield shared
    for upstream in shared.rungs.values():
        await upstream.forget()


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name.replace("`", "")) for row in ROWS])
async def test_a_fault_ends_as_the_table_says(ladder: Ladder, row: Row, commit: str) -> None:
    await begin(ladder, row, commit)
    shown = Shown(waits=isinstance(row.result(commit), Cut))
    for rung, behaviours in row.how(shown).items():
        ladder.rungs[rung].script(*behaviours)
    before = await figures(ladder.gate)

    heard, entry = await ask_to_the_end(ladder, commit, stream=row.stream, shown=shown)

    check_answer(heard, row, commit)
    check_calls(ladder, heard, row, commit)
    check_time(heard, row, commit)
    check_log(entry, heard, row, commit)
    check_metrics(before, await figures(ladder.gate), row, commit)
    assert ladder.misplaced() == []
    await check_that_all_is_well_again(ladder, commit)


async def ask_to_the_end(ladder: Ladder, model: str, **how: Any) -> tuple[Heard, dict[str, Any]]:
    """Ask, and wait for the log's line: then all that the exchange held has been given back."""
    heard = await ask(ladder.gate.port, model, **how)
    return heard, await ladder.gate.log_entry(heard.headers)


async def begin(ladder: Ladder, row: Row, commit: str) -> None:
    """With everybody well, and a kept connection where the row wants one."""
    for rung, upstream in ladder.rungs.items():
        upstream.behaviour = well(rung)
    if row.warm:
        heard, _ = await ask_to_the_end(ladder, commit)
        assert heard.body == whole("a")
        ladder.rungs["a"].seen.clear()


def check_answer(heard: Heard, row: Row, commit: str) -> None:
    result = row.result(commit)
    sent_by = whole if row.stream else plain
    assert heard.header("x-tidegate-route") == route(commit, result.rung)
    match result:
        case Answer(rung, _, body):
            assert (heard.status, heard.ended) == (200, True)
            assert heard.body == (sent_by(rung) if body is None else body)
        case Error(status, code):
            assert (heard.status, heard.error, heard.ended) == (status, code, True)
        case Cut(told, _, tokens):
            assert (heard.status, heard.error, heard.ended) == (200, told, False)
            if row.stream:
                assert heard.tokens == tokens
                assert heard.body.startswith(b"".join(events("a")[: tokens + 1]))
                assert not heard.body.endswith(DONE)
            else:
                assert heard.body and sent_by("a").startswith(heard.body)


def check_calls(ladder: Ladder, heard: Heard, row: Row, commit: str) -> None:
    """How often each rung was asked, and that it was in order."""
    calls = ladder.calls()
    # A call on a kept connection that had died is made once more, and is no attempt of its own.
    replaced = 1 if row.warm else 0
    assert calls == row.result(commit).calls
    assert heard.header("x-tidegate-attempts") == str(sum(calls) - replaced)
    for rung, made in zip(RUNGS, calls, strict=True):
        assert made <= ATTEMPTS[rung] + replaced
    times = [seen.at for upstream in ladder.rungs.values() for seen in upstream.seen]
    assert times == sorted(times)
    for earlier, later in zip(ladder.rungs["a"].seen, ladder.rungs["a"].seen[1:], strict=False):
        assert later.at - earlier.at >= row.asked_s
    if isinstance(row.result(commit), Error) and all(calls):
        # Everybody was asked.
        assert heard.header("x-should-retry") == "false"


def check_time(heard: Heard, row: Row, commit: str) -> None:
    clocks = sum(CLOCKS[name] for name in row.clocks)
    waits = sum(
        min(BACKOFF_MAX_S, BACKOFF_S * 2**made)
        for calls in row.result(commit).calls
        for made in range(calls - 1)
    )
    least = clocks + row.asked_s
    assert least - _EARLY_S <= heard.took <= least + (0 if row.asked_s else waits) + _SLACK_S


def check_log(entry: dict[str, Any], heard: Heard, row: Row, commit: str) -> None:
    result = row.result(commit)
    assert (entry["route"], entry["upstream_model"]) == (route(commit, result.rung), f"of-{result.rung}")
    assert str(entry["attempts"]) == heard.header("x-tidegate-attempts")
    tokens = (entry["prompt_tokens"], entry["completion_tokens"])
    match result:
        case Answer(rung):
            assert (entry["outcome"], entry["error"], tokens) == ("ok", None, (ord(rung), 60))
        case Error():
            assert (entry["outcome"], entry["status"], tokens) == (
                "upstream_error",
                result.status,
                (None, None),
            )
        case Cut(told):
            assert entry["error"] == (told or "upstream_cut")
            assert entry["outcome"] == ("timeout" if told and told.startswith("timeout") else "cut")


def check_metrics(before: Figures, after: Figures, row: Row, commit: str) -> None:
    """Each call counts once, by what ended it; the tokens are those of the rung that answered."""
    result = row.result(commit)
    for rung, calls in zip(RUNGS, result.calls, strict=True):
        made = calls - (1 if row.warm and rung == "a" else 0)
        expected = counts(COUNTED[row.name].get(rung, ("ok",)), made)
        assert more(before, after, "tidegate_attempts_total", "result", route(commit, rung)) == expected, rung
        if rung != result.rung:
            assert more(before, after, "tidegate_requests_total", "status", route(commit, rung)) == {}
            assert more(before, after, "tidegate_tokens_total", "kind", route(commit, rung)) == {}
    if isinstance(result, Answer):
        answered = route(commit, result.rung)
        spent = more(before, after, "tidegate_tokens_total", "kind", answered)
        assert (spent["prompt"], spent["completion"]) == (ord(result.rung), 60)
    assert more(before, after, "tidegate_requests_total", "status", route(commit, result.rung)) == {
        str(result.status if isinstance(result, Error) else 200): 1
    }


def more(before: Figures, after: Figures, name: str, label: str, of: str) -> dict[str, float]:
    """What a counter of one route grew by, for each value of a label."""
    was = before.by(name, label, route=of)
    now = after.by(name, label, route=of)
    return {value: count - was.get(value, 0) for value, count in now.items() if count != was.get(value, 0)}


async def check_that_all_is_well_again(ladder: Ladder, commit: str) -> None:
    """A call right after; and each rung answers for itself, on the last of its kept connections."""
    for rung, upstream in ladder.rungs.items():
        upstream.behaviour = well(rung, keep=False)
    heard, _ = await ask_to_the_end(ladder, commit)
    assert (heard.status, heard.ended, heard.body) == (200, True, whole("a"))
    assert heard.header("x-tidegate-attempts") == "1"
    for rung in RUNGS[1:]:
        heard, _ = await ask_to_the_end(ladder, f"{route(commit, rung)}/of-{rung}")
        assert (heard.status, heard.ended, heard.body) == (200, True, whole(rung))
    assert ladder.misplaced() == []
