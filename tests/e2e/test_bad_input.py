"""What goes wrong with requests and with upstreams: the exact error, and a process that goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    chat,
    cut_after,
    garbage,
    reset_before_head,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
DEEP = b'{"model": "demo/echo", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@dataclass
class Scene:
    gate: Tidegate
    upstream: ScriptedUpstream


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with ScriptedUpstream(chat()) as upstream:
        routes = {
            "demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]},
            "up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", {"timeout": {"total": "5s"}}]},
            "plain": {"upstream": upstream.url},
            "down": {"upstream": "http://127.0.0.1:1/v1", "middlewares": ["prefix_rewrite"]},
        }
        server = {"listen": ["127.0.0.1:0"], "admin": None, "max_body": "1MiB"}
        folder: Path = tmp_path_factory.mktemp("bad-input")
        async with Tidegate(write_table(folder, routes, server=server)) as gate:
            yield Scene(gate, upstream)
            assert gate.process.returncode is None
            assert "Traceback" not in "\n".join(gate.stderr)
            assert not gate.events("unforeseen")


async def exchange(gate: Tidegate, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(gate.port) as client:
        await client.send(request)
        status, headers = await client.read_head()
        return status, headers, await client.read_body()


async def still_serves(scene: Scene) -> bool:
    scene.upstream.behaviour = chat("well")
    status, _, body = await exchange(scene.gate, post(CHAT, {"model": "up/x", "messages": []}))
    return status == 200 and b"well" in body


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_json", None),
        (b"   \n", 400, "invalid_json", None),
        (b"hello", 400, "invalid_json", None),
        (b'{"model": "demo/echo"', 400, "invalid_json", None),
        (b'{"model": "demo/echo"} trailing', 400, "invalid_json", None),
        (b"[1, 2]", 400, "invalid_json", None),
        (b'"text"', 400, "invalid_json", None),
        (b"\xff\xfe{}", 400, "invalid_json", None),
        (b'{"model": "\\ud83d"}', 400, "invalid_json", "model"),
        (b'{"model": 4}', 400, "invalid_request", "model"),
        (b'{"model": null}', 400, "invalid_request", "model"),
        (b'{"model": ["demo/echo"]}', 400, "invalid_request", "model"),
        (b'{"model": ""}', 400, "invalid_request", "model"),
        (b"{}", 400, "invalid_request", "model"),
        (DEEP, 400, "invalid_json", None),
        (b'{"model": "nowhere/x"}', 404, "model_not_found", "model"),
        (b'{"model": "demoo/echo"}', 404, "model_not_found", "model"),
        (b'{"model": "demo"}', 404, "model_not_found", "model"),
        (b'{"model": "x", "provider": "nowhere"}', 404, "model_not_found", "provider"),
        (b'{"model": "demo/echo", "x": "' + b"x" * (1024 * 1024) + b'"}', 413, "body_too_large", None),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
async def test_a_bad_body_is_told_exactly(
    scene: Scene, body: bytes, status: int, code: str, param: str | None
) -> None:
    got, headers, text = await exchange(scene.gate, post(CHAT, body))

    error = json.loads(text)["error"]
    assert (got, error["code"], error["param"]) == (status, code, param)
    assert header(headers, "x-tidegate-error") == code
    assert set(error) == {"message", "type", "param", "code"}
    assert await still_serves(scene)


async def test_on_messages_an_error_has_anthropics_shape(scene: Scene) -> None:
    status, headers, text = await exchange(scene.gate, post("/v1/messages", {"model": "nowhere/x"}))
    said = json.loads(text)

    assert (status, header(headers, "x-tidegate-error")) == (404, "model_not_found")
    assert (said["type"], said["error"]["type"]) == ("error", "not_found_error")
    assert "nowhere/x" in said["error"]["message"]


@pytest.mark.parametrize(
    ("path", "opening"),
    [
        ("/v1/messages", {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}),
        ("/v1/responses", {"type": "response.created", "response": {}}),
    ],
)
async def test_on_messages_and_responses_a_cut_is_an_error_event_of_their_own(
    scene: Scene, path: str, opening: dict[str, Any]
) -> None:
    scene.upstream.behaviour = stream(opening, done=False)
    async with RawClient(scene.gate.port) as client:
        await client.send(post(path, {"model": "up/x", "stream": True}))
        await client.read_head()
        received = b""
        with pytest.raises((EOFError, ConnectionResetError)):
            async for _, piece in client.read_chunks():
                received += piece
    name, data = received.removesuffix(b"\n\n").rpartition(b"\n\n")[2].split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))

    assert name == b"event: error"
    assert told["type"] == "error"
    assert "upstream_cut" in (told.get("code"), told["error"].get("code"))


async def test_a_near_miss_names_what_may_have_been_meant(scene: Scene) -> None:
    _, _, text = await exchange(scene.gate, post(CHAT, {"model": "demoo/echo"}))

    assert "'demo/echo'" in json.loads(text)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/", 404, "not_found"),
        ("/v1", 404, "not_found"),
        ("/v1/", 404, "not_found"),
        ("/chat/completions", 404, "not_found"),
        ("/nowhere/v1/chat/completions", 404, "model_not_found"),
        ("/demo/x/v1/chat/completions", 404, "not_found"),
        ("/v1/../v1/chat/completions", 400, "invalid_request"),
        ("/v1/%2e%2e/chat/completions", 400, "invalid_request"),
        ("/v1/chat%2fcompletions", 400, "invalid_request"),
        ("/v1//chat/completions", 400, "invalid_request"),
        ("//v1/chat/completions", 400, "invalid_request"),
        ("/v1/chat\\completions", 400, "invalid_request"),
        ("/v1/chat/%5ccompletions", 400, "invalid_request"),
        ("/v1/./chat/completions", 400, "invalid_request"),
        ("/v1/files/%00", 400, "invalid_request"),
    ],
)
async def test_a_path_is_served_as_it_came_or_not_at_all(
    scene: Scene, path: str, status: int, code: str
) -> None:
    got, headers, _ = await exchange(scene.gate, post(path, {"model": "demo/echo", "messages": []}))

    assert (got, header(headers, "x-tidegate-error")) == (status, code)
    assert await still_serves(scene)


async def test_an_unknown_header_route_is_404(scene: Scene) -> None:
    request = post(CHAT, {"model": "demo/echo"}, {"x-tidegate-provider": "nowhere"})
    status, headers, _ = await exchange(scene.gate, request)

    assert (status, header(headers, "x-tidegate-error")) == (404, "model_not_found")


async def test_nesting_that_nobody_has_to_read_is_the_upstreams_business(scene: Scene) -> None:
    refused = {"error": {"message": "too deep for me", "type": "x", "param": None, "code": None}}
    scene.upstream.behaviour = answer(400, refused)
    before = len(scene.upstream.seen)
    status, headers, text = await exchange(scene.gate, post("/plain" + CHAT, DEEP))

    assert (status, json.loads(text)) == (400, refused)
    assert header(headers, "x-tidegate-error") is None
    assert scene.upstream.seen[before].body == DEEP
    assert await still_serves(scene)


async def test_nesting_under_a_route_that_renames_models_has_to_be_read(scene: Scene) -> None:
    before = len(scene.upstream.seen)
    status, headers, _ = await exchange(scene.gate, post("/up" + CHAT, DEEP))

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_json")
    assert len(scene.upstream.seen) == before


async def test_a_gzip_bomb_counts_what_it_unpacks_to(scene: Scene) -> None:
    bomb = gzip.compress(b'{"model": "demo/echo", "x": "' + b"x" * 50_000_000 + b'"}')
    request = post(CHAT, bomb, {"Content-Encoding": "gzip"})
    status, headers, _ = await exchange(scene.gate, request)

    assert (status, header(headers, "x-tidegate-error")) == (413, "body_too_large")
    assert await still_serves(scene)


async def test_a_request_that_is_not_http_gets_our_error_and_no_line_of_it_in_the_log(scene: Scene) -> None:
    canary = b"sk-canary-in-a-broken-header-0123456789"
    request = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + canary
    status, headers, text = await exchange(scene.gate, request + b"\x01\r\n\r\n")

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")
    assert json.loads(text)["error"]["code"] == "invalid_request"
    assert await still_serves(scene)
    assert canary.decode() not in "\n".join(scene.gate.stderr + scene.gate.stdout)


@pytest.mark.parametrize("asked_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("behaviour", "model", "status", "code"),
    [
        (chat(), "down/x", 502, "upstream_connect"),
        (garbage(), "up/x", 502, "upstream_protocol"),
        (reset_before_head(), "up/x", 502, "upstream_reset"),
        (cut_after(0, "close"), "up/x", 502, "upstream_cut"),
        (cut_after(0, "reset"), "up/x", 502, "upstream_cut"),
        (cut_after(0, "unterminated"), "up/x", 502, "upstream_cut"),
    ],
    ids=["down", "garbage", "reset", "closed after the head", "reset after the head", "empty stream"],
)
async def test_a_broken_upstream_is_a_502_that_names_the_break(
    scene: Scene, behaviour: Behaviour, model: str, status: int, code: str, asked_stream: bool
) -> None:
    scene.upstream.behaviour = behaviour
    request = post(CHAT, {"model": model, "messages": [], "stream": asked_stream})
    got, headers, text = await exchange(scene.gate, request)
    entry = await scene.gate.log_entry(headers)

    error = json.loads(text)["error"]
    assert (got, error["code"]) == (status, code)
    assert header(headers, "x-tidegate-error") == code
    assert header(headers, "x-tidegate-attempts") == "1"
    assert (entry["status"], entry["error"]) == (status, code)
    assert await still_serves(scene)


@pytest.mark.parametrize("how", ["close", "reset", "unterminated"])
async def test_a_stream_that_breaks_in_the_middle_never_looks_complete(scene: Scene, how: Any) -> None:
    scene.upstream.behaviour = cut_after(3, how)
    async with RawClient(scene.gate.port) as client:
        await client.send(post(CHAT, {"model": "up/x", "messages": [], "stream": True}))
        status, headers = await client.read_head()
        received = b""
        with pytest.raises((EOFError, ConnectionResetError)):
            async for _, piece in client.read_chunks():
                received += piece
    entry = await scene.gate.log_entry(headers)

    events = received.split(b"\n\n")[:-1]
    assert status == 200
    assert len(events) == 4
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_cut"
    assert b"[DONE]" not in received
    assert (entry["status"], entry["outcome"], entry["error"]) == (200, "cut", "upstream_cut")
    assert await still_serves(scene)


async def test_an_error_that_opens_a_stream_gets_its_status(scene: Scene) -> None:
    error = {"error": {"code": 429, "message": "slow down"}}
    scene.upstream.behaviour = stream(error, done=True)
    status, headers, text = await exchange(
        scene.gate, post(CHAT, {"model": "up/x", "messages": [], "stream": True})
    )

    assert (status, json.loads(text)) == (429, error)
    assert header(headers, "content-type") == "application/json"
    assert header(headers, "x-tidegate-error") is None


async def test_a_redirect_is_not_followed_and_names_where_it_points(scene: Scene) -> None:
    async def redirect(_seen: Any, wire: Any) -> None:
        await wire.json(307, {}, {"Location": "https://elsewhere.example/v1/x?key=secret"})

    scene.upstream.behaviour = redirect
    status, headers, text = await exchange(scene.gate, post(CHAT, {"model": "up/x", "messages": []}))

    assert (status, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")
    assert "elsewhere.example" in json.loads(text)["error"]["message"]
    assert b"secret" not in text
    assert await still_serves(scene)
