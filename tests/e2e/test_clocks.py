"""The five clocks, each firing on time and naming itself, and not firing when it should not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.metrics import ADMIN, figures
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    DONE,
    ScriptedUpstream,
    Seen,
    Wire,
    chat,
    head_then_silent,
    silent,
    sse_event,
)

CHAT = "/v1/chat/completions"
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def token(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def table(folder: Path, url: str, top: str | None = None, **clocks: str) -> Path:
    rest = {"middlewares": [{"timeout": {"total": top}}]} if top else {}
    return write_table(
        folder,
        {"up": {"upstream": url, "middlewares": ["prefix_rewrite", {"timeout": clocks}]}},
        server=ADMIN,
        **rest,
    )


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port at which connections are neither accepted nor refused: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(place)
        yield place[1]
        for one in waiting:
            one.close()


async def failed(gate: Tidegate, stream: bool = False) -> tuple[int, str, float, dict[str, Any]]:
    loop = asyncio.get_running_loop()
    async with RawClient(gate.port) as client:
        began = loop.time()
        await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": stream}))
        status, headers = await client.read_head()
        body = await client.read_body()
        took = loop.time() - began
    assert header(headers, "x-should-retry") == "false"
    entry = await gate.log_entry(headers)
    # Whatever the clock, the metrics have the same name for it.
    results = (await figures(gate)).by("tidegate_attempts_total", "result", route="up")
    assert results == {entry["error"]: 1}
    return status, json.loads(body)["error"]["code"], took, entry


async def test_connect_fires_when_nobody_accepts(tmp_path: Path, full_port: int) -> None:
    async with Tidegate(table(tmp_path, f"http://127.0.0.1:{full_port}/v1", connect="500ms")) as gate:
        status, code, took, entry = await failed(gate)

    assert (status, code) == (504, "timeout_connect")
    assert 0.45 < took < 0.9
    assert (entry["outcome"], entry["error"]) == ("timeout", "timeout_connect")


@pytest.mark.parametrize(
    ("clocks", "stream", "code"),
    [
        ({"first_byte": "500ms"}, False, "timeout_first_byte"),
        ({"first_byte": "500ms"}, True, "timeout_first_byte"),
        ({"first_token": "500ms"}, True, "timeout_first_token"),
        ({"first_byte": "500ms", "first_token": "900ms"}, True, "timeout_first_byte"),
        ({"first_byte": "900ms", "first_token": "500ms"}, True, "timeout_first_token"),
        ({"total": "500ms", "first_byte": "900ms"}, False, "timeout_total"),
        ({"first_token": "200ms", "total": "500ms"}, False, "timeout_total"),
    ],
)
async def test_a_silent_upstream_runs_into_the_earliest_clock(
    tmp_path: Path, clocks: dict[str, str], stream: bool, code: str
) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, **clocks)) as gate:
            status, got, took, entry = await failed(gate, stream)
            await upstream.wait_gone(1)

    assert (status, got) == (504, code)
    assert 0.45 < took < 2.0
    assert len(upstream.seen) == 1
    assert (entry["outcome"], entry["error"]) == ("timeout", code)


async def test_first_byte_does_not_run_while_the_answer_goes_on(tmp_path: Path) -> None:
    async with ScriptedUpstream(chat("a b c d e f g h", pause=0.1)) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, first_byte="500ms", first_token="500ms")) as gate:
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
                status, _ = await client.read_head()
                body = await client.read_body()

    assert status == 200
    assert body.endswith(DONE)


async def test_first_token_is_not_satisfied_by_a_role_or_a_comment(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for _ in range(30):
            await wire.chunk(b": working\n\n")
            await wire.chunk(sse_event(ROLE))
            await wire.pause(0.1)

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, first_token="600ms")) as gate:
            body, took, headers = await cut_stream(gate)
            entry = await gate.log_entry(headers)

    assert last_error(body) == "timeout_first_token"
    assert 0.5 < took < 2.0
    assert (entry["status"], entry["outcome"], entry["error"]) == (200, "timeout", "timeout_first_token")


async def test_idle_fires_between_two_bytes_and_comments_count_as_bytes(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(sse_event(token("a")))
        for _ in range(6):
            await wire.pause(0.2)
            await wire.chunk(b": still here\n\n")
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, idle="500ms")) as gate:
            body, took, headers = await cut_stream(gate)
            entry = await gate.log_entry(headers)
            await upstream.wait_gone(1)

    assert body.count(b": still here") == 6
    assert last_error(body) == "timeout_idle"
    assert 1.6 < took < 4.0
    assert entry["error"] == "timeout_idle"


async def test_idle_fires_after_a_head_that_nothing_follows(tmp_path: Path) -> None:
    async with ScriptedUpstream(head_then_silent()) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, idle="500ms")) as gate:
            status, code, took, _ = await failed(gate)

    assert (status, code) == (504, "timeout_idle")
    assert 0.45 < took < 2.0


@pytest.mark.parametrize("where", ["route", "top"])
async def test_total_ends_a_stream_that_goes_on_and_on(tmp_path: Path, where: str) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for number in range(100):
            await wire.chunk(sse_event(token(f"word {number}")))
            await wire.pause(0.05)

    clocks = {"total": "700ms"} if where == "route" else {}
    async with ScriptedUpstream(behave) as upstream:
        path = table(tmp_path, upstream.url, top="700ms" if where == "top" else None, **clocks)
        async with Tidegate(path) as gate:
            body, took, headers = await cut_stream(gate)
            entry = await gate.log_entry(headers)
            await upstream.wait_gone(1)

    assert last_error(body) == "timeout_total"
    assert 0.6 < took < 2.0
    assert (entry["outcome"], entry["error"]) == ("timeout", "timeout_total")


async def test_a_client_that_takes_nothing_is_cut_by_idle(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        while True:
            await wire.chunk(sse_event(token("x" * 60_000)))

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, idle="700ms")) as gate:
            async with RawClient(gate.port, receive_buffer=4096) as client:
                await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
                _, headers = await client.read_head()
                await upstream.wait_gone(1, within=10)
                entry = await gate.log_entry(headers)

    assert (entry["outcome"], entry["error"]) == ("timeout", "timeout_idle")


async def test_a_client_that_is_slow_but_takes_bytes_is_not_cut_by_idle(tmp_path: Path) -> None:
    """It drains what is buffered here for longer than `idle`, but never stands still that long."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for _ in range(400):
            await wire.chunk(sse_event(token("x" * 60_000)))
        await wire.chunk(sse_event(END) + DONE)
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(table(tmp_path, upstream.url, idle="500ms")) as gate:
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", gate.port))
                client.setblocking(False)
                await loop.sock_sendall(client, post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
                received = bytearray()
                began = loop.time()
                while not received.endswith(b"0\r\n\r\n"):
                    slow = loop.time() - began < 3.0
                    piece = await loop.sock_recv(client, 4096 if slow else 1 << 20)
                    assert piece, "the stream was cut"
                    received += piece
                    if slow:
                        await asyncio.sleep(0.05)
            (entry,) = await gate.wait_log(1)

    assert DONE in received
    assert entry["outcome"] == "ok"
    assert entry["duration_ms"] > 3000


async def cut_stream(gate: Tidegate) -> tuple[bytes, float, list[tuple[str, str]]]:
    """What arrived of a stream that was cut, how long that took, and its head."""
    loop = asyncio.get_running_loop()
    body = b""
    async with RawClient(gate.port) as client:
        began = loop.time()
        await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
        status, headers = await client.read_head()
        assert status == 200
        with pytest.raises((EOFError, ConnectionResetError)):
            async for _, piece in client.read_chunks():
                body += piece
        took = loop.time() - began
    return body, took, headers


def last_error(body: bytes) -> str:
    last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    code: str = json.loads(last.removeprefix(b"data: "))["error"]["code"]
    return code
