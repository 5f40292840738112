"""What crosses and what does not, on real sockets: credentials, hop-by-hop headers, odd answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import ScriptedUpstream, Seen, Wire, answer, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = {"model": "up/x", "messages": []}


@dataclass
class Scene:
    gate: Tidegate
    upstream: ScriptedUpstream

    async def say(self, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        async with RawClient(self.gate.port) as client:
            await client.send(request)
            status, headers = await client.read_head(bodiless=request.startswith(b"HEAD"))
            return status, headers, await client.read_body()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with ScriptedUpstream(chat()) as upstream:
        chain: list[Any] = ["prefix_rewrite", {"key": {"env": "UP_KEY"}}]
        agents = {"own": "own", "fixed": "agent/9"}
        routes: dict[str, Any] = {"up": {"upstream": upstream.url, "middlewares": chain}}
        for name, agent in agents.items():
            routes[name] = {"upstream": upstream.url, "middlewares": [{"headers": {"user_agent": agent}}]}
        routes["pass"] = {"upstream": upstream.url, "middlewares": [{"key": {"pass": True}}]}
        table = write_table(tmp_path_factory.mktemp("headers"), routes)
        async with Tidegate(table, env={"UP_KEY": "sk-upstream-canary-0123456789"}) as gate:
            yield Scene(gate, upstream)


async def test_no_credential_cookie_or_private_header_of_the_client_reaches_the_upstream(
    scene: Scene,
) -> None:
    carriers = [
        "Authorization: Bearer", "x-api-key:", "X_API_KEY:", "api-key:", "api_key:", "x-goog-api-key:",
        "x_goog_api_key:", "Proxy-Authorization:", "proxy_authorization:", "Cookie: a=", "x-forwarded-for:",
        "x-forwarded-key:", "x-tidegate-thing:", "Keep-Alive:", "TE:", "X-Named:",
        "Sec-WebSocket-Protocol: openai-insecure-api-key.",
    ]  # fmt: skip
    kept = {
        "X-Title": "t",
        "HTTP-Referer": "r",
        "x-stainless-lang": "python",
        "X-Msh-Platform": "m",
        "A": "1",
    }
    body = json.dumps(BODY).encode()
    lines = [
        f"POST {CHAT}?key=canary0&a=%2fb HTTP/1.1",
        "Host: canary.test",
        "Connection: keep-alive, X-Named",
    ]
    lines += [f"{carrier} canary{number}" for number, carrier in enumerate(carriers)]
    lines += [f"{name}: {value}" for name, value in kept.items()]
    lines += ["Accept-Encoding: gzip", f"Content-Length: {len(body)}", "", ""]
    scene.upstream.behaviour = chat()
    status, _, _ = await scene.say("\r\n".join(lines).encode() + body)
    seen = scene.upstream.seen[-1]

    assert status == 200
    assert "canary" not in str([seen.target, [h for h in seen.headers if h[0].lower() != "authorization"]])
    assert seen.target == "/v1/chat/completions?a=%2fb"
    assert seen.header("authorization") == "Bearer sk-upstream-canary-0123456789"
    assert seen.header("accept-encoding") == "identity"
    assert {name: seen.header(name) for name in kept} == kept
    invented = {"Host", "Content-Length", "Accept-Encoding", "Authorization", "Sec-WebSocket-Protocol"}
    assert {name for name, _ in seen.headers} <= invented | set(kept)


@pytest.mark.parametrize(
    ("route", "sent", "arrived"),
    [
        ("up", "KimiCLI/1", "KimiCLI/1"),
        ("up", None, None),
        ("own", "KimiCLI/1", "tidegate/0.1.0"),
        ("fixed", "KimiCLI/1", "agent/9"),
        ("fixed", None, "agent/9"),
    ],
)
async def test_the_user_agent_is_the_clients_own_unless_the_table_says_otherwise(
    scene: Scene, route: str, sent: str | None, arrived: str | None
) -> None:
    scene.upstream.behaviour = chat()
    await scene.say(post(f"/{route}{CHAT}", BODY, {"User-Agent": sent} if sent else {}))

    assert scene.upstream.seen[-1].header("user-agent") == arrived


async def test_a_clients_own_key_goes_up_only_where_the_table_passes_it(scene: Scene) -> None:
    scene.upstream.behaviour = chat()
    await scene.say(post(f"/pass{CHAT}", BODY, {"Authorization": "Bearer mine"}))

    assert scene.upstream.seen[-1].header("authorization") == "Bearer mine"


async def test_on_messages_the_key_travels_as_x_api_key(scene: Scene) -> None:
    scene.upstream.behaviour = chat()
    await scene.say(post("/up/v1/messages", BODY))

    seen = scene.upstream.seen[-1]
    assert (seen.header("x-api-key"), seen.header("authorization")) == ("sk-upstream-canary-0123456789", None)


async def test_two_authorizations_are_400(scene: Scene) -> None:
    status, headers, _ = await scene.say(post(CHAT, BODY, [("Authorization", "a"), ("Authorization", "b")]))

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")


async def test_of_the_upstreams_headers_the_forbidden_stay_and_the_others_come_down(scene: Scene) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(
            b"HTTP/1.1 200 Odd Reason\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            b"Set-Cookie: a=canary\r\nAlt-Svc: canary\r\nStrict-Transport-Security: canary\r\n"
            b"x-tidegate-route: canary\r\nConnection: X-Hop\r\nX-Hop: canary\r\nX-Control: a\x01canary\r\n"
            b"x-request-id: req-1\r\nX-RateLimit-Remaining: 7\r\n"
            b"X-Latin: caf\xe9\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n{}"
        )
        await wire.finish()

    scene.upstream.behaviour = behave
    status, headers, body = await scene.say(post(CHAT, BODY))

    assert (status, body) == (200, b"{}")
    assert "canary" not in str(headers)
    assert header(headers, "x-tidegate-route") == "up"
    assert (header(headers, "x-request-id"), header(headers, "x-ratelimit-remaining")) == ("req-1", "7")
    assert [value for name, value in headers if name.lower() == "x-two"] == ["1", "2"]
    assert header(headers, "x-latin") == "caf\xe9"


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_what_has_no_body_gets_none(scene: Scene, status: int) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(f"HTTP/1.1 {status} X\r\nX-Own: 1\r\n".encode())
        await wire.raw(b"Content-Length: 5\r\n\r\n" if status != 204 else b"\r\n")
        wire.close()

    scene.upstream.behaviour = behave
    async with RawClient(scene.gate.port) as client:
        for _ in range(2):
            await client.send(b"HEAD /up/v1/files/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            got, headers = await client.read_head(bodiless=True)
            assert (got, header(headers, "x-own")) == (status, "1")
            assert header(headers, "transfer-encoding") is None


async def test_an_http_1_0_client_gets_its_answer_and_the_end_of_the_connection(scene: Scene) -> None:
    scene.upstream.behaviour = chat("one two")
    body = json.dumps(BODY | {"stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n"
    async with RawClient(scene.gate.port) as client:
        await client.send(head.encode() + body)
        status, headers = await client.read_head()
        text = await client.read_until_closed()

    assert status == 200
    assert header(headers, "transfer-encoding") is None
    assert text.endswith(b"data: [DONE]\n\n")


async def test_a_cut_answer_to_an_http_1_0_client_is_reset(scene: Scene) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/octet-stream"})
        await wire.chunk(b"first half")
        wire.reset()

    scene.upstream.behaviour = behave
    body = json.dumps(BODY).encode()
    kind = "Content-Type: application/json"
    head = f"POST /up/v1/new/thing HTTP/1.0\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    async with RawClient(scene.gate.port) as client:
        await client.send(head.encode() + body)
        with pytest.raises(ConnectionResetError):
            await client.read_head()
            await client.read_until_closed()


async def test_a_short_answer_with_a_length_is_not_taken_for_a_whole_one(scene: Scene) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 100\r\n\r\n" + b"x" * 40
        )
        wire.close()

    scene.upstream.behaviour = behave
    async with RawClient(scene.gate.port) as client:
        await client.send(post("/v1/audio/speech", BODY))
        status, headers = await client.read_head()
        with pytest.raises(EOFError):
            await client.read_body()
        entry = await scene.gate.log_entry(headers)

    assert status == 200
    assert (entry["outcome"], entry["error"], entry["bytes_out"]) == ("cut", "upstream_cut", 40)


async def test_expect_100_continue_is_answered_before_the_body(scene: Scene) -> None:
    scene.upstream.behaviour = chat()
    request = post(CHAT, BODY, {"Expect": "100-continue"})
    head, _, body = request.partition(b"\r\n\r\n")
    async with RawClient(scene.gate.port) as client:
        await client.send(head + b"\r\n\r\n")
        first, _ = await client.read_head()
        await client.send(body)
        second, _ = await client.read_head()

    assert (first, second) == (100, 200)
    assert scene.upstream.seen[-1].header("expect") is None


async def test_a_compressed_body_goes_up_as_it_came_or_decoded_and_never_in_between(scene: Scene) -> None:
    scene.upstream.behaviour = answer(200, {})
    packed = gzip.compress(json.dumps(BODY).encode())
    await scene.say(post(f"/own{CHAT}", packed, {"Content-Encoding": "gzip"}))
    untouched = scene.upstream.seen[-1]
    await scene.say(post(CHAT, packed, {"Content-Encoding": "gzip"}))
    changed = scene.upstream.seen[-1]

    assert (untouched.body, untouched.header("content-encoding")) == (packed, "gzip")
    assert (changed.json()["model"], changed.header("content-encoding")) == ("x", None)


async def test_an_upload_streams_through_byte_for_byte(scene: Scene) -> None:
    scene.upstream.behaviour = answer(200, {})
    data = bytes(range(256)) * 4096
    request = post("/up/v1/files", data, {"Content-Type": "multipart/form-data; boundary=x"})
    status, _, _ = await scene.say(request)

    assert status == 200
    assert scene.upstream.seen[-1].body == data
