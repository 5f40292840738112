"""The other commits, and the bound of what is held: from when on a failure cannot be taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rescue import faults
from tests.rescue.caller import Shown, ask
from tests.rescue.rungs import KEYS, Heard, chain, well, whole
from tests.support.process import Tidegate, write_table
from tests.support.upstream import Behaviour, ScriptedUpstream

LARGE = 4000
"""Bytes; 40 tokens are more, one is less."""


async def outcome(
    folder: Path, fault: Behaviour, shown: Shown, **stream: Any
) -> tuple[Heard, tuple[int, int]]:
    """What comes of a first rung with this `stream`, and how often each of two was asked."""
    async with ScriptedUpstream(fault) as a, ScriptedUpstream(well("b")) as b:
        routes = {
            "a": {"upstream": a.url, "middlewares": [*chain("a", "")[:-1], {"stream": stream}]},
            "b": {"upstream": b.url, "middlewares": chain("b", "first_event")},
        }
        table = write_table(folder, routes, models={"both": ["a/of-a", "b/of-b"]})
        async with Tidegate(table, env=KEYS) as gate:
            heard = await ask(gate.port, "both", shown=shown)
        return heard, (len(a.seen), len(b.seen))


@pytest.mark.parametrize(
    ("commit", "opening", "rescued"),
    [("headers", 0, False), ("first_event", 0, True), ("first_event", 1, False), ("first_token", 1, True)],
)
async def test_a_late_first_token_moves_on_until_the_commit(
    tmp_path: Path, commit: str, opening: int, rescued: bool
) -> None:
    heard, calls = await outcome(tmp_path, faults.late("a", opening), Shown(waits=False), commit=commit)

    assert heard.status == 200
    assert (heard.ended, heard.body == whole("b")) == (rescued, rescued)
    assert calls == (1, int(rescued))
    assert rescued or heard.error == "timeout_first_token"


async def test_what_is_larger_than_hold_is_committed_and_told_as_cut(tmp_path: Path) -> None:
    shown = Shown(waits=True)
    fault = faults.cut("a", 40, shown)
    heard, calls = await outcome(tmp_path, fault, shown, commit="complete", hold=f"{LARGE}B")

    assert (heard.status, heard.ended, heard.error, heard.tokens) == (200, False, "upstream_cut", 40)
    assert calls == (1, 0)


async def test_a_good_answer_that_is_larger_than_hold_comes_whole(tmp_path: Path) -> None:
    heard, calls = await outcome(tmp_path, well("a"), Shown(waits=False), commit="complete", hold=f"{LARGE}B")

    assert (heard.status, heard.ended, heard.body) == (200, True, whole("a"))
    assert calls == (1, 0)


async def test_an_error_that_comes_late_among_what_is_held_is_no_part_of_an_answer(tmp_path: Path) -> None:
    told = b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'
    body = whole("a")[: whole("a").index(b"a20")].rpartition(b"data: ")[0] + told
    heard, calls = await outcome(tmp_path, faults.says(body), Shown(waits=False), commit="complete")

    assert (heard.status, heard.ended, heard.body) == (200, True, whole("b"))
    assert calls == (3, 1)
