"""WebSockets through the real process: messages of any size, close codes, and honest ends, both ways."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.support.process import Tidegate
from tests.support.raw import RawClient, header
from tests.support.realtime import (
    KEY,
    RealtimeProvider,
    echo,
    handshake,
    realtime_table,
    serving,
)
from tests.support.upstream import ScriptedUpstream, Seen, Wire, chat


@asynccontextmanager
async def talking(
    gate: Tidegate, path: str = "/v1/realtime?model=up/gpt-realtime", **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    options = {"max_msg_size": 0, "autoping": False} | options
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(gate.base_url + path, **options) as socket,
    ):
        yield socket


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
async def test_messages_of_every_size_pass_both_ways_in_order(tmp_path: Path, deflate: bool) -> None:
    provider = RealtimeProvider(deflate=deflate)
    sizes = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, 5 << 20]
    async with serving(tmp_path, provider) as gate:
        async with talking(gate, compress=15 if deflate else 0) as socket:
            for size in sizes:
                data = os.urandom(size)
                await socket.send_bytes(data)
                got = await socket.receive(timeout=20)
                assert hashlib.sha256(got.data).digest() == hashlib.sha256(data).digest()
            await socket.send_str("grüße 漢")
            assert (await socket.receive(timeout=5)).data == "grüße 漢"
            compressed = socket.compress
        assert await provider.closed.get() == 1000
        (entry,) = await gate.wait_log(1)

    assert bool(compressed) == deflate
    assert (entry["status"], entry["outcome"], entry["error"]) == (101, "ok", None)
    assert entry["bytes_in"] > 0 and entry["bytes_out"] > 0
    assert (entry["route"], entry["model"]) == ("up", "up/gpt-realtime")
    assert entry["upstream_model"] == "gpt-realtime"


@pytest.mark.parametrize(
    ("path", "up"),
    [
        ("/v1/realtime?model=up/gpt-realtime", "/v1/realtime?model=gpt-realtime"),
        ("/v1/realtime?model=up%2Fgpt-realtime", "/v1/realtime?model=gpt-realtime"),
        ("/v1/realtime?model=talk&intent=x%20y", "/v1/realtime?model=gpt-realtime&intent=x%20y"),
        ("/v1/realtime?a=%2B&model=gpt-realtime&b", "/v1/realtime?a=%2B&model=gpt-realtime&b"),
        ("/v1/realtime?model=up/a%26b%3Dc", "/v1/realtime?model=a%26b%3Dc"),
        ("/v1/realtime?intent=transcription", "/v1/realtime?intent=transcription"),
        ("/other/v1/realtime?model=x", "/v1/other/realtime?model=x"),
        ("/v1/responses", "/v1/responses"),
    ],
)
async def test_the_model_of_the_query_chooses_the_route_and_is_rewritten(
    tmp_path: Path, path: str, up: str
) -> None:
    provider = RealtimeProvider()
    async with serving(tmp_path, provider) as gate, talking(gate, path) as socket:
        await socket.send_str("hello")
        assert (await socket.receive(timeout=5)).data == "hello"

    assert provider.requests[0].raw_path == up


async def test_a_key_in_the_subprotocols_never_goes_up_and_the_routes_own_does(tmp_path: Path) -> None:
    provider = RealtimeProvider()
    protocols = ("realtime", "openai-insecure-api-key.sk-canary-of-the-browser", "openai-beta.realtime-v1")
    async with serving(tmp_path, provider) as gate:
        path = "/v1/realtime?model=up/gpt-realtime&key=canary-of-the-query"
        async with talking(
            gate, path, protocols=protocols, headers={"Authorization": "Bearer canary-of-the-client"}
        ) as socket:
            assert socket.protocol == "realtime"
            await socket.send_str("hello")
            await socket.receive(timeout=5)
    (request,) = provider.requests

    assert request.headers["Sec-WebSocket-Protocol"] == "realtime,openai-beta.realtime-v1"
    assert request.headers.getall("Authorization") == [f"Bearer {KEY}"]
    assert "canary-of-the-" not in request.raw_path + repr(request.headers).replace(KEY, "")


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
async def test_a_close_code_of_the_provider_reaches_the_client(tmp_path: Path, code: int) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        await socket.close(code=code, message=b"enough")

    async with serving(tmp_path, RealtimeProvider(talk)) as gate:
        async with talking(gate) as socket:
            await socket.send_str("hello")
            message = await socket.receive(timeout=5)
        (entry,) = await gate.wait_log(1)

    assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, "enough")
    assert entry["outcome"] == "ok"


@pytest.mark.parametrize("code", [1000, 4001])
async def test_a_close_code_of_the_client_reaches_the_provider(tmp_path: Path, code: int) -> None:
    provider = RealtimeProvider()
    async with serving(tmp_path, provider) as gate:
        async with talking(gate) as socket:
            await socket.close(code=code)
        assert await provider.closed.get() == code
        (entry,) = await gate.wait_log(1)

    assert entry["outcome"] == "ok"


async def test_pings_and_pongs_are_the_ends_own(tmp_path: Path) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        ping = await socket.receive()
        assert (ping.type, ping.data) == (WSMsgType.PING, b"are you there")
        await socket.pong(b"I am")
        await socket.ping(b"and you")
        assert (await socket.receive()).data == b"me too"
        await socket.close()

    async with serving(tmp_path, RealtimeProvider(talk)) as gate, talking(gate) as socket:
        await socket.ping(b"are you there")
        assert (await socket.receive(timeout=5)).data == b"I am"
        assert (await socket.receive(timeout=5)).data == b"and you"
        await socket.pong(b"me too")
        assert (await socket.receive(timeout=5)).data == 1000


async def test_a_provider_that_breaks_off_is_no_proper_close(tmp_path: Path) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str("first")
        await socket.receive()
        assert socket._req is not None and socket._req.transport is not None
        socket._req.transport.abort()

    async with serving(tmp_path, RealtimeProvider(talk)) as gate:
        async with talking(gate) as socket:
            assert (await socket.receive(timeout=5)).data == "first"
            await socket.send_str("go")
            message = await socket.receive(timeout=5)
            code = socket.close_code
        (entry,) = await gate.wait_log(1)

    assert message.type in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSING)
    assert code == 1006
    assert (entry["outcome"], entry["error"]) == ("cut", "upstream_cut")


async def test_a_client_that_leaves_without_a_word_ends_the_providers_side_within_100_ms(
    tmp_path: Path,
) -> None:
    gone: asyncio.Queue[float] = asyncio.Queue()

    async def talk(socket: web.WebSocketResponse) -> None:
        await echo(socket)
        gone.put_nowait(asyncio.get_running_loop().time())

    async with serving(tmp_path, RealtimeProvider(talk)) as gate:
        async with RawClient(gate.port) as client:
            await client.send(handshake())
            assert (await client.read_head())[0] == 101
            left = asyncio.get_running_loop().time()
            client.reset()
            async with asyncio.timeout(5):
                ended = await gone.get()
        (entry,) = await gate.wait_log(1)

    assert ended - left < 0.1
    assert (entry["status"], entry["outcome"]) == (499, "client_gone")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_a_handshake_that_the_provider_refuses_is_told_as_it_is(tmp_path: Path, status: int) -> None:
    async with serving(tmp_path, RealtimeProvider(refusal=status)) as gate:
        async with RawClient(gate.port) as client:
            await client.send(handshake())
            got, headers = await client.read_head()
            body = await client.read_body()
            assert await client.read_until_closed() == b""

    assert (got, body) == (status, b'{"error": {"message": "no"}}')
    assert header(headers, "connection") == "close"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/realtime?model=nobody/x", 101, None),
        ("/v1/realtime?model=othr/x", 404, "model_not_found"),
        ("/nobody/v1/realtime?model=x", 404, "model_not_found"),
        ("/v1/realtime?model=a&model=b", 400, "invalid_request"),
        ("/v1/realtime?model=", 400, "invalid_request"),
        ("/elsewhere", 404, "not_found"),
    ],
)
async def test_a_handshake_that_leads_nowhere_is_refused_in_http(
    tmp_path: Path, path: str, status: int, code: str | None
) -> None:
    async with serving(tmp_path, RealtimeProvider()) as gate, RawClient(gate.port) as client:
        await client.send(handshake(path))
        got, headers = await client.read_head()

    assert (got, header(headers, "x-tidegate-error")) == (status, code)


async def test_a_switch_that_nobody_asked_for_is_no_answer(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
        await wire.client_gone()

    requests = (b"POST /v1/realtime HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", handshake())
    for request in requests:
        async with ScriptedUpstream(behave) as upstream:
            async with Tidegate(realtime_table(tmp_path, upstream.url), env={"UP_KEY": KEY}) as gate:
                async with RawClient(gate.port) as client:
                    await client.send(request)
                    status, headers = await client.read_head()
        assert (status, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")


async def test_a_request_with_a_body_that_speaks_of_an_upgrade_is_an_ordinary_one(tmp_path: Path) -> None:
    body = b'{"model": "up/x", "messages": []}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    async with ScriptedUpstream(chat("well")) as upstream:
        async with Tidegate(realtime_table(tmp_path, upstream.url), env={"UP_KEY": KEY}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(head.encode() + body)
                status, headers = await client.read_head()
                answer = await client.read_body()
                assert await client.read_until_closed() == b""

    assert status == 200 and b"well" in answer
    assert header(headers, "connection") == "close"
    assert upstream.seen[0].header("Upgrade") is None


async def test_idle_counts_bytes_of_either_side_and_total_ends_it(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    async def listen(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.data == "answer":
                for _ in range(5):
                    await asyncio.sleep(0.3)
                    await socket.send_str("still here")

    async with serving(tmp_path, RealtimeProvider(listen), idle="600ms") as gate:
        async with talking(gate) as socket:
            began = loop.time()
            for _ in range(5):
                await asyncio.sleep(0.3)
                await socket.send_str("still here")
            await socket.send_str("answer")
            for _ in range(5):
                assert (await socket.receive(timeout=5)).data == "still here"
            quiet = loop.time()
            message = await socket.receive(timeout=5)
            ended = loop.time()
        (idle,) = await gate.wait_log(1)
    async with serving(tmp_path, RealtimeProvider(), total="500ms") as gate:
        async with talking(gate) as socket:
            await socket.receive(timeout=5)
            code = socket.close_code
        (total,) = await gate.wait_log(1)

    assert quiet - began > 2.9 and 0.5 < ended - quiet < 1.2
    assert message.type != WSMsgType.TEXT and code == 1006
    assert (idle["outcome"], idle["error"]) == ("timeout", "timeout_idle")
    assert (total["outcome"], total["error"]) == ("timeout", "timeout_total")


async def test_sigterm_lets_a_conversation_finish(tmp_path: Path) -> None:
    async with serving(tmp_path, RealtimeProvider()) as gate:
        async with talking(gate) as socket:
            await socket.send_str("before")
            assert (await socket.receive(timeout=5)).data == "before"
            gate.process.terminate()
            await gate.wait_event("draining")
            await socket.send_str("after")
            assert (await socket.receive(timeout=5)).data == "after"
        code = await gate.wait()

    assert code == 0
