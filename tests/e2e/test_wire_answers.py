"""Answers as odd as they come: what is not plainly one answer is refused, and does no harm to the next."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.support.raw import RawClient, header, post
from tests.support.scene import BODY, CHAT, Scene, read_answer, scene_with
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire, answer, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TWO = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with scene_with(tmp_path_factory.mktemp("answers"), "usage") as made:
        yield made


def raw(*parts: bytes) -> Behaviour:
    """These bytes, and a connection that stays open for the next request."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        for part in parts:
            await wire.raw(part)
        await wire.finish()

    return behave


REFUSED = {
    "length and chunks": HEAD + TWO + CHUNKED + CHUNKS,
    "one length twice": HEAD + TWO + TWO + b"\r\n{}",
    "two lengths": HEAD + TWO + b"Content-Length: 3\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "an empty length": HEAD + b"Content-Length:\r\n\r\n{}",
    "a length beyond counting": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "chunks over another coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n" + CHUNKS,
    "chunks under another coding": HEAD + b"Transfer-Encoding: chunked, gzip\r\n" + CHUNKS,
    "a length with a space behind its name": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "a coding with a space behind its name": HEAD + b"Transfer-Encoding : chunked\r\n" + CHUNKS,
    "two codings in two lines": HEAD + CHUNKED + b"Transfer-Encoding: gzip\r\n" + CHUNKS,
    "chunks without CR": HEAD + CHUNKED + CHUNKS.replace(b"\r\n", b"\n"),
    "a chunk size that overflows": HEAD + CHUNKED + b"\r\nfffffffffffffffff\r\n{}",
    "a negative chunk size": HEAD + CHUNKED + b"\r\n-2\r\n{}",
    "a chunk longer than its size": HEAD + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
    "a bare CR": HEAD + b"X-A: 1\rSet-Cookie: 2\r\n" + TWO + b"\r\n{}",
    "a NUL": HEAD + b"X-A: 1\x002\r\n" + TWO + b"\r\n{}",
    "a name with a space": HEAD + b"X A: 1\r\n" + TWO + b"\r\n{}",
    "a name with a space behind it": HEAD + b"Set-Cookie : 1\r\n" + TWO + b"\r\n{}",
    "no name": HEAD + b": 1\r\n" + TWO + b"\r\n{}",
    "no colon": HEAD + b"X-A\r\n" + TWO + b"\r\n{}",
    "a name that is not ASCII": HEAD + b"X-\xe9: 1\r\n" + TWO + b"\r\n{}",
    "a name in brackets": HEAD + b"X(A): 1\r\n" + TWO + b"\r\n{}",
    "130 headers": HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(130)) + TWO + b"\r\n{}",
    "a header of 40 KB": HEAD + b"X-A: " + b"a" * 40_000 + b"\r\n" + TWO + b"\r\n{}",
    "another version": HEAD.replace(b"HTTP/1.1", b"HTTP/2") + TWO + b"\r\n{}",
    "another protocol": HEAD.replace(b"HTTP/1.1", b"ICY") + TWO + b"\r\n{}",
    "status 600": HEAD.replace(b"200", b"600") + TWO + b"\r\n{}",
    "status 099": HEAD.replace(b"200", b"099") + TWO + b"\r\n{}",
    "status 20": HEAD.replace(b"200", b"20") + TWO + b"\r\n{}",
    "a switch of protocols": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nnot HTTP any more",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_plainly_one_answer_is_502_and_harms_no_other(scene: Scene, name: str) -> None:
    scene.upstream.behaviour = raw(REFUSED[name])
    async with RawClient(scene.gate.port) as client:
        await client.send(post(CHAT, BODY))
        status, headers, body = await read_answer(client)
        served = await scene.serves(client)
    entry = await scene.gate.log_entry(headers)

    assert (status, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")
    assert json.loads(body)["error"]["code"] == "upstream_protocol"
    assert (entry["attempts"], entry["outcome"]) == (1, "upstream_error")
    assert served


TAKEN = {
    "a reason of its own": HEAD.replace(b"OK", b"\x01\xe9 canary") + TWO + b"\r\n{}",
    "no reason": HEAD.replace(b" OK", b"") + TWO + b"\r\n{}",
    "HTTP/1.0 with chunks": HEAD.replace(b"1.1", b"1.0") + CHUNKED + CHUNKS,
    "chunked said twice": HEAD + CHUNKED + CHUNKED + CHUNKS,
    "chunks with extensions": HEAD + CHUNKED + CHUNKS.replace(b"2\r\n", b'2;a=canary;b="c"\r\n'),
    "chunks with spaces": HEAD + CHUNKED + CHUNKS.replace(b"2\r\n", b"2 \r\n"),
    "trailers": HEAD
    + CHUNKED
    + b"Trailer: X-Canary\r\n"
    + CHUNKS[:-2]
    + b"X-Canary: 1\r\nSet-Cookie: 1\r\n\r\n",
    "lines without CR": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + TWO + b"\r\n{}",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </canary>\r\n\r\n" + HEAD + TWO + b"\r\n{}",
    "processing, three times": b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + HEAD + TWO + b"\r\n{}",
    "a length that Connection names": HEAD + b"Connection: Content-Length\r\n" + TWO + b"\r\n{}",
    "keep-alive": HEAD + b"Keep-Alive: timeout=canary\r\nProxy-Connection: canary\r\n" + TWO + b"\r\n{}",
    "an empty line in front": b"\r\n" + HEAD + TWO + b"\r\n{}",
}


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_odd_but_clear_comes_down_as_one_plain_answer(scene: Scene, name: str) -> None:
    scene.upstream.behaviour = raw(TAKEN[name])
    async with RawClient(scene.gate.port) as client:
        await client.send(post(CHAT, BODY))
        status, headers, body = await read_answer(client)
        served = await scene.serves(client)
    names = [key.lower() for key, _ in headers]

    assert (status, body) == (200, b"{}")
    assert "canary" not in str(headers).lower()
    assert not {"set-cookie", "trailer", "link", "keep-alive", "connection"} & set(names)
    assert names.count("content-length") + names.count("transfer-encoding") == 1
    assert served


async def test_a_reason_of_the_providers_never_comes_down(scene: Scene) -> None:
    scene.upstream.behaviour = raw(TAKEN["a reason of its own"])
    async with RawClient(scene.gate.port) as client:
        await client.send(post(CHAT, BODY, {"Connection": "close"}))
        answered = await client.read_until_closed()

    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_odd_values_of_headers_come_down_as_they_are_in_one_line_each(scene: Scene) -> None:
    values = b"X-Folded: 1\r\n 2\r\nX-Empty:\r\nX-Tab: a\tb\r\nX-Bytes: caf\xc3\xa9 \xff\r\n"
    long = b"X-Long: " + b"a" * 30_000 + b"\r\n"
    scene.upstream.behaviour = raw(HEAD + values + long + TWO + b"\r\n{}")
    _, headers, _ = await scene.say(post(CHAT, BODY))
    told = dict(headers)

    assert told["X-Folded"].split() == ["1", "2"]
    assert (told["X-Empty"], told["X-Tab"]) == ("", "a\tb")
    assert told["X-Bytes"].encode("latin-1") == b"caf\xc3\xa9 \xff"
    assert len(told["X-Long"]) == 30_000


@pytest.mark.parametrize(
    ("status", "fields"),
    [(204, b""), (204, b"Content-Length: 0\r\n"), (304, b"Content-Length: 2\r\n"), (304, b"ETag: x\r\n")],
)
async def test_an_answer_without_a_body_is_over_with_its_head(
    scene: Scene, status: int, fields: bytes
) -> None:
    scene.upstream.behaviour = raw(f"HTTP/1.1 {status} X\r\n".encode() + fields + b"\r\n")
    async with RawClient(scene.gate.port) as client:
        await client.send(post(CHAT, BODY))
        got, headers, _ = await read_answer(client)
        served = await scene.serves(client)

    assert got == status and served
    assert header(headers, "transfer-encoding") is None
    assert status == 304 or header(headers, "content-length") is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(scene: Scene, status: int) -> None:
    """With a body it is a 502, since it would be sent again with the key; without one the client decides."""
    async with ScriptedUpstream() as elsewhere:
        location = {"Location": f"{elsewhere.url}/x"}
        scene.upstream.behaviour = answer(status, {}, location)
        refused, headers, _ = await scene.say(post(CHAT, BODY))
        passed, told, _ = await scene.say(b"GET /up/v1/files/1 HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (refused, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")
        assert (passed, header(told, "location")) == (status, location["Location"])
        assert elsewhere.seen == []


async def test_no_cookie_is_kept_for_the_next_request(scene: Scene) -> None:
    cookie = {"Set-Cookie": "session=canary; Path=/"}
    scene.upstream.behaviour = answer(200, {}, cookie)
    for _ in range(2):
        _, headers, _ = await scene.say(post(CHAT, BODY))
        assert header(headers, "set-cookie") is None

    assert scene.upstream.seen[-1].header("cookie") is None


async def compresses_what_is_asked(seen: Seen, wire: Wire) -> None:
    """Like a CDN in front of a provider: whoever offers gzip gets it."""
    if "gzip" not in (seen.header("accept-encoding") or ""):
        await chat("one two three")(seen, wire)
        return
    packed = gzip.compress(b'{"usage": {"completion_tokens": 9}}')
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    await wire.raw(head + packed)
    await wire.finish()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_offers_gzip_does_not_blind_us(scene: Scene, stream: bool) -> None:
    """The SDK does, on every call."""
    scene.upstream.behaviour = compresses_what_is_asked
    async with AsyncOpenAI(base_url=scene.gate.base_url + "/v1", api_key="unused") as client:
        said = await client.chat.completions.with_raw_response.create(
            model="up/x", messages=[{"role": "user", "content": "Hi"}], stream=stream
        )
        await said.http_response.aread()
    assert "gzip" in said.http_response.request.headers["accept-encoding"]
    entry = await scene.gate.log_entry(list(said.headers.items()))

    assert (entry["outcome"], entry["completion_tokens"]) == ("ok", 3)


async def test_what_comes_encoded_all_the_same_passes_untouched_and_is_not_read(scene: Scene) -> None:
    packed = gzip.compress(b'{"usage": {"completion_tokens": 9}}')
    scene.upstream.behaviour = raw(
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    )
    _, headers, body = await scene.say(post(CHAT, BODY))
    entry = await scene.gate.log_entry(headers)

    assert (body, header(headers, "content-encoding")) == (packed, "gzip")
    assert (entry["outcome"], entry["completion_tokens"]) == ("ok", None)


@pytest.mark.parametrize("offered", ["gzip, br", None])
async def test_where_nothing_is_observed_the_client_chooses_its_encoding(
    scene: Scene, offered: str | None
) -> None:
    scene.upstream.behaviour = answer(200, {})
    field = f"Accept-Encoding: {offered}\r\n" if offered else ""
    await scene.say(f"GET /up/v1/files/1 HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())

    assert scene.upstream.seen[-1].header("accept-encoding") == offered


async def test_nothing_is_added_to_an_event_that_was_cut(scene: Scene) -> None:
    """Told behind it, our error would be taken for the rest of its line."""
    first = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
    half = b'data: {"choices": [{"index": 0, "del'
    passed_on = asyncio.Event()

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(first + half)
        await passed_on.wait()
        wire.close()

    scene.upstream.behaviour = behave
    # Not `up`, where `usage` holds back what is no whole event.
    async with RawClient(scene.gate.port) as client:
        await client.send(post("/raw" + CHAT, {"model": "x", "stream": True}))
        _, headers = await client.read_head()
        received = b""
        with pytest.raises(EOFError):
            async for _, piece in client.read_chunks():
                received += piece
                if received.endswith(half):
                    passed_on.set()
    entry = await scene.gate.log_entry(headers)

    assert received == first + half
    assert (entry["outcome"], entry["error"]) == ("cut", "upstream_cut")
