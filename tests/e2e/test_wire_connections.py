"""A client's connection over time: reused after every kind of answer, slow, silent, and told to stop."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import BODY, CHAT, Scene, read_answer, scene_with
from tests.support.upstream import ScriptedUpstream, Seen, Wire, answer, chat, silent

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = "POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"


def bare(line: str, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: x", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    server = {"max_body": "2KiB"}
    async with scene_with(tmp_path_factory.mktemp("reuse"), server=server) as made:
        yield made


LARGE = {"model": "up/x", "x": "x" * 3000}
REFUSALS = [
    (404, bare("GET /nowhere")),
    (404, bare("POST /nowhere", body=b"{}")),
    (404, bare("HEAD /nowhere")),
    (400, bare("HEAD /v1/../x", body=b"abc")),
    (400, post("/v1/../x", BODY)),
    (400, post(CHAT, b"{no json")),
    (400, post(CHAT, BODY, [("Authorization", "a"), ("Authorization", "b")])),
    (400, post(CHAT, BODY, {"X-Name": "caf\xe9"})),
    (400, post(CHAT, b"no gzip", {"Content-Encoding": "gzip"})),
    (400, post(CHAT, b"?", {"Content-Encoding": "br"})),
    (404, post(CHAT, {"model": "nowhere/x"})),
    (404, post(CHAT, BODY, {"x-tidegate-provider": "nowhere"})),
    (413, post(CHAT, LARGE)),
    (413, post(CHAT, gzip.compress(json.dumps(LARGE).encode()), {"Content-Encoding": "gzip"})),
    (404, bare("POST /nowhere/v1/files", "Content-Type: a/b", body=b"abc")),
    (200, bare("GET /healthz", body=b"abc")),
]


async def test_after_every_refusal_the_next_request_is_answered_right(scene: Scene) -> None:
    before = len(scene.upstream.seen)
    scene.upstream.behaviour = chat("mine")
    async with RawClient(scene.gate.port) as client:
        for wanted, refused in REFUSALS:
            for _ in range(2):
                await client.send(refused)
                status, _, _ = await read_answer(client, bodiless=refused.startswith(b"HEAD"))
                assert status == wanted, refused
            assert await scene.serves(client), refused
    served = [seen for seen in scene.upstream.seen[before:] if seen.path == CHAT]

    assert len(served) == len(REFUSALS)


async def test_requests_in_one_packet_are_answered_one_by_one_in_their_order(scene: Scene) -> None:
    """The first is the slowest, and behind each stands one that is refused."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.pause(0.2 if seen.json()["model"] == "0" else 0.0)
        await chat(f"answer {seen.json()['model']}")(seen, wire)

    scene.upstream.behaviour = behave
    asked = [(200, post(CHAT, {"model": f"up/{number}", "messages": []})) for number in range(len(REFUSALS))]
    mixed = [pair for both in zip(asked, REFUSALS, strict=True) for pair in both]
    got = []
    async with RawClient(scene.gate.port) as client:
        await client.send(b"".join(request for _, request in mixed))
        for _, request in mixed:
            status, _, body = await read_answer(client, bodiless=request.startswith(b"HEAD"))
            got.append((status, body))

    assert [status for status, _ in got] == [status for status, _ in mixed]
    assert all(f"answer {number}".encode() in body for number, (_, body) in enumerate(got[::2]))


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_refusal_in_the_middle_of_a_body_ends_the_connection(scene: Scene, framing: str) -> None:
    """What is left of the body would be read as the next request."""
    before = len(scene.upstream.seen)
    rest = bare("GET /up/v1/smuggled")
    size = f"Content-Length: {4000 + len(rest)}\r\n\r\n" if framing == "length" else f"{CHUNKED}{4000:x}\r\n"
    async with RawClient(scene.gate.port) as client:
        await client.send(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{size}".encode() + b"x" * 3000)
        status, headers, _ = await read_answer(client)
        await client.send(b"x" * 1000 + rest)
        after = await client.read_until_closed()

    assert (status, header(headers, "connection"), after) == (413, "close", b"")
    assert scene.upstream.seen[before:] == []


@pytest.mark.parametrize("size", [100_000, 20_000_000])
async def test_an_answer_to_half_an_upload_arrives_whole(tmp_path: Path, size: int) -> None:
    """The client of this test writes first and reads then, as most do. It must not find a reset."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
        writer.write(b'{"no": 1}')
        while await reader.read(65536):
            pass
        writer.close()

    provider = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}/v1"
    async with provider, Tidegate(write_table(tmp_path, {"up": {"upstream": url}})) as gate:
        async with RawClient(gate.port) as client:
            await client.send(f"{UPLOAD}Content-Length: {size + 1}\r\n\r\n".encode())
            for _ in range(size // 50_000):
                await client.send(b"x" * 50_000)
            status, headers, body = await read_answer(client)
            await client.send(b"x")
            after = await client.read_until_closed()

    assert (status, body, after) == (401, b'{"no": 1}', b"")
    assert header(headers, "connection") == "close"


async def test_an_upload_never_meets_a_connection_that_may_have_died(scene: Scene) -> None:
    """It cannot be sent twice, and a pooled one may be dead without anybody knowing."""
    scene.upstream.behaviour = chat()
    await scene.say(post(CHAT, BODY))
    scene.upstream.behaviour = answer(200, {})
    for _ in range(2):
        await scene.say(f"{UPLOAD}Content-Length: 3\r\n\r\nabc".encode())

    assert len({seen.connection for seen in scene.upstream.seen[-3:]}) == 3


async def trickle(client: RawClient, data: bytes, every: float) -> None:
    """Byte by byte, until all is sent or nobody takes it any more."""
    try:
        for byte in data:
            await client.send(bytes([byte]))
            await asyncio.sleep(every)
    except ConnectionError:
        pass


async def test_a_head_that_comes_byte_by_byte_has_no_longer_than_any_other(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with scene_with(tmp_path, server={"timeouts": {"header": "500ms"}}) as scene:
        async with RawClient(scene.gate.port) as client, asyncio.TaskGroup() as tasks:
            began = loop.time()
            dripping = tasks.create_task(trickle(client, PROBE[:-2] + b"X-A: " + b"a" * 2000, 0.02))
            status, headers = await client.read_head()
            took = loop.time() - began
            dripping.cancel()

    assert (status, header(headers, "x-tidegate-error")) == (408, "client_timeout")
    assert 0.4 < took < 4


async def test_a_body_that_comes_byte_by_byte_is_not_idle(tmp_path: Path) -> None:
    asked = post(CHAT, BODY)
    async with scene_with(tmp_path, server={"timeouts": {"body_idle": "1s"}}) as scene:
        async with RawClient(scene.gate.port) as client:
            await client.send(asked[:-12])
            await trickle(client, asked[-12:], 0.2)
            status, _, _ = await read_answer(client)

    assert status == 200


@pytest.mark.parametrize("said", ["5;", "5\r\nhello\r\n0\r\nX-Trailer: "])
async def test_bytes_that_are_no_body_do_not_keep_it_from_being_idle(tmp_path: Path, said: str) -> None:
    """Extensions of a chunk and trailers could go on for ever."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{CHUNKED}".encode()
    async with scene_with(tmp_path, server={"timeouts": {"body_idle": "500ms"}}) as scene:
        async with RawClient(scene.gate.port) as client, asyncio.TaskGroup() as tasks:
            await client.send(head + said.encode())
            dripping = tasks.create_task(trickle(client, b"a" * 2000, 0.02))
            status, headers = await client.read_head()
            dripping.cancel()

    assert (status, header(headers, "x-tidegate-error")) == (408, "client_timeout")
    assert scene.upstream.seen == []


async def test_a_connection_without_a_request_is_closed_after_keepalive(tmp_path: Path) -> None:
    """Neither before, nor while a request is served however long that takes."""
    loop = asyncio.get_running_loop()

    async def slow(seen: Seen, wire: Wire) -> None:
        await wire.pause(1.5)
        await chat()(seen, wire)

    async with scene_with(tmp_path, server={"timeouts": {"keepalive": "700ms"}}) as scene:
        scene.upstream.behaviour = slow
        async with RawClient(scene.gate.port) as client:
            await client.send(PROBE)
            await read_answer(client)
            await client.send(post(CHAT, BODY))
            status, _, _ = await read_answer(client)
            idle_since = loop.time()
            assert await client.read_until_closed() == b""
            took = loop.time() - idle_since

    assert status == 200
    assert 0.6 < took < 5


@pytest.mark.parametrize("served", [0, 1])
async def test_a_head_that_was_begun_is_not_idle_and_has_its_own_time(tmp_path: Path, served: int) -> None:
    """Keepalive would end the connection without a word, and the request with it."""
    timeouts = {"header": "2s", "keepalive": "700ms"}
    async with scene_with(tmp_path, server={"timeouts": timeouts}) as scene:
        async with RawClient(scene.gate.port) as late, RawClient(scene.gate.port) as half:
            for client in (late, half):
                for _ in range(served):
                    await client.send(PROBE)
                    await read_answer(client)
                await client.send(PROBE[:-2])
            await asyncio.sleep(1)
            await late.send(PROBE[-2:])
            answered, _, _ = await read_answer(late)
            status, headers, _ = await read_answer(half)
            rest = await half.read_until_closed()

    assert answered == 200
    assert (status, header(headers, "x-tidegate-error"), rest) == (408, "client_timeout", b"")


async def test_a_head_that_was_begun_while_another_request_is_served_has_its_own_time_too(
    tmp_path: Path,
) -> None:
    release = asyncio.Event()

    async def behave(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await chat("the first")(seen, wire)

    timeouts = {"header": "500ms", "keepalive": "60s"}
    async with scene_with(tmp_path, server={"timeouts": timeouts}) as scene:
        scene.upstream.behaviour = behave
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, BODY))
            await scene.upstream.wait_seen(1)
            await client.send(PROBE[:-2])
            # Twice as long as it has: what came first is answered first, and in peace.
            await asyncio.sleep(1)
            release.set()
            first, _, body = await read_answer(client)
            status, headers, _ = await read_answer(client)

    assert (first, b"the first" in body) == (200, True)
    assert (status, header(headers, "x-tidegate-error")) == (408, "client_timeout")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_sigterm_lets_an_upload_finish(tmp_path: Path, framing: str) -> None:
    """Both halves of it are read: the one that came before the signal, and the one after."""
    async with scene_with(tmp_path) as scene:
        scene.upstream.behaviour = answer(200, {"took": "it"})
        first, second, end = b"first half ", b"second half", b""
        if framing == "chunks":
            first, second, end = (b"%x\r\n%b\r\n" % (len(half), half) for half in (first, second, end))
        async with RawClient(scene.gate.port) as client, RawClient(scene.gate.port) as held:
            size = "Content-Length: 22\r\n\r\n" if framing == "length" else CHUNKED
            await client.send(f"{UPLOAD}{size}".encode() + first)
            await held.send(post(CHAT, BODY)[:-5])
            await held_and_read(scene)
            scene.gate.process.terminate()
            await scene.gate.wait_event("draining", in_flight=2)
            await client.send(second + end)
            status, _, body = await read_answer(client)
            await held.send(post(CHAT, BODY)[-5:])
            scene.upstream.behaviour = chat("held")
            other, _, text = await read_answer(held)
        code = await scene.gate.wait()

    assert (status, body) == (200, b'{"took": "it"}')
    assert scene.upstream.seen[0].body == b"first half second half"
    assert (other, b"held" in text, code) == (200, True, 0)


async def held_and_read(scene: Scene) -> None:
    """The same loop serves all: when this answer is here, what was sent before has been read."""
    async with RawClient(scene.gate.port) as client:
        await client.send(PROBE)
        await read_answer(client)


async def test_sigterm_closes_what_is_idle_and_answers_nothing_new(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        table = write_table(tmp_path, {"up": {"upstream": upstream.url}}, server={"drain_timeout": "200ms"})
        async with Tidegate(table) as gate, RawClient(gate.port) as idle, RawClient(gate.port) as busy:
            await idle.send(PROBE)
            await read_answer(idle)
            await busy.send(post(f"/up{CHAT}", BODY))
            await upstream.wait_seen(1)
            gate.process.terminate()
            status, headers, _ = await read_answer(busy)
            rest = await idle.read_until_closed()
            code = await gate.wait()

    assert (status, header(headers, "x-tidegate-error"), rest, code) == (503, "draining", b"", 1)
