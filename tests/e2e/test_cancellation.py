"""A client that leaves ends the provider's call, wherever the exchange stands, over TCP and over TLS."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificate, self_signed
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    ScriptedUpstream,
    Seen,
    Wire,
    chat,
    head_then_silent,
    silent,
    sse_event,
)

CHAT = "/v1/chat/completions"
WITHIN_S = 0.1
TRANSPORTS = ["tcp", "tls"]
LEAVING = ["close", "reset"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return self_signed(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def served(
    folder: Path, upstream: str, transport: str, certificate: Certificate, **server: Any
) -> AsyncIterator[Tidegate]:
    route = {"upstream": upstream, "middlewares": ["prefix_rewrite"]}
    if transport == "tls":
        server |= {
            "listen": ["https://127.0.0.1:0"],
            "tls": {"cert": str(certificate.cert), "key": str(certificate.key)},
        }
    async with Tidegate(write_table(folder, {"up": route}, server=server)) as gate:
        yield gate


def connect(gate: Tidegate, transport: str, certificate: Certificate) -> RawClient:
    return RawClient(gate.port, tls=certificate.client_context() if transport == "tls" else None)


def leave(client: RawClient, how: str) -> float:
    """Leave; the time at which that was."""
    left = asyncio.get_running_loop().time()
    if how == "close":
        client.close()
    else:
        client.reset()
    return left


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_before_the_head(
    tmp_path: Path, certificate: Certificate, transport: str, how: str, stream: bool
) -> None:
    async with (
        ScriptedUpstream(silent()) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": stream}))
            await upstream.wait_seen(1)
            left = leave(client, how)
            (gone,) = await upstream.wait_gone(1)
        (entry,) = await gate.wait_log(1)

    assert gone - left < WITHIN_S
    assert (entry["status"], entry["outcome"], entry["error"]) == (499, "client_gone", "client_gone")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_between_head_and_body(
    tmp_path: Path, certificate: Certificate, transport: str, stream: bool
) -> None:
    async def head_only(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/json", "Content-Length": "100"})
        await wire.client_gone()

    behaviour = head_then_silent() if stream else head_only
    async with (
        ScriptedUpstream(behaviour) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": stream}))
            await upstream.wait_seen(1)
            left = leave(client, "close")
            (gone,) = await upstream.wait_gone(1)
        (entry,) = await gate.wait_log(1)

    assert gone - left < WITHIN_S
    assert entry["outcome"] == "client_gone"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_in_the_middle_of_the_answer(
    tmp_path: Path, certificate: Certificate, transport: str, how: str, stream: bool
) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        kind = "text/event-stream" if stream else "application/octet-stream"
        await wire.head(200, {"Content-Type": kind})
        await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {"content": "first"}}]}))
        await wire.client_gone()

    async with (
        ScriptedUpstream(behave) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": stream}))
            await client.read_head()
            await anext(client.read_chunks())
            left = leave(client, how)
            (gone,) = await upstream.wait_gone(1)
        (entry,) = await gate.wait_log(1)

    assert gone - left < WITHIN_S
    assert entry["outcome"] == "client_gone" and entry["bytes_out"] > 0


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_during_an_upload(
    tmp_path: Path, certificate: Certificate, transport: str, framing: str, how: str
) -> None:
    """Half of an upload is with the provider already: it must see that the rest will never come."""
    arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone: asyncio.Future[tuple[float, bytes]] = asyncio.get_running_loop().create_future()

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = b""
        try:
            while piece := await reader.read(65536):
                received += piece
                if b"half of it" in received and not arrived.done():
                    arrived.set_result(None)
        except ConnectionError:
            pass
        gone.set_result((asyncio.get_running_loop().time(), received))
        writer.close()

    listener = await asyncio.start_server(provider, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    head = "POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    if framing == "length":
        upload = f"{head}Content-Length: 100000\r\n\r\nhalf of it".encode()
    else:
        upload = f"{head}Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n".encode()
    async with listener, served(tmp_path, url, transport, certificate) as gate:
        async with connect(gate, transport, certificate) as client:
            await client.send(upload)
            async with asyncio.timeout(5):
                await arrived
                left = leave(client, how)
                ended, received = await gone
        (entry,) = await gate.wait_log(1)

    assert ended - left < WITHIN_S
    assert not received.endswith(b"0\r\n\r\n"), "half an upload was made to look whole"
    assert (entry["outcome"], entry["error"]) == ("client_gone", "client_gone")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_with_a_question_half_asked_calls_nobody(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    async with (
        ScriptedUpstream(chat()) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": []})[:-5])
            async with connect(gate, transport, certificate) as other:
                # The same loop serves both: when this answer is here, the half question has been seen.
                await other.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await other.read_head()
            leave(client, "close")
            (entry,) = await gate.wait_log(1)

    assert upstream.seen == []
    assert entry["outcome"] == "client_gone"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_with_more_requests_in_the_pipe(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    """Those that wait behind the first are never sent to the provider at all."""
    async with (
        ScriptedUpstream(silent()) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as client:
            await client.send(post(CHAT, {"model": "up/x", "messages": []}) * 5)
            await upstream.wait_seen(1)
            left = leave(client, "close")
            (gone,) = await upstream.wait_gone(1)
            await upstream.wait_open(0)

    assert gone - left < WITHIN_S
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_stays_is_served_on_while_others_leave(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    release = asyncio.Event()

    async def behave(seen: Seen, wire: Wire) -> None:
        if seen.json()["model"] == "stays":
            await release.wait()
            await chat("still here")(seen, wire)
        else:
            await wire.client_gone()

    async with (
        ScriptedUpstream(behave) as upstream,
        served(tmp_path, upstream.url, transport, certificate) as gate,
    ):
        async with connect(gate, transport, certificate) as stays:
            await stays.send(post(CHAT, {"model": "up/stays", "messages": []}))
            await upstream.wait_seen(1)
            for number in range(20):
                async with connect(gate, transport, certificate) as client:
                    await client.send(post(CHAT, {"model": "up/leaves", "messages": []}))
                    await upstream.wait_seen(number + 2)
                    leave(client, "reset")
            await upstream.wait_gone(20)
            release.set()
            status, headers = await stays.read_head()
            body = await stays.read_body()

    assert status == 200 and b"still here" in body
    assert header(headers, "x-tidegate-attempts") == "1"
