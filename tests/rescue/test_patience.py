"""`keepalive`: comments while nobody has answered, which promise the client nothing of any rung."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.rescue import faults
from tests.rescue.caller import ask
from tests.rescue.faults import refusal
from tests.rescue.rungs import COMMITS, KEYS, Ladder, chain, events, plain, well, whole
from tests.support.process import Tidegate, write_table
from tests.support.upstream import ScriptedUpstream, answer, silent

PING = b": ping\n"


@asynccontextmanager
async def patient(folder: Path, commit: str) -> AsyncIterator[Ladder]:
    """Two rungs, of which the first has comments sent."""
    async with ScriptedUpstream() as a, ScriptedUpstream(well("b")) as b:
        kept = [*chain("a", commit)[:-1], {"stream": {"commit": commit, "keepalive": "200ms"}}]
        routes = {
            "a": {"upstream": a.url, "middlewares": kept},
            "b": {"upstream": b.url, "middlewares": chain("b", commit)},
        }
        table = write_table(folder, routes, models={"both": ["a/of-a", "b/of-b"]})
        async with Tidegate(table, env=KEYS) as gate:
            yield Ladder(gate, {"a": a, "b": b})


def without_comments(body: bytes) -> bytes:
    return body.replace(PING, b"")


async def test_comments_keep_the_client_while_a_stalled_answer_is_rescued(tmp_path: Path) -> None:
    async with patient(tmp_path, "complete") as ladder:
        ladder.rungs["a"].behaviour = faults.stalled("a", 20)
        heard = await ask(ladder.gate.port, "both")
        entry = await ladder.gate.log_entry(heard.headers)

    assert (heard.status, heard.ended) == (200, True)
    assert heard.body.startswith(PING * 2)
    assert without_comments(heard.body) == whole("b")
    assert heard.header("content-type") == "text/event-stream"
    # Nobody had answered when the head was sent.
    assert (heard.header("x-tidegate-route"), heard.header("x-tidegate-attempts")) == (None, None)
    assert (entry["outcome"], entry["route"], entry["attempts"]) == ("ok", "b", 2)


@pytest.mark.parametrize("commit", COMMITS)
async def test_after_a_comment_a_last_failure_is_told_in_the_stream(tmp_path: Path, commit: str) -> None:
    async with patient(tmp_path, commit) as ladder:
        ladder.rungs["a"].behaviour = silent()
        ladder.rungs["b"].behaviour = refusal(503, "overloaded")
        heard = await ask(ladder.gate.port, "both")
        entry = await ladder.gate.log_entry(heard.headers)

    assert (heard.status, heard.ended, heard.tokens) == (200, False, 0)
    assert heard.error == "timeout_first_byte"
    assert entry["error"] == "timeout_first_byte"


async def test_after_a_comment_a_refusal_is_told_in_the_stream(tmp_path: Path) -> None:
    async with patient(tmp_path, "complete") as ladder:
        ladder.rungs["a"].behaviour = silent()
        ladder.rungs["b"].behaviour = refusal(400, "unsupported_parameter")
        heard = await ask(ladder.gate.port, "both")

    assert (heard.status, heard.ended, heard.error) == (200, False, "unsupported_parameter")


async def test_comments_stand_between_events_and_an_answer_in_time_has_none(tmp_path: Path) -> None:
    async with patient(tmp_path, "first_event") as ladder:
        ladder.rungs["a"].behaviour = faults.stalled("a", 20)
        slow = await ask(ladder.gate.port, "both")
        ladder.rungs["a"].behaviour = well("a")
        quick = await ask(ladder.gate.port, "both")

    assert quick.body == whole("a")
    assert (slow.error, slow.ended, slow.tokens) == ("timeout_idle", False, 20)
    assert without_comments(slow.body).startswith(b"".join(events("a")[:21]))
    assert slow.body.count(PING) >= 2


async def test_a_client_that_asks_for_no_stream_gets_no_comments(tmp_path: Path) -> None:
    async with patient(tmp_path, "complete") as ladder:
        ladder.rungs["a"].behaviour = silent()
        heard = await ask(ladder.gate.port, "both", stream=False)

    assert (heard.status, heard.ended, heard.body) == (200, True, plain("b"))


async def test_after_a_comment_an_answer_that_is_no_stream_is_told_and_logged_as_an_error(
    tmp_path: Path,
) -> None:
    async with patient(tmp_path, "complete") as ladder:
        ladder.rungs["a"].behaviour = silent()
        ladder.rungs["b"].behaviour = answer(200, {"choices": []})
        heard = await ask(ladder.gate.port, "both")
        entry = await ladder.gate.log_entry(heard.headers)

    assert (heard.status, heard.ended, heard.error) == (200, False, "upstream_protocol")
    assert (entry["outcome"], entry["error"]) == ("upstream_error", "upstream_protocol")


async def test_no_comment_is_put_inside_of_an_event(tmp_path: Path) -> None:
    async with patient(tmp_path, "first_event") as ladder:
        ladder.rungs["a"].behaviour = faults.stalled("a", 20, and_half=True)
        heard = await ask(ladder.gate.port, "both")

    assert not heard.ended
    assert heard.body == b"".join(events("a")[:21]) + events("a")[21][:20]
