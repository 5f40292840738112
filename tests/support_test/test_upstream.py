"""The scripted upstream: what it records, how it answers, and the ways in which it breaks off."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, nullcontext
from typing import Literal

import aiohttp
import pytest

from tests.support.http1 import Malformed
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    chat,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
    stream,
)

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


async def test_records_spelling_order_and_chunked_bodies_over_one_connection() -> None:
    async with ScriptedUpstream(answer(200, {"ok": True})) as upstream, RawClient(upstream.port) as client:
        await client.send(
            b"PUT /v1/files?a=%2F HTTP/1.1\r\nHost: h\r\nx-ODD:  a b \r\nx-odd: c\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"4;ext=1\r\nab\r\n\r\n1\r\nz\r\n0\r\nTrailer: t\r\n\r\n" + post("/v1/x", {"n": 1})
        )
        for _ in range(2):
            status, headers = await client.read_head()
            assert (status, header(headers, "content-TYPE")) == (200, "application/json")
            assert await client.read_body() == b'{"ok": true}'
        first, second = await upstream.wait_seen(2)
        assert (first.method, first.target, first.path) == ("PUT", "/v1/files?a=%2F", "/v1/files")
        assert first.headers[1:3] == (("x-ODD", "a b"), ("x-odd", "c"))
        assert (first.body, second.json()) == (b"ab\r\nz", {"n": 1})
        assert first.connection == second.connection == upstream.connections == upstream.open_connections == 1
        assert first.at <= second.at
        assert upstream.gone == []


async def test_an_ordinary_client_reuses_its_connection_and_a_script_is_followed() -> None:
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.script(answer(500, {}), answer(429, {}, {"Retry-After": "3"}), chat("fine"))
        statuses, last = [], None
        for _ in range(4):
            async with session.post(f"{upstream.url}/chat/completions", json=CHAT) as response:
                statuses.append(response.status)
                last = await response.json()
        assert statuses == [500, 429, 200, 200]
        assert last is not None
        assert last["choices"][0]["message"]["content"] == "fine"
        assert upstream.connections == 1
        assert [seen.target for seen in upstream.seen] == ["/v1/chat/completions"] * 4
    assert upstream.open_connections == 0


async def test_a_streamed_chat_has_role_words_usage_and_done_a_chunk_each() -> None:
    async with ScriptedUpstream(chat("one two")) as upstream, RawClient(upstream.port) as client:
        await client.send(post("/v1/chat/completions", STREAM | {"stream_options": {"include_usage": True}}))
        assert (await client.read_head())[0] == 200
        chunks = [data async for _, data in client.read_chunks()]
    assert len(chunks) == 6
    assert b'"role":"assistant"' in chunks[0]
    assert b'"content":"one "' in chunks[1] and b'"finish_reason":"stop"' in chunks[3]
    assert b'"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2' in chunks[4]
    assert chunks[5] == b"data: [DONE]\n\n"
    assert len(upstream.wires[0].sent_at) == 6


async def test_the_times_of_sending_and_receiving_share_a_clock() -> None:
    events = ({"n": 1}, b": as it is\n\n", {"n": 2})
    async with ScriptedUpstream(stream(*events, pause=0.05)) as upstream, RawClient(upstream.port) as client:
        await client.send(post("/v1/chat/completions", STREAM))
        await client.read_head()
        received = [(at, data) async for at, data in client.read_chunks()]
        sent_at = upstream.wires[0].sent_at
    assert [data for _, data in received][1] == b": as it is\n\n"
    assert all(0 <= at - sent < 1 for (at, _), sent in zip(received, sent_at, strict=True))
    assert sent_at[3] - sent_at[0] >= 0.15


@pytest.mark.parametrize("behaviour", [silent(), head_then_silent(), chat("a b c", pause=60)])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_notices_at_once_a_peer_that_leaves(behaviour: Behaviour, leave: str) -> None:
    async with ScriptedUpstream(behaviour) as upstream, RawClient(upstream.port) as client:
        await client.send(post("/v1/chat/completions", STREAM))
        (seen,) = await upstream.wait_seen(1)
        left = asyncio.get_running_loop().time()
        getattr(client, leave)()
        (gone,) = await upstream.wait_gone(1)
        assert seen.at <= left <= gone < left + 1
        await upstream.wait_open(0)


async def test_notices_a_peer_that_leaves_while_it_is_written_to() -> None:
    async def flood(seen: Seen, wire: Wire) -> None:
        await wire.sse(done=False)
        while True:
            await wire.chunk(b"x" * 100_000)

    async with ScriptedUpstream(flood) as upstream:
        for count in range(1, 21):
            async with RawClient(upstream.port, receive_buffer=4096) as client:
                await client.send(post("/v1/x", {}))
                await client.read_head()
            assert len(await upstream.wait_gone(count)) == count
        await upstream.wait_open(0)


async def test_notices_a_peer_that_leaves_in_the_middle_of_its_body() -> None:
    async with ScriptedUpstream() as upstream, RawClient(upstream.port) as client:
        await client.send(post("/v1/chat/completions", CHAT)[:-5])
        client.close()
        await upstream.wait_gone(1)
        assert upstream.seen == []


@pytest.mark.parametrize(
    ("how", "error"),
    [("close", asyncio.IncompleteReadError), ("reset", ConnectionResetError), ("unterminated", None)],
)
async def test_cuts_a_stream_in_three_ways(
    how: Literal["close", "reset", "unterminated"], error: type[Exception] | None
) -> None:
    async with ScriptedUpstream(cut_after(2, how)) as upstream, RawClient(upstream.port) as client:
        await client.send(post("/v1/chat/completions", STREAM))
        await client.read_head()
        chunks: list[bytes] = []
        with pytest.raises(error) if error else nullcontext():
            async for _, data in client.read_chunks():
                chunks.append(data)
        assert len(chunks) == 2 and all(b"word" in chunk for chunk in chunks)
        assert upstream.gone == []


async def test_garbage_and_a_reset_before_the_head() -> None:
    async with ScriptedUpstream(garbage()) as upstream:
        async with RawClient(upstream.port) as client:
            await client.send(post("/v1/x", {}))
            assert await client.read_until_closed() == b"\x00\xffnot http\r\n\r\n"
        upstream.behaviour = reset_before_head()
        async with RawClient(upstream.port) as client:
            await client.send(post("/v1/x", {}))
            with pytest.raises(ConnectionResetError):
                await client.read_head()
        assert upstream.connections == 2


async def test_sends_100_continue_and_answers_a_head_without_a_body() -> None:
    async with ScriptedUpstream(answer(200, [])) as upstream, RawClient(upstream.port) as client:
        await client.send(b"POST /v1/x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await client.read_head() == (100, [])
        await client.send(b"{}HEAD /v1/x HTTP/1.1\r\n\r\n")
        assert (await client.read_head())[0] == 200
        assert await client.read_body() == b"[]"
        assert header((await client.read_head(bodiless=True))[1], "content-length") == "2"
        assert await client.read_body() == b""
        await client.send(b"GET /v1/x HTTP/1.1\r\nConnection: close\r\n\r\n")
        await client.read_head()
        assert await client.read_until_closed() == b"[]"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET  /v1 HTTP/1.1\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\nbad header: x\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\na: x\n folded\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
    ],
)
async def test_a_request_that_is_no_http_fails_the_test(request_bytes: bytes) -> None:
    with pytest.raises(Malformed):
        async with ScriptedUpstream() as upstream, RawClient(upstream.port) as client:
            await client.send(request_bytes)
            await client.read_until_closed()
    assert upstream.seen == []


async def test_a_behaviour_that_fails_fails_the_test() -> None:
    async def wrong(seen: Seen, wire: Wire) -> None:
        assert seen.header("Authorization") == "Bearer k"

    with pytest.raises(AssertionError, match="Bearer k"):
        async with ScriptedUpstream(wrong) as upstream, RawClient(upstream.port) as client:
            await client.send(post("/v1/x", {}))
            await client.read_until_closed()


async def test_waiting_in_vain_says_what_was_there() -> None:
    async with ScriptedUpstream() as upstream:
        with pytest.raises(TimeoutError, match="0 of 1 requests after"):
            await upstream.wait_seen(1, within=0.01)


async def test_closing_ends_what_is_under_way_and_leaves_no_task() -> None:
    async with AsyncExitStack() as clients:
        async with ScriptedUpstream(head_then_silent()) as upstream:
            port = upstream.port
            client = await clients.enter_async_context(RawClient(port))
            await client.send(post("/v1/x", {}))
            await client.read_head()
        assert upstream.open_connections == 0 and upstream.gone == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(ConnectionRefusedError):
            await clients.enter_async_context(RawClient(port))
