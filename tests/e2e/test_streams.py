"""Streams through the real process: byte for byte, as they arrive, and no longer than the client stays."""

from __future__ import annotations

import asyncio
import hashlib
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    DONE,
    ScriptedUpstream,
    Seen,
    Wire,
    chat,
    silent,
    sse_event,
)

CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "Answer PONG."}]


def table(folder: Path, upstream: ScriptedUpstream | None = None, **clocks: str) -> Path:
    routes: dict[str, Any] = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
    if upstream is not None:
        routes["up"] = {"upstream": upstream.url, "middlewares": ["prefix_rewrite", {"timeout": clocks}]}
    return write_table(folder, routes)


def event(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def sdk(gate: Tidegate) -> Any:
    return AsyncOpenAI(base_url=gate.base_url + "/v1", api_key="unused")


async def test_the_openai_sdk_talks_to_the_demo(tmp_path: Path) -> None:
    async with Tidegate(table(tmp_path)) as gate:
        async with sdk(gate) as client:
            plain = await client.chat.completions.create(model="demo/echo", messages=SAY)
            stream = await client.chat.completions.create(
                model="demo/echo",
                messages=[{"role": "user", "content": "one two three"}],
                stream=True,
                stream_options={"include_usage": True},
            )
            pieces = [chunk async for chunk in stream]
            models = [model.id async for model in client.models.list()]
            one = await client.models.retrieve("demo/echo")

    assert plain.choices[0].message.content == "PONG"
    assert plain.usage.completion_tokens == 1
    said = [piece.choices[0].delta.content for piece in pieces if piece.choices]
    assert [word for word in said if word] == ["one", " two", " three"]
    assert pieces[-1].usage.completion_tokens == 3
    assert models == ["demo/echo", "demo/reasoner"]
    assert one.id == "demo/echo"


@pytest.mark.parametrize(("budget", "content", "finish"), [(800, "", "length"), (1500, "PONG", "stop")])
async def test_the_reasoner_spends_its_budget_on_reasoning_first(
    tmp_path: Path, budget: int, content: str, finish: str
) -> None:
    async with Tidegate(table(tmp_path)) as gate:
        async with sdk(gate) as client:
            plain = await client.chat.completions.create(
                model="demo/reasoner",
                messages=SAY,
                max_tokens=budget,
            )
            stream = await client.chat.completions.create(
                model="demo/reasoner",
                messages=SAY,
                max_tokens=budget,
                stream=True,
            )
            streamed = "".join([piece.choices[0].delta.content or "" async for piece in stream])
        entries = await gate.wait_log(2)

    assert plain.choices[0].message.content == streamed == content
    assert plain.choices[0].finish_reason == finish
    assert [entry["empty_answer"] for entry in entries] == [finish == "length"] * 2
    assert [entry["outcome"] for entry in entries] == ["ok", "ok"]


async def test_a_stream_comes_out_byte_for_byte_for_any_chunking(tmp_path: Path) -> None:
    chance = random.Random(20260707)
    sent = b""

    async def behave(_seen: Seen, wire: Wire) -> None:
        nonlocal sent
        texts = ["".join(chance.choices("aé漢 \\\"'{}:,", k=chance.randrange(60))) for _ in range(20)]
        events = [sse_event(event(text)) for text in texts]
        events += [
            b": comment\r\n\r\n",
            b"event: odd\rdata: {not json}\r\r",
            sse_event(event("", "stop")),
            DONE,
        ]
        sent = b"".join(events)
        await wire.head(200, {"Content-Type": "text/event-stream", "X-Own": "kept"})
        start = 0
        while start < len(sent):
            size = chance.choice([1, 2, 7, 60, 400])
            await wire.chunk(sent[start : start + size])
            start += size
        await wire.finish()

    headers: list[tuple[str, str]] = []
    async with ScriptedUpstream(behave) as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        for _ in range(30):
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
                status, headers = await client.read_head()
                got = await client.read_body()
            assert status == 200
            assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
    assert header(headers, "x-own") == "kept"
    assert header(headers, "x-accel-buffering") == "no"


async def test_the_first_token_is_passed_on_within_2_ms(tmp_path: Path) -> None:
    """Median of 200, one at a time, with a body of 1 KiB; both ends measure on one clock."""
    loop = asyncio.get_running_loop()
    left: list[float] = []

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        left.append(loop.time())
        await wire.chunk(sse_event(event("token")))
        await wire.chunk(sse_event(event("", "stop")) + DONE)
        await wire.finish()

    body = {"model": "up/x", "stream": True, "messages": [{"role": "user", "content": "x" * 960}]}
    delays = []
    async with ScriptedUpstream(behave) as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        async with RawClient(gate.port) as client:
            for _ in range(200):
                await client.send(post(CHAT, body))
                await client.read_head()
                arrived = [at async for at, _ in client.read_chunks()]
                delays.append(arrived[0] - left[-1])

    assert len(upstream.seen[0].body) >= 1000
    assert statistics.median(delays) < 0.002, f"median {statistics.median(delays) * 1000:.2f} ms"


async def test_events_arrive_when_they_are_sent_and_not_together(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(sse_event(event("first")))
        await release.wait()
        await wire.chunk(sse_event(event("last", "stop")) + DONE)
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
            await client.read_head()
            chunks = client.read_chunks()
            _, first = await anext(chunks)
            release.set()
            rest = b"".join([piece async for _, piece in chunks])

    assert b"first" in first and b"last" not in first
    assert b"last" in rest


async def test_a_pooled_connection_that_died_unnoticed_is_replaced_once(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, Tidegate(table(tmp_path, upstream)) as gate:

        async def second_is_dead(seen: Seen, wire: Wire) -> None:
            if seen.connection == upstream.seen[0].connection and len(upstream.seen) > 1:
                wire.reset()
            else:
                await chat("well")(seen, wire)

        upstream.behaviour = second_is_dead
        answers = []
        async with RawClient(gate.port) as client:
            for _ in range(2):
                await client.send(post(CHAT, {"model": "up/x", "messages": []}))
                status, headers = await client.read_head()
                await client.read_body()
                answers.append((status, header(headers, "x-tidegate-attempts")))

    assert answers == [(200, "1"), (200, "1")]
    assert len(upstream.seen) == 3
    assert len({seen.connection for seen in upstream.seen}) == 2


async def test_usage_is_counted_and_its_event_is_hidden_from_a_client_that_did_not_ask(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream(chat("one two three")) as upstream:
        routes = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", "usage"]}}
        async with Tidegate(write_table(tmp_path, routes)) as gate, sdk(gate) as client:
            said = []
            for options in ({}, {"stream_options": {"include_usage": True}}):
                stream = await client.chat.completions.create(
                    model="up/x", messages=SAY, stream=True, **options
                )
                said.append([chunk async for chunk in stream])
            await client.chat.completions.create(model="up/x", messages=SAY)
            entries = await gate.wait_log(3)

    quiet, asked = said
    assert all(chunk.choices for chunk in quiet)
    assert asked[-1].usage.completion_tokens == 3 and not asked[-1].choices
    assert [entry["completion_tokens"] for entry in entries] == [3, 3, 3]
    assert all(seen.json()["stream_options"]["include_usage"] for seen in upstream.seen[:2])
    assert "stream_options" not in upstream.seen[2].json()


async def test_sigterm_lets_a_stream_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(sse_event(event("first")))
        await release.wait()
        await wire.chunk(sse_event(event("last", "stop")) + DONE)
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        async with RawClient(gate.port) as client, RawClient(gate.port) as other:
            await other.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            ready, _ = await other.read_head()
            await other.read_body()
            await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
            await client.read_head()
            chunks = client.read_chunks()
            await anext(chunks)
            gate.process.terminate()
            await gate.wait_event("draining")
            await other.send(post(CHAT, {"model": "demo/echo", "messages": SAY}))
            refused, headers = await other.read_head()
            await other.read_body()
            release.set()
            rest = b"".join([piece async for _, piece in chunks])
        code = await gate.wait()

    assert (ready, refused) == (200, 503)
    assert header(headers, "x-tidegate-error") == "draining"
    assert header(headers, "retry-after") is not None
    assert header(headers, "connection") == "close"
    assert rest.endswith(DONE)
    assert code == 0


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": []}))
            await upstream.wait_seen(1)
            gate.process.terminate()
            await gate.wait_event("draining")
            gate.process.terminate()
            code = await gate.wait(within=3.0)

    assert code == 1


async def test_a_signal_that_comes_as_soon_as_it_listens_is_obeyed_in_order(tmp_path: Path) -> None:
    async with Tidegate(table(tmp_path)) as gate:
        gate.process.terminate()
        code = await gate.wait()

    assert code == 0
    assert gate.events("stopped") and gate.events("stopped")[0]["clean"]
