"""A canary in everything that must not cross, and a search through every byte that did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.faithful.peers import Caller, Feeder, Message, Write
from tests.support.behaviours import (
    answer,
    chat,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
    stream,
)
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Nothing about it looks like a key, so that no redaction of what does is what keeps it in.
UP_KEY = "the-canary-of-the-route-0123456789abcdef"

# Every credential's carrier, private header and hop-by-hop header; each value is a canary of its own.
CARRIERS = """
Authorization: Bearer ~
x-api-key: ~
X_Api_Key: ~
X-Api_Key: ~
api-key: ~
API_KEY: ~
x-goog-api-key: ~
X_Goog-Api_Key: ~
Proxy-Authorization: Basic ~
proxy_authorization: ~
Cookie: session=~; other=~
Cookie: ~
Cookie2: ~
X-Forwarded-For: ~
x-forwarded-host: ~
X_Forwarded_Proto: ~
X-Tidegate-Anything: ~
x_tidegate_key: ~
Keep-Alive: ~
Proxy-Connection: ~
Proxy-Authenticate: ~
TE: ~
Trailer: ~
HTTP2-Settings: ~
X-Named: ~
x-also-named: ~
Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.~, openai-beta.realtime-v1
Sec-WebSocket-Protocol: OpenAI-Insecure-API-Key.~
""".strip().splitlines()
QUERY = b"key=~&a=%2fb;KEY=~&k%65y=~&b=1&%4bey=~"
KEPT_QUERY = b"a=%2fb&b=1"

# The spelling, the value and the order of each of these is the client's own.
KEPT = """
X-Title: a  title, with "quotes"; and=more
HTTP-Referer: https://example.org/?a=b#c
User-Agent: KimiCLI/1.0 (x; y)
x-stainless-lang: python
X-Stainless-Retry-Count: 0
X-Msh-Platform: linux
X-Msh-Device-Id: 0123
anthropic-beta: first-2025-01-01,second
anthropic-beta: third
anthropic-version: 2023-06-01
OpenAI-Beta: realtime=v1
OpenAI-Organization: org-1
Idempotency-Key: 9b1c
Accept: text/event-stream, */*;q=0.1
Accept-Language: de
Forwarded: for=192.0.2.1
Cache-Control: no-cache
X-Empty:
X_Under_Score: 1
X-Repeated: 2
X-Other: between
X-Repeated: 1
X-Utf8: caf\xc3\xa9
traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
""".strip().splitlines()

JSON = b"application/json"
FORM = b"multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/x\r\n--b--\r\n'
ASK = b'{"model": "up/x", "provider": "up", "messages": []}'
ENDPOINTS = [
    (b"POST", b"/v1/chat/completions", JSON, ASK),
    (b"POST", b"/v1/completions", JSON, ASK),
    (b"POST", b"/v1/messages", JSON, ASK),
    (b"POST", b"/v1/responses", JSON, ASK),
    (b"POST", b"/v1/embeddings", JSON, ASK),
    (b"POST", b"/v1/audio/transcriptions", FORM, PART),
    (b"POST", b"/up/v1/files", FORM, PART),
    (b"POST", b"/up/v1/uploads/1/parts", b"application/octet-stream", b"\x00\xff" * 50),
    (b"POST", b"/up/v1/not/yet/invented", JSON, ASK),
    (b"PUT", b"/up/v1/not/yet/invented", b"text/plain", b"x"),
    (b"GET", b"/up/v1/files/file-1/content", b"", b""),
    (b"GET", b"/up/v1/models", b"", b""),
    (b"DELETE", b"/up/v1/files/file-1", b"", b""),
]


class Canaries:
    """A value for each place, none like another."""

    def __init__(self, about: str) -> None:
        self._about = about
        self.count = 0

    def put(self, text: str) -> bytes:
        while "~" in text:
            text = text.replace("~", f"canary-{self._about}-{self.count:03}-in-place", 1)
            self.count += 1
        return text.encode("latin-1")


@dataclass
class Scene:
    gate: Tidegate
    upstream: Feeder
    seen: list[Message]

    async def ask(self, *requests: bytes) -> list[Message]:
        """The answers to these, one after the other on one connection."""
        caller = Caller(self.gate.port)
        answers = [await caller.ask(request) for request in requests]
        caller.close()
        return answers


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    seen: list[Message] = []

    def take(request: Message) -> list[Write]:
        seen.append(request)
        return [OK]

    async with Feeder(take, recording=True) as upstream:
        chain = ["prefix_rewrite", {"key": {"env": "UP_KEY"}}, {"token_floor": {"min": 10}}, "usage"]
        table = write_table(
            tmp_path_factory.mktemp("canaries"),
            {"up": {"upstream": upstream.url, "middlewares": chain}},
        )
        async with Tidegate(table, env={"UP_KEY": UP_KEY}) as gate:
            yield Scene(gate, upstream, seen)
    assert not upstream.failures


def request(
    canaries: Canaries, method: bytes, path: bytes, kind: bytes, body: bytes, *, chunked: bool
) -> bytes:
    query = canaries.put(QUERY.decode())
    authority = canaries.put("http://user:~@tidegate.test") if path.startswith(b"/up") else b""
    lines = [b"%b %b%b?%b HTTP/1.1" % (method, authority, path, query)]
    lines += [canaries.put("Host: ~.test"), b"Connection: keep-alive, X-Named", b"connection: X-ALSO-NAMED"]
    # The ones that stay between the ones that go.
    for number in range(max(len(CARRIERS), len(KEPT))):
        lines += [canaries.put(line) for line in CARRIERS[number : number + 1]]
        lines += [line.encode("latin-1") for line in KEPT[number : number + 1]]
    if kind:
        lines.append(b"Content-Type: " + kind)
    if chunked and body:
        lines.append(b"Transfer-Encoding: chunked")
        size = b"%x;%b\r\n" % (len(body), canaries.put("extension=~"))
        body = size + body + b"\r\n0\r\n" + canaries.put("X-Api-Key: ~\r\nAuthorization: ~\r\n\r\n")
    elif body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize(
    ("method", "path", "kind", "body"),
    ENDPOINTS,
    ids=[f"{method.decode()} {path.decode()}" for method, path, *_ in ENDPOINTS],
)
async def test_no_canary_reaches_the_upstream_and_everything_else_does(
    scene: Scene, method: bytes, path: bytes, kind: bytes, body: bytes, chunked: bool
) -> None:
    scene.upstream.received.clear()
    canaries = Canaries(method.decode())
    (said,) = await scene.ask(request(canaries, method, path, kind, body, chunked=chunked))
    received = bytes(scene.upstream.received)
    got = scene.seen[-1]

    assert said.status == 200, said.body
    assert canaries.count > len(CARRIERS)
    # The key of the route is the one thing with that word in it.
    carried = [name for name, value in got.headers if value.removeprefix("Bearer ") == UP_KEY]
    assert carried == (["x-api-key"] if path == b"/v1/messages" else ["Authorization"])
    assert received.count(b"canary") == 1, received
    assert got.target.partition("?")[2].encode() == KEPT_QUERY

    for line in KEPT:
        name = line.partition(":")[0]
        sent = [value.strip() for key, _, value in (one.partition(":") for one in KEPT) if key == name]
        assert [value for key, value in got.headers if key == name] == sent
    names = [line.partition(":")[0] for line in KEPT]
    assert [name for name, _ in got.headers if name in names] == names
    assert got.header("sec-websocket-protocol") == "realtime, openai-beta.realtime-v1"


async def test_a_client_sees_no_key_of_a_route_in_what_is_answered_here(scene: Scene) -> None:
    heads = [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /nowhere/v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
        post("/v1/chat/completions", b"{"),
        post("/v1/chat/completions", {"model": "nowhere/x"}),
        b"NOT HTTP\r\n\r\n",
    ]
    for head in heads:
        async with RawClient(scene.gate.port) as client:
            await client.send(head + b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n")
            said = await client.read_until_closed()
        assert said.startswith(b"HTTP/1.")
        assert UP_KEY.encode()[-16:] not in said


TRAILED = b"""POST /v1/chat/completions HTTP/1.1\r
Host: x\r
Content-Type: application/json\r
Transfer-Encoding: chunked\r
\r
%x\r
%b\r
0\r
X-Trailer: %b\r
\r
"""


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
async def test_a_trailer_is_no_header_of_the_next_request(scene: Scene, pieces: int) -> None:
    """The parser would take it for one, so that nothing more is read of such a connection."""
    trailed = TRAILED % (len(ASK), ASK, b"left behind")
    size = -(-len(trailed) // pieces)
    before = len(scene.seen)
    async with RawClient(scene.gate.port) as client:
        for start in range(0, len(trailed), size):
            await client.send(trailed[start : start + size])
            await asyncio.sleep(0)
        status, headers = await client.read_head()
        await client.read_body()
        rest = await client.read_until_closed()

    assert (status, header(headers, "connection"), rest) == (200, "close", b"")
    assert scene.seen[before].header("x-trailer") is None


async def test_what_is_pipelined_behind_a_trailer_is_not_served(scene: Scene) -> None:
    trailed = TRAILED % (len(ASK), ASK, b"left behind")
    before = len(scene.seen)
    async with RawClient(scene.gate.port) as client:
        await client.send(trailed + post("/v1/chat/completions", ASK))
        status, _ = await client.read_head()
        await client.read_body()
        rest = await client.read_until_closed()

    assert (status, rest) == (200, b"")
    assert len(scene.seen) == before + 1


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
async def test_a_chunked_request_without_trailers_keeps_its_connection(scene: Scene, pieces: int) -> None:
    plain = (TRAILED % (len(ASK), ASK, b"")).replace(b"X-Trailer: \r\n", b"")
    size = -(-len(plain) // pieces)
    async with RawClient(scene.gate.port) as client:
        for _ in range(3):
            for start in range(0, len(plain), size):
                await client.send(plain[start : start + size])
                await asyncio.sleep(0)
            status, headers = await client.read_head()
            await client.read_body()
            assert (status, header(headers, "connection")) == (200, None)


@pytest.mark.parametrize("name", ["user-agent", "accept-language", "ACCEPT", "if-none-match"])
async def test_a_headers_name_keeps_its_spelling_whatever_the_name(scene: Scene, name: str) -> None:
    await scene.ask(post("/v1/chat/completions", ASK, {name: "x"}))

    assert (name, "x") in scene.seen[-1].headers


TOKEN = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}


def told(raw: bytes) -> Behaviour:
    """Bytes in place of an answer, and the end of the connection."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(raw)
        wire.close()

    return behave


KEY_BYTES = UP_KEY.encode()
BREAKS: dict[str, Behaviour] = {
    "answer": answer(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}),
    "redirect": answer(307, {}, {"Location": f"https://user:{UP_KEY}@elsewhere.example/?key={UP_KEY}"}),
    "stream": stream(TOKEN, done=False),
    "silent": silent(),
    "head then silent": head_then_silent(),
    **{
        f"cut {how} after {n}": cut_after(n, how)
        for n in (0, 2)
        for how in ("close", "reset", "unterminated")
    },
    "garbage": garbage(),
    "reset": reset_before_head(),
    "chat": chat(),
    "key for a status": told(b"HTTP/1.1 %b OK\r\n\r\n" % KEY_BYTES),
    "key in a bad header": told(b"HTTP/1.1 200 OK\r\nX-Own\x00: %b\r\n\r\n" % KEY_BYTES),
    "key in a long header": told(b"HTTP/1.1 200 OK\r\nX-Own: %b\r\n\r\n" % (KEY_BYTES * 2000)),
    "key for a length": told(b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % KEY_BYTES),
    "key for a coding": told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n" % KEY_BYTES),
    "key for a chunk": told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n" % KEY_BYTES),
    "key as no http": told(KEY_BYTES + b"\r\n\r\n"),
}


Broken = tuple[ScriptedUpstream, Tidegate]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broken]:
    async with ScriptedUpstream() as upstream:
        clocks = {"timeout": {"first_byte": "300ms", "idle": "300ms"}}
        chain = ["prefix_rewrite", {"key": {"file": "up.key"}}, clocks]
        routes = {"up": {"upstream": upstream.url, "middlewares": chain}}
        folder = tmp_path_factory.mktemp("broken")
        key = folder / "up.key"
        key.write_text(UP_KEY)
        key.chmod(0o600)
        async with Tidegate(write_table(folder, routes)) as gate:
            yield upstream, gate


@pytest.mark.parametrize("asks_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("how", BREAKS)
async def test_however_an_upstream_breaks_the_key_of_its_route_stays_here(
    broken: Broken, how: str, path: str, asks_stream: bool
) -> None:
    upstream, gate = broken
    upstream.behaviour = BREAKS[how]
    asked = {"model": "up/x", "messages": [], "stream": asks_stream}
    async with RawClient(gate.port) as client:
        await client.send(post(path, asked, {"Connection": "close"}))
        async with asyncio.timeout(10):
            said = await read_to_its_end(client)

    assert said.startswith(b"HTTP/1.1 ")
    assert UP_KEY in str(upstream.seen[-1].headers)
    assert KEY_BYTES not in said and KEY_BYTES[-16:] not in said
    # What the process says on stdout and stderr is looked through when it ends.
    assert upstream.seen[-1].header("x-api-key" if path == "/v1/messages" else "authorization")


async def read_to_its_end(client: RawClient) -> bytes:
    """Every byte of the answer, also of one that is reset."""
    said = b""
    try:
        while piece := await client.read_some():
            said += piece
    except ConnectionResetError:
        pass
    return said
