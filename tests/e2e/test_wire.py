"""Requests as odd as they come: what is not plainly one request is refused, and never sent on in part."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.raw import RawClient, header, post
from tests.support.scene import BODY, CHAT, Scene, read_answer, scene_with
from tests.support.upstream import answer, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = json.dumps(BODY).encode()
SIZE = len(TEXT)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, TEXT)
LENGTH = b"Content-Length: %d" % SIZE
CHUNKED = b"Transfer-Encoding: chunked"
LINE = b"POST /v1/chat/completions HTTP/1.1"


def request(*fields: bytes, body: bytes = TEXT, line: bytes = LINE, host: bytes = b"Host: x") -> bytes:
    """A request with exactly these header lines."""
    lines = [line, *filter(None, [host]), b"Content-Type: application/json", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return request(CHUNKED, body=body)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    server = {"max_body": "2KiB", "max_upload": "64KiB"}
    async with scene_with(tmp_path_factory.mktemp("wire"), server=server) as made:
        yield made


REFUSED = {
    "length and chunks": request(LENGTH, CHUNKED, body=CHUNKS),
    "chunks and length": request(CHUNKED, LENGTH, body=CHUNKS),
    "one length twice": request(LENGTH, LENGTH),
    "two lengths": request(LENGTH, b"Content-Length: %d" % (SIZE + 1)),
    "a list of lengths": request(b"Content-Length: %d, %d" % (SIZE, SIZE)),
    "a signed length": request(b"Content-Length: +%d" % SIZE),
    "a negative length": request(b"Content-Length: -1"),
    "a length in hex": request(b"Content-Length: 0x%x" % SIZE),
    "a length beyond counting": request(b"Content-Length: 99999999999999999999999"),
    "an unknown coding": request(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunks under another coding": request(b"Transfer-Encoding: chunked, gzip", body=CHUNKS),
    "chunked twice": request(CHUNKED, CHUNKED, body=CHUNKS),
    "identity": request(b"Transfer-Encoding: identity", LENGTH),
    "a coding behind a control character": request(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "a coding with a space before the colon": request(b"Transfer-Encoding : chunked", body=CHUNKS),
    "chunks without CR": chunked(CHUNKS.replace(b"\r\n", b"\n")),
    "a chunk size with a prefix": chunked(b"0x" + CHUNKS),
    "a negative chunk size": chunked(b"-" + CHUNKS),
    "a chunk size that overflows": chunked(b"fffffffffffffffff" + CHUNKS),
    "a chunk longer than its size": chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE - 1, TEXT)),
    "a folded header": request(LENGTH, b"X-A: 1\r\n 2"),
    "a folded length": request(b"Content-Length:\r\n %d" % SIZE),
    "a bare LF": request(LENGTH, b"X-A: 1\nX-B: 2"),
    "a bare CR": request(LENGTH, b"X-A: 1\rX-B: 2"),
    "a NUL": request(LENGTH, b"X-A: 1\x002"),
    "a name with a space": request(LENGTH, b"X A: 1"),
    "a name with a space behind it": request(LENGTH, b"X-A : 1"),
    "no name": request(LENGTH, b": 1"),
    "no colon": request(LENGTH, b"X-A"),
    "a name that is not ASCII": request(LENGTH, b"X-\xe9: 1"),
    "no host": request(LENGTH, host=b""),
    "two hosts": request(LENGTH, b"Host: y"),
    "a space in front": b" " + request(LENGTH),
    "a path that is not ASCII": request(LENGTH, line=b"POST /v1/\xe9 HTTP/1.1"),
    "a version nobody knows": request(LENGTH, line=LINE[:-3] + b"1.2"),
    "a method nobody knows": request(LENGTH, line=b"BREW /up/v1/pot HTTP/1.1"),
    "130 headers": request(LENGTH, *(b"X-%d: 1" % number for number in range(130))),
    "a header of 40 KB": request(LENGTH, b"X-A: " + b"a" * 40_000),
    "a line of 20 KB": request(LENGTH, line=LINE.replace(b" HTTP", b"?" + b"a" * 20_000 + b" HTTP")),
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_plainly_one_request_is_400_and_ends_the_connection(
    scene: Scene, name: str
) -> None:
    """Behind it stands what somebody wants to smuggle: two readings of one framing are how that is done."""
    before = len(scene.upstream.seen)
    async with RawClient(scene.gate.port) as client:
        await client.send(REFUSED[name] + b"GET /up/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = await read_answer(client)
        rest = await client.read_until_closed()
    entry = await scene.gate.log_entry(headers)

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert rest == b""
    assert scene.upstream.seen[before:] == []
    assert (entry["status"], entry["outcome"]) == (400, "proxy_error")


@pytest.mark.parametrize("line", [b"X-Secret: canary\x01", b"X Secret: canary", b"canary"])
async def test_nothing_of_a_broken_head_is_told_or_logged(scene: Scene, line: bytes) -> None:
    """A text that does not look like a key may be one all the same, and is not recognised in the log."""
    status, _, body = await scene.say(request(LENGTH, line))

    assert status == 400
    assert b"canary" not in body
    assert "canary" not in "\n".join(scene.gate.stdout + scene.gate.stderr)


TAKEN = {
    "chunks": chunked(CHUNKS),
    "chunks one byte each": chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in TEXT) + b"0\r\n\r\n"),
    "chunks with extensions": chunked(
        CHUNKS.replace(b"\r\n{", b';a=b;c="d"\r\n{').replace(b"\r\n0", b"\r\n0;last")
    ),
    "a coding in capitals behind a tab": request(b"Transfer-Encoding:\tCHUNKED", body=CHUNKS),
    "trailers": chunked(CHUNKS[:-2] + b"X-Trailer: canary\r\nAuthorization: canary\r\n\r\n"),
    "empty lines in front": b"\r\n\r\n" + request(LENGTH),
    "an underscore in the coding's name": request(b"Transfer_Encoding: chunked", LENGTH),
    "an upgrade to HTTP/2": request(
        LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
    "hop-by-hop headers that Connection does not name": request(
        LENGTH,
        *(b"%b: canary" % name for name in (b"Upgrade", b"HTTP2-Settings", b"Keep-Alive", b"TE", b"Trailer")),
        *(b"%b: canary" % name for name in (b"Proxy-Connection", b"Proxy-Authenticate", b"Cookie2")),
    ),
    "the absolute form": request(LENGTH, line=b"POST http://canary.test/v1/chat/completions HTTP/1.1"),
    "an expectation nobody knows": request(LENGTH, b"Expect: canary"),
    "no name in Connection": request(LENGTH, b"Connection: , ,"),
}


ENDS_ODDLY = {"chunks with extensions", "trailers"}
"""What stands behind the last chunk the parser would take for a part of the next request."""


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_odd_but_clear_goes_up_as_one_plain_request(scene: Scene, name: str) -> None:
    scene.upstream.behaviour = chat()
    before = len(scene.upstream.seen)
    async with RawClient(scene.gate.port) as client:
        await client.send(TAKEN[name])
        status, headers, _ = await read_answer(client)
        (seen,) = scene.upstream.seen[before:]
        if name in ENDS_ODDLY:
            assert header(headers, "connection") == "close"
            assert await client.read_until_closed() == b""
        else:
            assert await scene.serves(client)

    assert status == 200
    assert (seen.target, seen.json()) == (CHAT, BODY | {"model": "x"})
    assert {key.lower() for key, _ in seen.headers} == {
        "host", "content-type", "content-length", "accept-encoding"
    }  # fmt: skip
    assert "canary" not in str(seen)


@pytest.mark.parametrize(
    "fields", [[b"X-%d: 1" % number for number in range(100)], [b"X-A: " + b"a" * 30_000]]
)
async def test_many_headers_and_long_ones_go_up_whole(scene: Scene, fields: list[bytes]) -> None:
    scene.upstream.behaviour = chat()
    status, _, _ = await scene.say(request(LENGTH, *fields, b"X-Empty:", b"X-Utf8: caf\xc3\xa9"))
    seen = scene.upstream.seen[-1]
    arrived = [f"{name}: {value}".encode("latin-1") for name, value in seen.headers if name != "X-Empty"]

    assert status == 200
    assert arrived[2:-2] == [*fields, b"X-Utf8: caf\xc3\xa9"]
    assert seen.header("x-empty") == ""


async def test_an_uploads_framing_is_the_clients_own(scene: Scene) -> None:
    scene.upstream.behaviour = answer(200, {})
    head = b"POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\n"
    for framing, body in ((LENGTH, TEXT), (CHUNKED, CHUNKS)):
        await scene.say(head + framing + b"\r\n\r\n" + body)
        seen = scene.upstream.seen[-1]
        named = [pair for pair in seen.headers if pair[0] in ("Content-Length", "Transfer-Encoding")]

        assert seen.body == TEXT
        assert [": ".join(pair).encode() for pair in named] == [framing]


@pytest.mark.parametrize(
    ("path", "kind", "limit"), [(CHAT, "application/json", 2048), ("/up/v1/files", "a/b", 65536)]
)
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_over_its_limit_is_413_however_it_is_framed(
    scene: Scene, path: str, kind: str, limit: int, framing: str
) -> None:
    before = len(scene.upstream.seen)
    body = b'{"model": "up/x", "x": "' + b"x" * limit + b'"}'
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    if framing == "length":
        asked = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        asked = head.encode() + CHUNKED + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    status, headers, _ = await scene.say(asked)

    assert (status, header(headers, "x-tidegate-error")) == (413, "body_too_large")
    assert scene.upstream.seen[before:] == []


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (request(LENGTH, line=b"POST /nowhere HTTP/1.1"), 404),
        (request(b"Content-Length: 3000"), 413),
        (request(LENGTH, b"Authorization: a", b"Authorization: b"), 400),
        (request(LENGTH, line=b"POST /v1/../x HTTP/1.1"), 400),
    ],
)
async def test_who_asks_to_be_told_first_is_refused_before_the_body(
    scene: Scene, asked: bytes, refused: int
) -> None:
    head = asked[: -SIZE - 2] + b"Expect: 100-continue\r\n\r\n"
    async with RawClient(scene.gate.port) as client:
        await client.send(head)
        status, headers, _ = await read_answer(client)

    assert (status, header(headers, "connection")) == (refused, "close")


async def test_an_http_1_0_client_is_not_told_to_continue(scene: Scene) -> None:
    scene.upstream.behaviour = chat()
    status, _, _ = await scene.say(request(LENGTH, b"Expect: 100-continue", line=LINE[:-1] + b"0"))

    assert status == 200


async def test_an_http_1_0_client_that_asks_for_it_keeps_its_connection_if_lengths_are_known(
    scene: Scene,
) -> None:
    scene.upstream.behaviour = answer(200, {"n": 1})
    asked = request(LENGTH, b"Connection: keep-alive", line=LINE[:-1] + b"0")
    async with RawClient(scene.gate.port) as client:
        for _ in range(2):
            await client.send(asked)
            status, headers, body = await read_answer(client)
            assert (status, header(headers, "connection"), body) == (200, "keep-alive", b'{"n": 1}')
        await client.send(asked.replace(b"Connection: keep-alive\r\n", b""))
        _, headers, _ = await read_answer(client)
        assert await client.read_until_closed() == b""

    assert header(headers, "connection") == "close"


async def test_connection_close_is_between_the_client_and_us(scene: Scene) -> None:
    """It ends the client's connection, and not the provider's, which is needed again."""
    scene.upstream.behaviour = chat()
    for _ in range(2):
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, BODY, {"Connection": "close"}))
            _, headers, _ = await read_answer(client)
            assert header(headers, "connection") == "close"
            assert await client.read_until_closed() == b""
    first, second = scene.upstream.seen[-2:]

    assert first.connection == second.connection
    assert second.header("connection") is None


async def test_the_model_that_is_routed_by_is_the_model_that_goes_up(scene: Scene) -> None:
    """Parsers differ in which of two they take, and in what an escape is."""
    scene.upstream.behaviour = chat()
    for twice in (
        b'{"model": "raw/cheap", "mod\\u0065l": "up/dear"}',
        b'{"model": "raw/a", "model": "up/dear"}',
    ):
        _, headers, _ = await scene.say(post(CHAT, twice))
        sent = scene.upstream.seen[-1].body

        assert header(headers, "x-tidegate-route") == "up"
        assert json.loads(sent, object_pairs_hook=list) == [("model", "dear")]

        await scene.say(post("/raw" + CHAT, twice))
        sent = scene.upstream.seen[-1].body

        assert json.loads(sent, object_pairs_hook=list) == [("model", "up/dear")]


@pytest.mark.parametrize("path", [CHAT, "/up/v1/files"])
async def test_a_coding_under_the_chunks_is_refused_and_not_dropped(scene: Scene, path: str) -> None:
    """The provider would take what is packed for the body itself."""
    before = len(scene.upstream.seen)
    line = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    status, headers, body = await scene.say(line.encode() + CHUNKS)

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")
    assert json.loads(body)["error"]["param"] == "transfer-encoding"
    assert scene.upstream.seen[before:] == []


async def test_trace_is_refused(scene: Scene) -> None:
    """A provider that answers it sends back the request as it came, with the key that we put there."""
    before = len(scene.upstream.seen)
    status, headers, _ = await scene.say(b"TRACE /up/v1/files HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")
    assert scene.upstream.seen[before:] == []
