"""The admin listener's pages, and what they hold, through the real process."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.disclosure import told
from tests.support.metrics import ADMIN, figures, page, status_of
from tests.support.process import ROOT, Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.realtime import RealtimeProvider, handshake
from tests.support.upstream import DONE, ScriptedUpstream, Seen, Wire, answer, chat, silent, sse_event

CHAT = "/v1/chat/completions"
DEMO = {"upstream": "demo", "middlewares": ["prefix_rewrite", "usage"]}


def demo(folder: Path, **server: Any) -> Path:
    return write_table(folder, {"demo": DEMO}, server=ADMIN | server)


async def ask(gate: Tidegate, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request on a connection of its own."""
    async with RawClient(gate.port) as client:
        await client.send(request)
        status, headers = await client.read_head()
        return status, headers, await client.read_body()


async def test_the_admin_listener_has_four_pages_and_says_so(tmp_path: Path) -> None:
    async with Tidegate(demo(tmp_path)) as gate:
        found = {path: await page(gate, path) for path in ("/healthz", "/readyz", "/metrics", "/status?x=1")}
        missing = [
            await page(gate, *request)
            for request in (("/",), ("/v1/models",), ("/status", "POST"), ("/x", "PUT"))
        ]
        heads = [await page(gate, path, "HEAD") for path in found]
        absolute = await page(gate, "http://admin/status")

    assert {path: status for path, (status, _, _) in found.items()} == dict.fromkeys(found, 200)
    assert all(header(headers, "cache-control") == "no-store" for _, headers, _ in found.values())
    for status, headers, body in missing:
        assert (status, header(headers, "x-tidegate-error")) == (404, "not_found")
        assert all(
            name in json.loads(body)["error"]["message"]
            for name in ("/healthz", "/readyz", "/metrics", "/status")
        )
    assert [(status, body) for status, _, body in heads] == [(200, b"")] * 4
    assert absolute[0] == 200


async def test_no_other_listener_has_them(tmp_path: Path) -> None:
    async with Tidegate(demo(tmp_path)) as gate:
        answers = [
            await ask(gate, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for path in ("/metrics", "/status", "/demo/v1/../../status", "/metrics/", "/nothing")
        ]

    assert [status for status, _, _ in answers] == [404, 404, 400, 404, 404]
    assert all(b"tidegate_" not in body and b"uptime" not in body for _, _, body in answers)


async def test_the_pages_are_there_while_it_drains(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        table = write_table(tmp_path, {"up": {"upstream": upstream.url}}, server=ADMIN)
        async with Tidegate(table) as gate, RawClient(gate.port) as client:
            await client.send(post("/up" + CHAT, {"messages": [], "stream": True}))
            await upstream.wait_seen(1)
            before = await status_of(gate)
            gate.process.terminate()
            await gate.wait_event("draining")
            during = await status_of(gate)
            ready = await page(gate, "/readyz")
            streams = (await figures(gate)).value("tidegate_streams_in_flight", route="up")
            client.close()
            await gate.wait()

    assert (before["draining"], during["draining"], ready[0]) == (False, True, 503)
    assert (during["in_flight"], during["routes"]["up"]["in_flight"], streams) == (1, 1, 1)


def test_serving_imports_nothing_of_what_only_the_metrics_page_needs() -> None:
    code = "import sys, proxy.service; print('prometheus_client' in sys.modules, 'proxy.app' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["False", "True"]


def is_as_awaited(status: dict[str, Any]) -> bool:
    queued: int = status["routes"]["busy"]["slots"]["queued"]
    return queued == 1 and bool(status["connections"] == 2)


async def test_the_status_tells_of_the_process_and_of_each_route(tmp_path: Path) -> None:
    key = "canary-key-that-is-nowhere"
    async with ScriptedUpstream(silent()) as upstream:
        routes = {
            "busy": {
                "upstream": upstream.url,
                "middlewares": [
                    "prefix_rewrite",
                    {"concurrency": {"limit": 1, "queue": 2}},
                    {"key": {"env": "BUSY_KEY"}},
                    {"timeout": {"first_byte": "1m", "total": "90s"}},
                ],
            },
            "bare": {"upstream": "https://Bare.Example:8443/v1", "explicit_only": True},
            "keyless": {
                "upstream": "https://keyless.example/v1",
                "middlewares": [{"key": {"env": "NOT_THERE"}}],
            },
            "demo": DEMO,
        }
        table = write_table(tmp_path, routes, server=ADMIN)
        async with Tidegate(table, env={"BUSY_KEY": key}) as gate:
            await ask(gate, post(CHAT, {"model": "demo/echo", "messages": []}))
            await ask(gate, post(CHAT, {"model": "demo/nothing", "messages": []}))
            async with RawClient(gate.port) as first, RawClient(gate.port) as second:
                for client in (first, second):
                    await client.send(post(CHAT, {"model": "busy/x", "messages": []}))
                await upstream.wait_seen(1)
                async with asyncio.timeout(5):
                    # Until the second one waits, and those before are seen to have left.
                    while not is_as_awaited(status := await status_of(gate)):
                        await asyncio.sleep(0.01)
                raw = (await page(gate, "/status"))[2]
                pid, port = gate.process.pid, upstream.port

    connect_only = {"connect": 10.0, "first_byte": None, "first_token": None, "idle": None, "total": None}
    told_routes = status["routes"]
    assert list(told_routes) == list(routes)
    assert told_routes["busy"] == {
        "upstream": f"127.0.0.1:{port}",
        "explicit_only": False,
        "key": {"usable": True, "reason": None},
        "keys": [{"source": "env BUSY_KEY", "usable": True, "resting_for_s": 0.0}],
        "clocks": {**connect_only, "first_byte": 60.0, "total": 90.0},
        "breaker": None,
        "slots": {"limit": 1, "in_use": 1, "queued": 1, "shared": False},
        "in_flight": 2,
        "requests": {},
    }
    assert told_routes["bare"] == {
        "upstream": "bare.example:8443",
        "explicit_only": True,
        "key": None,
        "keys": [],
        "clocks": connect_only,
        "breaker": None,
        "slots": None,
        "in_flight": 0,
        "requests": {},
    }
    assert told_routes["keyless"]["key"] == {
        "usable": False,
        "reason": "The route 'keyless' has no usable key: NOT_THERE is not set.",
    }
    assert told_routes["demo"]["requests"] == {"ok": 1, "upstream_error": 1}
    assert (status["pid"], status["draining"], status["connections"]) == (pid, False, 2)
    assert status["config"]["file"] == str(table) and status["config"]["last_reload_success"] is True
    assert 0 < status["uptime_s"] < 60
    age = datetime.now(UTC) - datetime.fromisoformat(status["started"])
    assert 0 <= age.total_seconds() < 60
    assert status["config"]["loaded"] == status["started"]
    assert told(raw.decode(), [key]) == []


async def test_what_was_interpolated_is_redacted(tmp_path: Path) -> None:
    env = {
        "PLACE": "https://hidden-host.example/v1",
        "LIMIT": "417",
        "SECONDS": "613",
        "FOLDER": "hidden-folder",
        "FLAG": "true",
    }
    chain = [
        "prefix_rewrite",
        [{"concurrency": {"limit": "${LIMIT}"}}],
        {"key": {"file": "/${FOLDER}/key"}},
        {"timeout": {"first_byte": "7s", "total": "${SECONDS}s"}},
    ]
    other = ["prefix_rewrite", {"timeout": {"total": "417s"}}]
    routes = {
        "secret": {"upstream": "${PLACE}", "middlewares": chain, "list": [], "explicit_only": "${FLAG}"},
        "other": {"upstream": "https://open.example/v1", "middlewares": other, "list": []},
    }
    async with Tidegate(write_table(tmp_path, routes, server=ADMIN), env=env) as gate:
        _, _, raw = await page(gate, "/status")
        routes_told = json.loads(raw)["routes"]
        metrics = (await figures(gate)).text

    secret = routes_told["secret"]
    assert secret["upstream"] == secret["clocks"]["total"] == secret["slots"]["limit"] == "[redacted]"
    assert secret["explicit_only"] == "[redacted]"
    assert secret["clocks"]["first_byte"] == 7.0
    assert secret["key"] == {"usable": False, "reason": "there is no usable key"}
    assert secret["keys"] == [{"source": "[redacted]", "usable": False, "resting_for_s": 0.0}]
    assert routes_told["other"]["upstream"] == "open.example"
    assert routes_told["other"]["clocks"]["total"] == 417.0
    without_other = raw.replace(b"417.0", b"")
    assert not any(value.encode() in without_other for value in ("hidden", "417", "613"))
    assert "hidden" not in metrics


async def test_what_was_refused_before_a_route_was_chosen_counts_too(tmp_path: Path) -> None:
    async with Tidegate(demo(tmp_path, max_body="1KiB")) as gate:
        await ask(gate, post(CHAT, {"model": "nobody/knows", "messages": []}))
        await ask(gate, post(CHAT, {"model": "demo/echo", "messages": ["x" * 2000]}))
        await ask(gate, post(CHAT, b"{"))
        await ask(gate, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        await ask(gate, b"GET /v1/models HTTP/1.1\r\nHost : x\r\n\r\n")
        await ask(gate, b"GET /v1//models HTTP/1.1\r\nHost: x\r\n\r\n")
        await gate.wait_log(6)
        told_of = await figures(gate)

    statuses = told_of.by("tidegate_requests_total", "status", route="", client="")
    assert statuses == {"200": 1, "400": 3, "404": 1, "413": 1}
    # What never became a request took no time that could be measured.
    assert told_of.value("tidegate_request_seconds_count", route="") == 5
    assert told_of.by("tidegate_attempts_total", "result") == {}


async def test_no_word_of_a_client_or_a_provider_becomes_a_label(tmp_path: Path) -> None:
    word = "canary-word-from-outside"
    odd = answer(418, {"error": {"message": word, "code": word, "type": word}}, {"X-Word": word})
    async with ScriptedUpstream(odd) as upstream:
        table = write_table(tmp_path, {"up": {"upstream": upstream.url}, "demo": DEMO}, server=ADMIN)
        async with Tidegate(table) as gate:
            extra = {"User-Agent": word, "x-tidegate-provider": "up", "OpenAI-Organization": word}
            await ask(gate, post(CHAT, {"model": word, "messages": []}, extra))
            await ask(gate, post(CHAT, {"model": word, "provider": word, "messages": []}))
            await ask(gate, f"{word.upper()} /{word}/v1/{word} HTTP/1.1\r\nHost: {word}\r\n\r\n".encode())
            await gate.wait_log(3)
            told_of = await figures(gate)
            status = (await page(gate, "/status"))[2]

    assert word not in told_of.text.lower() and word.encode() not in status.lower()
    assert told_of.labels("route") == {"", "up", "demo"}
    assert told_of.by("tidegate_requests_total", "status", route="up") == {"418": 1}


async def test_tokens_empty_answers_and_first_tokens_are_those_of_the_log(tmp_path: Path) -> None:
    async with Tidegate(demo(tmp_path)) as gate:
        for stream in (False, True):
            for budget in (800, 1500):
                body = {"model": "demo/reasoner", "stream": stream, "max_tokens": budget}
                await ask(
                    gate, post(CHAT, body | {"messages": [{"role": "user", "content": "Answer PONG."}]})
                )
        entries = await gate.wait_log(4)
        told_of = await figures(gate)

    def logged(name: str) -> int:
        return sum(entry[name] or 0 for entry in entries)

    tokens = told_of.by("tidegate_tokens_total", "kind", route="demo", client="")
    assert tokens == {
        kind: logged(f"{kind}_tokens")
        for kind in ("prompt", "completion", "reasoning", "cached")
        if logged(f"{kind}_tokens")
    }
    assert tokens["reasoning"] > 0
    assert told_of.value("tidegate_empty_answers_total", route="demo") == logged("empty_answer") == 2
    assert told_of.value("tidegate_request_seconds_count", route="demo") == 4
    assert told_of.value("tidegate_first_token_seconds_count", route="demo") == 2
    for name, field in (("request", "duration_ms"), ("first_token", "ttft_ms")):
        seconds = told_of.value(f"tidegate_{name}_seconds_sum", route="demo")
        assert seconds == pytest.approx(logged(field) / 1000, rel=0.01)


@pytest.mark.parametrize(
    ("path", "kind", "counted"),
    [
        (CHAT, "application/json", 1),
        (CHAT, "text/event-stream", 1),
        ("/v1/embeddings", "application/json", 0),
        (CHAT, "text/plain", 0),
    ],
)
async def test_an_answer_that_came_encoded_is_counted_where_it_would_have_been_observed(
    tmp_path: Path, path: str, kind: str, counted: int
) -> None:
    async def encoded(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": kind, "Content-Encoding": "gzip", "Content-Length": "4"})
        await wire.raw(b"\x1f\x8b\x08\x00")
        await wire.finish()

    async with ScriptedUpstream(encoded) as upstream:
        table = write_table(tmp_path, {"up": {"upstream": upstream.url}}, server=ADMIN)
        async with Tidegate(table) as gate:
            _, _, body = await ask(gate, post("/up" + path, {"input": "x"}))
            upstream.behaviour = chat("well")
            await ask(gate, post("/up" + path, {"model": "x", "messages": []}))
            await gate.wait_log(2)
            told_of = await figures(gate)

    assert body == b"\x1f\x8b\x08\x00"
    assert told_of.value("tidegate_unobserved_answers_total", route="up") == counted


async def test_a_client_that_takes_nothing_is_not_told_as_a_fault_of_its_provider(tmp_path: Path) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "x" * 60_000}, "finish_reason": None}]}

    async def floods(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        while True:
            await wire.chunk(sse_event(event))

    async with ScriptedUpstream(floods) as upstream:
        route = {"upstream": upstream.url, "middlewares": [{"timeout": {"idle": "700ms"}}]}
        async with Tidegate(write_table(tmp_path, {"up": route}, server=ADMIN)) as gate:
            async with RawClient(gate.port, receive_buffer=4096) as client:
                await client.send(post("/up" + CHAT, {"messages": [], "stream": True}))
                await client.read_head()
                await gate.wait_log(1, within=15)
                told_of = await figures(gate)

    assert told_of.by("tidegate_attempts_total", "result") == {"timeout_idle_client": 1}


async def test_a_websocket_is_a_stream_in_flight_until_it_ends(tmp_path: Path) -> None:
    async with RealtimeProvider() as provider:
        table = write_table(tmp_path, {"up": {"upstream": provider.url}}, server=ADMIN)
        async with Tidegate(table) as gate:
            async with RawClient(gate.port) as client:
                await client.send(handshake("/up/v1/realtime?model=x"))
                status, _ = await client.read_head()
                during = await figures(gate)
            await gate.wait_log(1)
            after = await figures(gate)

    assert status == 101
    assert during.value("tidegate_streams_in_flight", route="up") == 1
    assert after.value("tidegate_streams_in_flight", route="up") == 0
    assert after.by("tidegate_requests_total", "route") == {"up": 1}


async def test_many_at_once_are_all_counted_once(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def when_released(seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {"content": "a"}}]}))
        await release.wait()
        await wire.chunk(DONE)
        await wire.finish()

    async with ScriptedUpstream(when_released) as upstream:
        table = write_table(tmp_path, {"up": {"upstream": upstream.url}}, server=ADMIN)
        async with Tidegate(table) as gate, asyncio.timeout(30), asyncio.TaskGroup() as group:
            request = post("/up" + CHAT, {"messages": [], "stream": True})
            asked = [group.create_task(ask(gate, request)) for _ in range(40)]
            await upstream.wait_seen(40, within=15)
            during = await figures(gate)
            scrapes = await asyncio.gather(*(figures(gate) for _ in range(5)))
            release.set()
            await asyncio.gather(*asked)
            await gate.wait_log(40)
            after = await figures(gate)

    assert during.value("tidegate_streams_in_flight") == 40
    assert during.value("tidegate_requests_total") == 0
    assert [one.value("tidegate_streams_in_flight") for one in scrapes] == [40] * 5
    assert after.value("tidegate_requests_total", outcome="ok") == 40
    assert after.by("tidegate_attempts_total", "result") == {"ok": 40}
    assert after.value("tidegate_streams_in_flight") == 0
    assert re.search(r"^tidegate_requests_total\{.*\} 40\.0$", after.text, re.MULTILINE)
