"""Edges that were found by trying: each of these hung, lied or leaked once."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import DONE, ScriptedUpstream, Seen, Wire, answer, chat, silent, sse_event

CHAT = "/v1/chat/completions"
BODY = {"model": "up/x", "messages": []}


@asynccontextmanager
async def gate_to(
    folder: Path, upstream: ScriptedUpstream, routes: dict[str, Any] | None = None, **rest: Any
) -> AsyncIterator[Tidegate]:
    up = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}
    async with Tidegate(write_table(folder, up | (routes or {}), **rest)) as gate:
        yield gate


def token(text: str) -> bytes:
    return sse_event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


END = sse_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + DONE


async def test_broken_chunk_framing_in_mid_stream_is_a_cut_and_not_a_hang(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(token("a"))
        await committed.wait()
        await wire.raw(b"zz\r\nnot a chunk\r\n")
        await wire.client_gone()

    committed = asyncio.Event()
    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY | {"stream": True}))
            _, headers = await client.read_head()
            committed.set()
            with pytest.raises(EOFError):
                async with asyncio.timeout(5):
                    await client.read_body()
        entry = await gate.log_entry(headers)

    assert (entry["outcome"], entry["error"]) == ("cut", "upstream_cut")


async def test_a_ladder_does_not_relay_an_error_that_stalled_while_it_was_read(tmp_path: Path) -> None:
    async def stalls(_seen: Seen, wire: Wire) -> None:
        await wire.raw(b"HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        await wire.client_gone()

    async with ScriptedUpstream(stalls) as upstream:
        clocks = [{"timeout": {"idle": "300ms", "total": "2s"}}]
        routes = {
            "a": {"upstream": upstream.url, "middlewares": clocks},
            "b": {"upstream": "http://127.0.0.1:1/v1", "middlewares": clocks},
        }
        async with gate_to(tmp_path, upstream, routes, models={"both": ["a/x", "b/x"]}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "both"}))
                async with asyncio.timeout(5):
                    status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (504, "timeout_idle")
    assert (header(headers, "x-tidegate-route"), header(headers, "x-tidegate-attempts")) == ("a", "2")


async def test_a_rung_that_was_left_holds_no_connection(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(503, {"error": {}})) as first, ScriptedUpstream(silent()) as second:
        routes = {"first": {"upstream": first.url}, "second": {"upstream": second.url}}

        async def redirect(_seen: Seen, wire: Wire) -> None:
            await wire.raw(b"HTTP/1.1 307 X\r\nLocation: http://a.example/\r\nContent-Length: 9\r\n\r\n")
            await wire.client_gone()

        first.behaviour = redirect
        async with gate_to(tmp_path, first, routes, models={"both": ["first/x", "second/x"]}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "both"}))
                await second.wait_seen(1)
                await first.wait_open(0)


async def test_a_switch_of_protocols_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: odd\r\nConnection: Upgrade\r\n\r\n")
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")


async def test_half_a_head_on_a_pooled_connection_is_not_sent_again(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:

        async def half(_seen: Seen, wire: Wire) -> None:
            await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Le")
            wire.close()

        upstream.script(chat(), half, chat())
        statuses = []
        async with RawClient(gate.port) as client:
            for _ in range(2):
                await client.send(post(CHAT, BODY))
                status, _ = await client.read_head()
                statuses.append(status)
                await client.read_body()

    assert statuses == [200, 502]
    assert len(upstream.seen) == 2


async def test_an_identity_encoding_does_not_blind_us(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream", "Content-Encoding": "identity"})
        await wire.chunk(token("a"))
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY | {"stream": True}))
            _, headers = await client.read_head()
            with pytest.raises(EOFError):
                await client.read_body()
        entry = await gate.log_entry(headers)

    assert entry["error"] == "upstream_cut"


async def test_a_compressed_answer_passes_untouched(tmp_path: Path) -> None:
    packed = gzip.compress(token("a"))

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})
        await wire.chunk(packed)
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY | {"stream": True}))
            _, headers = await client.read_head()
            body = await client.read_body()

    assert body == packed
    assert header(headers, "content-encoding") == "gzip"


async def test_members_of_a_gzip_body_are_read_together(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(200, {})) as upstream, gate_to(tmp_path, upstream) as gate:
        text = json.dumps(BODY).encode()
        packed = gzip.compress(text[:10]) + gzip.compress(text[10:])
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, packed, {"Content-Encoding": "gzip"}))
            good, _ = await client.read_head()
            await client.read_body()
            await client.send(post(CHAT, packed + b"tail", {"Content-Encoding": "gzip"}))
            bad, _ = await client.read_head()

    assert (good, bad) == (200, 400)
    assert upstream.seen[0].json() == BODY | {"model": "x"}


async def test_the_end_of_draining_is_told_in_the_stream_and_in_the_log(tmp_path: Path) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(token("a"))
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream:
        async with gate_to(tmp_path, upstream, server={"drain_timeout": "300ms"}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, BODY | {"stream": True}))
                await client.read_head()
                chunks = client.read_chunks()
                await anext(chunks)
                gate.process.terminate()
                rest = b""
                with pytest.raises(EOFError):
                    async for _, piece in chunks:
                        rest += piece
            code = await gate.wait()
            (entry,) = gate.log

    assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "draining"
    assert (entry["outcome"], entry["error"]) == ("proxy_error", "draining")
    assert code == 1


async def test_the_admin_listener_answers_until_the_end(tmp_path: Path) -> None:
    admin, front = tmp_path / "admin.sock", tmp_path / "front.sock"
    server = {"listen": ["127.0.0.1:0", f"unix:{front}?mode=0660"], "admin": f"unix:{admin}"}
    async with ScriptedUpstream(silent()) as upstream, gate_to(tmp_path, upstream, server=server) as gate:
        await gate.wait_event("ready")
        modes = (oct(front.stat().st_mode & 0o777), oct(admin.stat().st_mode & 0o777))
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            await upstream.wait_seen(1)
            gate.process.terminate()
            await gate.wait_event("draining")
            reader, writer = await asyncio.open_unix_connection(str(admin))
            writer.write(
                b"GET /readyz?full HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            said = b""
            while b"not_found" not in said:
                said += await reader.read(4096)
            writer.close()
            await writer.wait_closed()
            gate.process.terminate()
            await gate.wait()

    assert modes == ("0o660", "0o600")
    assert said.startswith(b"HTTP/1.1 503") and b"draining" in said
    assert not front.exists() and not admin.exists()


async def test_half_a_request_head_is_408_and_a_silent_connection_is_closed(tmp_path: Path) -> None:
    server = {"timeouts": {"header": "300ms"}}
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream, server=server) as gate:
        async with RawClient(gate.port) as half, RawClient(gate.port) as quiet:
            await half.send(b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nX-Slow")
            status, headers = await half.read_head()
            assert await quiet.read_until_closed() == b""
            entry = await gate.log_entry(headers)
        async with RawClient(gate.port) as kept:
            for _ in range(2):
                await kept.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await kept.read_head())[0] == 200
                await kept.read_body()
                await asyncio.sleep(0.5)

    assert (status, header(headers, "x-tidegate-error")) == (408, "client_timeout")
    assert (entry["status"], entry["error"]) == (408, "client_timeout")


async def test_a_body_that_stops_arriving_is_408(tmp_path: Path) -> None:
    server = {"timeouts": {"body_idle": "300ms"}}
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream, server=server) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY)[:-3])
            status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (408, "client_timeout")
    assert upstream.seen == []


async def test_the_top_levels_total_runs_while_the_body_arrives(tmp_path: Path) -> None:
    top = [{"timeout": {"total": "400ms"}}]
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream, middlewares=top) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY)[:-3])
            async with asyncio.timeout(3):
                status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (504, "timeout_total")


async def test_a_client_that_asks_on_without_reading_is_made_to_wait(tmp_path: Path) -> None:
    """Its answers are held in memory here, so there is a limit to how many are made."""
    asked = 40_000
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port, receive_buffer=4096) as client:
            await client.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
            served = -1
            while len(gate.stdout) > served:
                served = len(gate.stdout)
                await asyncio.sleep(1)
            assert 0 < served < asked

            for _ in range(asked):
                assert (await client.read_head())[0] == 404
                await client.read_body()
        await gate.wait_log(asked)


async def test_the_address_behind_a_trusted_proxy_is_the_last_that_is_not_trusted(tmp_path: Path) -> None:
    server = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream, server=server) as gate:
        for forwarded in ("6.6.6.6, 203.0.113.9, 10.1.2.3", "not an address", None):
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, BODY, {"X-Forwarded-For": forwarded} if forwarded else {}))
                await client.read_head()
        entries = await gate.wait_log(3)

    assert [entry["remote"] for entry in entries] == ["203.0.113.9", "127.0.0.1", "127.0.0.1"]


async def test_head_of_models_has_no_body_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(200, {"data": []})) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            for _ in range(2):
                await client.send(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                status, headers = await client.read_head(bodiless=True)
                assert status == 200
                assert int(header(headers, "content-length") or 0) > 0


async def test_a_large_last_event_of_responses_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    big = {"type": "response.completed", "response": {"output": [{"type": "x", "b": "x" * 18_000_000}]}}

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        await wire.chunk(b'event: response.created\ndata: {"type": "response.created"}\n\n')
        await wire.chunk(b"event: response.completed\n" + sse_event(big))
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post("/v1/responses", {"model": "up/x", "stream": True}))
            _, headers = await client.read_head()
            body = await client.read_body()
        entry = await gate.log_entry(headers)

    assert len(body) > 18_000_000
    assert (entry["outcome"], entry["error"]) == ("ok", None)


async def test_an_answer_that_nobody_asked_for_is_not_the_next_clients(tmp_path: Path) -> None:
    async def twice(_seen: Seen, wire: Wire) -> None:
        await wire.json(200, {"first": True})
        await asked_again.wait()
        await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" + b'{"stale": "yes"}')
        await wire.client_gone()

    asked_again = asyncio.Event()
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        upstream.script(twice, chat("mine"))
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            await client.read_head()
            await client.read_body()
            asked_again.set()
            await upstream.wait_open(0)
            await client.send(post(CHAT, BODY))
            await client.read_head()
            body = await client.read_body()

    assert b"mine" in body and b"stale" not in body


async def test_a_stream_with_a_length_that_is_cut_is_not_complete_by_its_length(tmp_path: Path) -> None:
    data = token("a")

    async def behave(_seen: Seen, wire: Wire) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        await wire.raw(head.encode() + data)

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY | {"stream": True}))
            _, headers = await client.read_head()
            with pytest.raises(EOFError):
                await client.read_body()

    assert header(headers, "content-length") is None


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_reset_is_not_the_end_of_an_answer_that_ends_with_its_connection(
    tmp_path: Path, version: str
) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a":')
        await received.wait()
        wire.reset()

    received = asyncio.Event()
    body = json.dumps(BODY).encode()
    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            head = f"POST {CHAT} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body)
            _, headers = await client.read_head()
            received.set()
            with pytest.raises((EOFError, ConnectionResetError)):
                await client.read_body()
        entry = await gate.log_entry(headers)

    assert (entry["outcome"], entry["error"]) == ("cut", "upstream_cut")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 canary-of-the-upstream OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-A\x00: canary-of-the-upstream\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
async def test_what_a_provider_writes_in_place_of_http_is_not_logged(tmp_path: Path, head: bytes) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(head)
        await wire.client_gone()

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            status, _ = await client.read_head()
        await gate.wait_event("fault")

    assert status == 502
    assert "canary" not in "\n".join(gate.stdout + gate.stderr)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 999 X\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_we_know_is_refused(tmp_path: Path, head: bytes) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.raw(head)

    async with ScriptedUpstream(behave) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (502, "upstream_protocol")


async def test_a_header_that_is_not_utf_8_is_refused_and_told(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY, {"X-Name": "caf\xe9"}))
            status, headers = await client.read_head()
            text = await client.read_body()

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")
    assert json.loads(text)["error"]["param"] == "X-Name"


@pytest.mark.parametrize("path", [CHAT, "/up/v1/files"])
async def test_broken_chunks_in_a_later_packet_are_told_at_once(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            kind = "Content-Type: " + ("application/json" if path == CHAT else "audio/wav")
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head.encode() + b"5\r\nhello\r\n")
            await asyncio.sleep(0.2)
            await client.send(b"ZZ\r\n0\r\n\r\n")
            async with asyncio.timeout(2):
                status, headers = await client.read_head()

    assert (status, header(headers, "x-tidegate-error")) == (400, "invalid_request")


async def test_a_refusal_before_the_body_closes_the_connection(tmp_path: Path) -> None:
    """The next request would be read as the body that the client need not send any more."""
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(
                b"POST /zzz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\n"
            )
            status, headers = await client.read_head()

    assert (status, header(headers, "connection")) == (404, "close")


async def test_a_compressed_body_of_one_huge_key_costs_no_more_than_its_size(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"' + b"k" * 12_000_000 + b'": 1, "model": "up/x"}', 9)
    async with ScriptedUpstream(answer(200, {})) as upstream, gate_to(tmp_path, upstream) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, packed, {"Content-Encoding": "gzip"}))
            status, _ = await client.read_head()
        peak = next(
            int(line.split()[1]) // 1024
            for line in Path(f"/proc/{gate.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )

    assert status == 200
    assert peak < 250, f"{peak} MiB"


async def test_an_audio_upload_is_routed_by_its_model_and_keeps_its_file(tmp_path: Path) -> None:
    sound = bytes(range(256)) * 100
    async with (
        ScriptedUpstream(answer(200, {"text": "hello"})) as upstream,
        gate_to(tmp_path, upstream) as gate,
    ):
        async with AsyncOpenAI(base_url=gate.base_url + "/v1", api_key="unused") as client:
            said = await client.audio.transcriptions.create(model="up/whisper-1", file=("a.wav", sound))
        (entry,) = await gate.wait_log(1)

    (seen,) = upstream.seen
    assert said.text == "hello"
    assert sound in seen.body
    assert b"\r\n\r\nwhisper-1\r\n" in seen.body and b"up/whisper-1" not in seen.body
    assert (entry["model"], entry["upstream_model"], entry["route"]) == ("up/whisper-1", "whisper-1", "up")


async def test_a_form_with_two_models_is_refused_where_it_is_read_and_passes_where_it_is_not(
    tmp_path: Path,
) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/x\r\n'
    async with ScriptedUpstream(answer(200, {})) as upstream:
        async with gate_to(tmp_path, upstream, {"raw": {"upstream": upstream.url}}) as gate:
            async with RawClient(gate.port) as client:
                statuses = []
                for path in ("/v1/audio/transcriptions", "/raw/v1/audio/transcriptions"):
                    await client.send(post(path, part + part + b"--b--\r\n", kind))
                    statuses.append((await client.read_head())[0])
                    await client.read_body()

    assert statuses == [400, 200]
    assert upstream.seen[0].body == part + part + b"--b--\r\n"


async def test_an_answer_behind_the_end_of_another_is_not_the_next_clients(tmp_path: Path) -> None:
    """In the very bytes that end the answer, and with it the connection's use."""

    async def twice(_seen: Seen, wire: Wire) -> None:
        await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n")
        await wire.raw(b'{"on')
        await committed.wait()
        await wire.raw(b'e":1' + b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"stale"')
        await wire.client_gone()

    committed = asyncio.Event()
    async with ScriptedUpstream() as upstream, gate_to(tmp_path, upstream) as gate:
        upstream.script(twice, chat("mine"))
        async with RawClient(gate.port) as client:
            await client.send(post(CHAT, BODY))
            await client.read_head()
            committed.set()
            assert await client.read_body() == b'{"one":1'
            await client.send(post(CHAT, BODY))
            await client.read_head()
            body = await client.read_body()

    assert b"mine" in body and b"stale" not in body


@pytest.mark.parametrize(("bad", "code"), [(b"garbage\r\n", "invalid_request"), (b"", "client_timeout")])
async def test_an_upload_that_breaks_after_the_answer_began_ends_it(
    tmp_path: Path, bad: bytes, code: str
) -> None:
    async def early(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await writer.drain()
        await _reader.read()
        writer.close()

    provider = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}/v1"
    server = {"listen": ["127.0.0.1:0"], "admin": None, "timeouts": {"body_idle": "400ms"}}
    table = write_table(tmp_path, {"up": {"upstream": url}}, server=server)
    async with provider, Tidegate(table) as gate, RawClient(gate.port) as client:
        await client.send(b"POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n")
        await client.send(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        _, headers = await client.read_head()
        await client.send(bad)
        with pytest.raises(EOFError):
            async with asyncio.timeout(4):
                await client.read_body()
        entry = await gate.log_entry(headers)

    assert entry["error"] == code
