"""Comments that keep a client waiting, through the real process: the answer is the same but for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.completions import Completion
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT, Scene, read_answer, scene_with
from tests.support.upstream import (
    DONE,
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    chat,
    silent,
    sse_event,
    stream,
)

PING = b": ping\n"
EVERY_S = 0.1
ASKED = {"model": "up/x", "messages": [], "stream": True}
EVENTS = [sse_event(event) for event in Completion("one two three four", "x").events()]
WHOLE = b"".join(EVENTS) + DONE
ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"]


def keepalive(every: str = "100ms", **more: Any) -> dict[str, Any]:
    return {"stream": {"keepalive": every, **more}}


class Held:
    """Takes the request, and answers once it is let go."""

    def __init__(self, then: Behaviour) -> None:
        self._then = then
        self._go = asyncio.Event()

    def let_go(self) -> None:
        self._go.set()

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        await self._go.wait()
        await self._then(seen, wire)


def in_pieces(*pieces: bytes, pause: float = 0.0) -> Behaviour:
    """A whole stream in just these pieces."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for piece in pieces:
            await wire.chunk(piece)
            await wire.pause(pause)
        await wire.finish()

    return behave


@asynccontextmanager
async def pinged(
    scene: Scene, path: str = CHAT, body: Any = ASKED, *, pings: int = 3
) -> AsyncIterator[tuple[RawClient, list[tuple[str, str]]]]:
    """A client that has waited for so many comments, and the head that they came with."""
    async with RawClient(scene.gate.port) as client:
        await client.send(post(path, body))
        status, headers = await client.read_head()
        assert status == 200
        chunks = client.read_chunks()
        for _ in range(pings):
            assert (await anext(chunks))[1] == PING
        yield client, headers


async def broken_off(client: RawClient) -> bytes:
    """What still comes of an answer, without comments; it must not come to a proper end."""
    raw = await client.read_until_closed()
    assert not raw.endswith(b"0\r\n\r\n")
    return without_framing(raw).replace(PING, b"")


def without_framing(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        body, raw = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def test_after_so_long_without_a_byte_there_is_a_head_and_then_a_comment_each_time(
    tmp_path: Path,
) -> None:
    async with scene_with(tmp_path, keepalive("300ms")) as scene, RawClient(scene.gate.port) as client:
        scene.upstream.behaviour = held = Held(in_pieces(WHOLE))
        began = time.monotonic()
        await client.send(post(CHAT, ASKED))
        status, headers = await client.read_head()
        assert time.monotonic() - began >= 0.3
        names = {name.lower() for name, _ in headers}
        chunks = client.read_chunks()
        for number in range(1, 5):
            assert (await anext(chunks))[1] == PING
            assert time.monotonic() - began >= 0.3 * number
        held.let_go()
        rest = b"".join([data async for _, data in chunks])
        entry = await scene.gate.log_entry(headers)

    assert (status, header(headers, "content-type")) == (200, "text/event-stream")
    ours = {name for name in names if name.startswith("x-tidegate-")}
    assert ours == {"x-tidegate-id"}, "nobody has answered yet"
    assert names - ours <= {"content-type", "date", "transfer-encoding", "x-accel-buffering"}
    assert rest.replace(PING, b"") == WHOLE
    assert (entry["status"], entry["outcome"], entry["attempts"]) == (200, "ok", 1)


@pytest.mark.parametrize("body", [{"model": "up/x", "messages": []}, {**ASKED, "stream": False}])
@pytest.mark.parametrize("then", [chat("late"), in_pieces(WHOLE)], ids=["plain", "stream"])
async def test_a_request_that_asks_for_no_stream_gets_no_comment(
    tmp_path: Path, body: Any, then: Behaviour
) -> None:
    async def slow(seen: Seen, wire: Wire) -> None:
        await wire.pause(5 * EVERY_S)
        await then(seen, wire)

    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = slow
        _, headers, said = await scene.say(post(CHAT, body))

    assert PING not in said
    assert header(headers, "x-tidegate-route") == "up"


async def test_an_answer_that_comes_in_time_keeps_its_own_head(tmp_path: Path) -> None:
    async with scene_with(tmp_path, keepalive("20s")) as scene:
        scene.upstream.behaviour = stream(*EVENTS)
        _, headers, said = await scene.say(post(CHAT, ASKED))
        scene.upstream.behaviour = answer(418, {"error": {"message": "no"}})
        status, _, _ = await scene.say(post(CHAT, ASKED))

    assert said == WHOLE
    assert header(headers, "x-tidegate-route") == "up"
    assert status == 418


async def test_no_comment_stands_inside_an_event_and_without_them_it_is_the_same_to_the_byte(
    tmp_path: Path,
) -> None:
    long = EVENTS[1]
    # The first event would be held until it is whole: it is the second that comes to the client in pieces.
    pieces = (EVENTS[0], long[:20], long[20:-1], long[-1:], b": theirs\n", *EVENTS[2:], DONE)
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = held = Held(in_pieces(*pieces, pause=3 * EVERY_S))
        async with pinged(scene) as (client, _):
            held.let_go()
            said = b"".join([data async for _, data in client.read_chunks()])

    assert long in said, "a comment inside an event"
    assert said.replace(PING, b"") == b"".join(pieces)
    after_first = said[said.index(long) :]
    assert after_first.count(PING) >= len(EVENTS) - 2, "none between events that are slow to come"


async def test_a_complete_answer_is_held_behind_the_comments(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def halting(_seen: Seen, wire: Wire) -> None:
        await wire.sse(*EVENTS[:3], done=False)
        await release.wait()
        await wire.chunk(b"".join(EVENTS[3:]) + DONE)
        await wire.finish()

    async with scene_with(tmp_path, keepalive(commit="complete")) as scene:
        scene.upstream.behaviour = halting
        async with pinged(scene, pings=4) as (client, _):
            release.set()
            said = b"".join([data async for _, data in client.read_chunks()])

    assert said.replace(PING, b"") == WHOLE
    assert WHOLE in said


async def test_retries_and_the_ladder_go_on_behind_the_comments(tmp_path: Path) -> None:
    hasty = {"timeout": {"first_byte": "500ms"}}
    again = {"retry": {"attempts": 3, "backoff": {"initial": "300ms", "max": "300ms"}}}
    async with ScriptedUpstream(silent()) as first, ScriptedUpstream() as second:
        second.script(answer(500, {}), answer(503, {}), in_pieces(WHOLE))
        routes = {
            "first": {"upstream": first.url, "middlewares": [hasty, keepalive()]},
            "second": {"upstream": second.url, "middlewares": [again]},
        }
        table = write_table(tmp_path, routes, models={"ladder": ["first/a", "second/b"]})
        async with Tidegate(table) as gate, RawClient(gate.port) as client:
            await client.send(post(CHAT, {**ASKED, "model": "ladder"}))
            status, headers, said = await read_answer(client)
            entry = await gate.log_entry(headers)

    assert (status, said.replace(PING, b"")) == (200, WHOLE)
    assert said.startswith(PING)
    assert (entry["route"], entry["attempts"], entry["outcome"]) == ("second", 4, "ok")
    assert [len(first.seen), len(second.seen)] == [1, 3]


async def test_rungs_that_fail_faster_than_a_comment_comes_do_not_put_it_off(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        chain = [{"timeout": {"first_byte": "600ms"}}, keepalive("1s")]
        routes = {name: {"upstream": upstream.url, "middlewares": chain} for name in ("a", "b", "c", "d")}
        table = write_table(tmp_path, routes, models={"ladder": [f"{name}/x" for name in routes]})
        async with Tidegate(table) as gate, RawClient(gate.port) as client:
            await client.send(post(CHAT, {**ASKED, "model": "ladder"}))
            status, _ = await client.read_head()
            said = await broken_off(client)

    assert status == 200, "the client waited for all rungs without a byte"
    assert b"timeout_first_byte" in said


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_the_final_failure_is_one_event_in_the_endpoints_words_and_no_proper_end(
    tmp_path: Path, path: str
) -> None:
    async with scene_with(tmp_path, keepalive(), {"timeout": {"first_byte": "800ms"}}) as scene:
        scene.upstream.behaviour = silent()
        async with pinged(scene, path) as (client, headers):
            told = await broken_off(client)
        entry = await scene.gate.log_entry(headers)

    assert told_error(told, path)["code"] == "timeout_first_byte"
    assert (entry["status"], entry["outcome"], entry["error"]) == (200, "timeout", "timeout_first_byte")


def told_error(told: bytes, path: str) -> Any:
    """The error in the one event that `told` is."""
    named = path in ("/v1/messages", "/v1/responses")
    prefix = b"event: error\ndata: " if named else b"data: "
    assert told.startswith(prefix) and told.endswith(b"\n\n") and told.count(b"data: ") == 1
    value = json.loads(told.removeprefix(prefix))
    assert value.get("type") == ("error" if named else None)
    if path == "/v1/responses":
        assert (value["code"], value["message"]) == (value["error"]["code"], value["error"]["message"])
    return value["error"]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_an_error_answer_of_the_provider_is_told_in_band(tmp_path: Path, path: str) -> None:
    error = {"message": "slow down", "type": "rate", "code": "burst", "param": None}
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = held = Held(answer(429, {"error": error}, {"Retry-After": "3"}))
        async with pinged(scene, path) as (client, headers):
            held.let_go()
            told = await broken_off(client)
        entry = await scene.gate.log_entry(headers)

    assert told_error(told, path) == error
    assert (entry["status"], entry["outcome"]) == (200, "upstream_error")


@pytest.mark.parametrize(
    ("then", "code"),
    [
        (answer(500, ["no", "object"]), "upstream_protocol"),
        (answer(200, Completion("plain", "x").whole()), "upstream_protocol"),
        (in_pieces(EVENTS[0][:9]), "upstream_cut"),
    ],
    ids=["error without words", "plain answer", "cut"],
)
async def test_what_cannot_follow_the_comments_is_an_error_in_band(
    tmp_path: Path, then: Behaviour, code: str
) -> None:
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = held = Held(then)
        async with pinged(scene) as (client, headers):
            held.let_go()
            told = await broken_off(client)
        entry = await scene.gate.log_entry(headers)

    assert told_error(told, CHAT)["code"] == code
    assert entry["outcome"] in ("upstream_error", "cut"), "the log says that it went well"


async def test_a_stream_that_breaks_after_comments_is_told_as_any_other(tmp_path: Path) -> None:
    async def breaking(_seen: Seen, wire: Wire) -> None:
        await wire.sse(*EVENTS[:3], done=False)
        wire.reset()

    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = held = Held(breaking)
        async with pinged(scene) as (client, headers):
            held.let_go()
            said = await broken_off(client)
        entry = await scene.gate.log_entry(headers)

    shown = b"".join(EVENTS[:3])
    assert said.startswith(shown)
    assert told_error(said.removeprefix(shown), CHAT)["code"] == "upstream_cut"
    assert entry["outcome"] == "cut"
