"""A client that leaves ends the provider's call, wherever the exchange stands, over TCP and over TLS."""

from __future__ import annotations

import asyncio
import select
import shutil
import socket
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
    folder: Path, upstream: str, transport: str, certificate: Certificate, *chain: Any
) -> AsyncIterator[Tidegate]:
    route = {"upstream": upstream, "middlewares": ["prefix_rewrite", *chain]}
    files = {"cert": str(certificate.cert), "key": str(certificate.key)}
    server: dict[str, Any] = {"listen": ["https://127.0.0.1:0"], "tls": files} if transport == "tls" else {}
    async with Tidegate(write_table(folder, {"up": route}, server=server)) as gate:
        yield gate


def connect(gate: Tidegate, transport: str, certificate: Certificate) -> RawClient:
    return RawClient(gate.port, tls=certificate.client_context() if transport == "tls" else None)


def leave(client: RawClient, how: str) -> float:
    """Leave; the time at which that was."""
    left = asyncio.get_running_loop().time()
    if how == "close":
        client.close()
    elif how == "vanish":
        client.vanish()
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
async def test_leaving_while_the_provider_takes_nothing_of_an_upload(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    """Nothing is read of the client then, so that only the kernel knows that it left."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    sockets: list[socket.socket] = []

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        sockets.append(writer.get_extra_info("socket"))
        await over.wait()
        writer.close()

    listener = await asyncio.start_server(provider, "127.0.0.1", 0, limit=4096)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    head = "POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 1000000000\r\n\r\n"
    async with listener, served(tmp_path, url, transport, certificate) as gate:
        async with connect(gate, transport, certificate) as client:
            await client.send(head.encode())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    while True:
                        await client.send(b"x" * 65_536)
            left = leave(client, "reset")
            (entry,) = await gate.wait_log(1)
            took = loop.time() - left
            # The provider's system knows too, though the half upload has never been read.
            poll = select.poll()
            poll.register(sockets[0].fileno(), 0)
            ended = await loop.run_in_executor(None, poll.poll, 5000)
            over.set()

    assert took < 2 * WITHIN_S
    assert ended
    assert entry["outcome"] == "client_gone"


@pytest.mark.parametrize("body", ["held", "upload"])
@pytest.mark.parametrize("how", ["vanish", "reset"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_while_queued(
    tmp_path: Path, certificate: Certificate, transport: str, how: str, body: str
) -> None:
    """Whoever leaves the queue makes room there at once, and the provider never hears of it."""
    loop = asyncio.get_running_loop()
    release = asyncio.Event()

    async def behave(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await chat("served")(seen, wire)

    slots = {"concurrency": {"limit": 1, "queue": 1}}
    question = post(CHAT, {"model": "up/x", "messages": []})
    # As much as is read ahead and more, so that reading stops until somebody takes it.
    length = 150_000
    upload = f"POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: {length}\r\n\r\n"
    queued = upload.encode() + b"x" * length if body == "upload" else question
    async with (
        ScriptedUpstream(behave) as upstream,
        served(tmp_path, upstream.url, transport, certificate, slots) as gate,
    ):
        async with (
            connect(gate, transport, certificate) as first,
            connect(gate, transport, certificate) as leaves,
            connect(gate, transport, certificate) as refused,
            connect(gate, transport, certificate) as stays,
        ):
            await first.send(question)
            await upstream.wait_seen(1)
            await leaves.send(queued)
            # The place in the queue is taken when the next one is turned away.
            await refused.send(question)
            status, headers = await refused.read_head()
            left = leave(leaves, how)
            gone = next(e for e in await gate.wait_log(2) if e["outcome"] == "client_gone")
            took = loop.time() - left
            await stays.send(question)
            release.set()
            answers = [(await client.read_head())[0] for client in (first, stays)]

    assert (status, header(headers, "x-tidegate-error")) == (429, "queue_full")
    assert took < 2 * WITHIN_S
    assert gone["attempts"] == 0
    assert answers == [200, 200]
    assert [seen.path for seen in upstream.seen] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_leaving_frees_the_slot_for_the_next(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    async with (
        ScriptedUpstream() as upstream,
        served(
            tmp_path, upstream.url, transport, certificate, {"concurrency": {"limit": 1, "queue": 1}}
        ) as gate,
    ):
        upstream.script(silent(), chat("served"))
        async with (
            connect(gate, transport, certificate) as first,
            connect(gate, transport, certificate) as second,
        ):
            await first.send(post(CHAT, {"model": "up/x", "messages": []}))
            await upstream.wait_seen(1)
            await second.send(post(CHAT, {"model": "up/x", "messages": []}))
            leave(first, "close")
            status, _ = await second.read_head()

    assert status == 200


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
