"""Clients of an answer that began with comments: SDKs, those who leave, old ones; and the clocks."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.test_keepalive import (
    ASKED,
    EVENTS,
    EVERY_S,
    PING,
    WHOLE,
    broken_off,
    in_pieces,
    keepalive,
    pinged,
    told_error,
)
from tests.sdk.clients import Sent, anthropic_client, openai_client
from tests.support.messages import Message
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.responses import Answer
from tests.support.scene import CHAT, scene_with
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire, answer, chat, silent

SAY: Any = [{"role": "user", "content": "count"}]
TEXT = "one two three"
SLOW_S = 4 * EVERY_S


def late(then: Behaviour) -> Behaviour:
    """Answers after a while."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.pause(SLOW_S)
        await then(seen, wire)

    return behave


# ---- SDKs


async def test_the_openai_sdk_reads_a_chat_behind_comments_and_between_them(tmp_path: Path) -> None:
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = late(chat(TEXT, pause=2.5 * EVERY_S))
        async with openai_client(scene.gate.base_url + "/v1", Sent(), max_retries=0) as client:
            stream = await client.chat.completions.create(model="up/x", messages=SAY, stream=True)
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        (entry,) = await scene.gate.wait_log(1)

    assert said == TEXT
    assert entry["bytes_out"] > len(PING) * 3


async def test_the_openai_sdk_reads_a_response_behind_comments(tmp_path: Path) -> None:
    events = tuple(Answer(TEXT, "x").events())
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = late(in_pieces(*events))
        async with openai_client(scene.gate.base_url + "/v1", Sent(), max_retries=0) as client:
            async with client.responses.stream(model="up/x", input="count") as stream:
                final = await stream.get_final_response()

    assert final.output_text == TEXT


async def test_the_anthropic_sdk_reads_a_message_behind_comments_and_between_them(tmp_path: Path) -> None:
    events = tuple(Message(TEXT, "x").events())
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = late(in_pieces(*events, pause=1.5 * EVERY_S))
        async with anthropic_client(scene.gate.base_url, Sent(), max_retries=0) as client:
            async with client.messages.stream(model="up/x", messages=SAY, max_tokens=9) as stream:
                final = await stream.get_final_message()

    assert final.content[0].text == TEXT


async def test_the_sdks_raise_what_is_told_after_comments(tmp_path: Path) -> None:
    async with scene_with(tmp_path, keepalive(), {"timeout": {"first_byte": "500ms"}}) as scene:
        scene.upstream.behaviour = silent()
        async with openai_client(scene.gate.base_url + "/v1", Sent(), max_retries=0) as client:
            with pytest.raises(openai.APIError, match="first_byte"):
                async for _ in await client.chat.completions.create(model="up/x", messages=SAY, stream=True):
                    pass
            with pytest.raises(openai.APIError, match="first_byte"):
                async for _ in await client.responses.create(model="up/x", input="count", stream=True):
                    pass
        async with anthropic_client(scene.gate.base_url, Sent(), max_retries=0) as client:
            with pytest.raises(anthropic.APIError, match="first_byte"):
                async for _ in await client.messages.create(
                    model="up/x", messages=SAY, max_tokens=9, stream=True
                ):
                    pass


@pytest.mark.parametrize(
    "error", ["in words", {"message": "in words", "code": "busy"}], ids=["text", "object"]
)
async def test_the_sdks_raise_a_providers_error_after_comments(tmp_path: Path, error: Any) -> None:
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = late(answer(503, {"error": error}))
        async with openai_client(scene.gate.base_url + "/v1", Sent(), max_retries=0) as client:
            with pytest.raises(openai.APIError):
                async for _ in await client.chat.completions.create(model="up/x", messages=SAY, stream=True):
                    pass
            with pytest.raises(openai.APIError):
                async for _ in await client.responses.create(model="up/x", input="count", stream=True):
                    pass
        async with anthropic_client(scene.gate.base_url, Sent(), max_retries=0) as client:
            with pytest.raises(anthropic.APIError, match="in words"):
                async for _ in await client.messages.create(
                    model="up/x", messages=SAY, max_tokens=9, stream=True
                ):
                    pass


# ---- leaving, old clients, slow clients


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_among_comments_ends_the_call(tmp_path: Path, how: str) -> None:
    async with scene_with(tmp_path, keepalive()) as scene:
        scene.upstream.behaviour = silent()
        async with pinged(scene) as (client, headers):
            getattr(client, how)()
            await scene.upstream.wait_gone(1)
            entry = await scene.gate.log_entry(headers)

    assert (entry["outcome"], entry["status"]) == ("client_gone", 499)


async def test_leaving_among_comments_ends_a_wait_for_a_retry_too(tmp_path: Path) -> None:
    again = {"retry": {"backoff": {"initial": "30s", "max": "30s"}, "retry_after_max": "60s"}}
    async with scene_with(tmp_path, keepalive(), again) as scene:
        scene.upstream.behaviour = answer(429, {}, {"Retry-After": "30"})
        async with pinged(scene) as (client, headers):
            client.close()
            entry = await scene.gate.log_entry(headers)

    assert (entry["outcome"], entry["attempts"]) == ("client_gone", 1)


OLD = post(CHAT, ASKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1)


async def test_a_client_of_http_1_0_gets_comments_and_the_answer_up_to_the_end_of_the_connection(
    tmp_path: Path,
) -> None:
    async with scene_with(tmp_path, keepalive()) as scene, RawClient(scene.gate.port) as client:
        scene.upstream.behaviour = late(in_pieces(WHOLE))
        await client.send(OLD)
        _, headers = await client.read_head()
        said = await client.read_body()

    assert header(headers, "transfer-encoding") is None
    assert header(headers, "connection") == "close"
    assert said.startswith(PING) and said.replace(PING, b"") == WHOLE


async def test_a_failure_after_comments_resets_a_client_of_http_1_0(tmp_path: Path) -> None:
    chain = [keepalive(), {"timeout": {"first_byte": "500ms"}}]
    async with scene_with(tmp_path, *chain) as scene, RawClient(scene.gate.port) as client:
        scene.upstream.behaviour = silent()
        await client.send(OLD)
        await client.read_head()
        with pytest.raises(ConnectionResetError):
            await client.read_body()


async def test_the_next_answer_on_the_connection_has_no_comment_of_the_one_before(tmp_path: Path) -> None:
    async with scene_with(tmp_path, keepalive()) as scene, RawClient(scene.gate.port) as client:
        for _ in range(2):
            scene.upstream.behaviour = late(in_pieces(WHOLE))
            await client.send(post(CHAT, ASKED))
            await client.read_head()
            assert (await client.read_body()).startswith(PING)
            # Nothing may come now; a timer that was left over would tell within this time.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5 * EVERY_S):
                    await client.read_some()
            assert await scene.serves(client)
            scene.upstream.behaviour = late(answer(200, {"fine": True}))
            await client.send(post("/v1/embeddings", {"model": "up/x"}))
            status, _ = await client.read_head()
            assert (status, json.loads(await client.read_body())) == (200, {"fine": True})


# ---- clocks


@pytest.mark.parametrize("clock", ["first_byte", "first_token", "total"])
async def test_comments_do_not_put_off_a_clock_before_the_answer(tmp_path: Path, clock: str) -> None:
    async with scene_with(tmp_path, keepalive(), {"timeout": {clock: "900ms"}}) as scene:
        scene.upstream.behaviour = silent()
        began = time.monotonic()
        async with pinged(scene) as (client, _):
            told = await broken_off(client)
        took = time.monotonic() - began

    assert told_error(told, CHAT)["code"] == f"timeout_{clock}"
    assert 0.9 <= took < 5


@pytest.mark.parametrize("clock", ["idle", "total"])
async def test_comments_do_not_put_off_a_clock_within_the_answer(tmp_path: Path, clock: str) -> None:
    async def stalling(_seen: Seen, wire: Wire) -> None:
        await wire.sse(*EVENTS[:2], done=False)
        await wire.client_gone()

    async with scene_with(tmp_path, keepalive(), {"timeout": {clock: "900ms"}}) as scene:
        scene.upstream.behaviour = stalling
        began = time.monotonic()
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, ASKED))
            await client.read_head()
            said = await client.read_until_closed()
        took = time.monotonic() - began

    assert said.count(PING) >= 2
    assert f"timeout_{clock}".encode() in said and not said.endswith(b"0\r\n\r\n")
    assert 0.9 <= took < 5


async def test_the_clock_of_the_whole_exchange_ends_the_comments_of_a_ladder(tmp_path: Path) -> None:
    async with ScriptedUpstream(silent()) as upstream:
        routes = {name: {"upstream": upstream.url, "middlewares": [keepalive()]} for name in ("a", "b")}
        top = [{"timeout": {"total": "700ms"}}]
        table = write_table(tmp_path, routes, models={"ladder": ["a/x", "b/x"]}, middlewares=top)
        async with Tidegate(table) as gate, RawClient(gate.port) as client:
            await client.send(post(CHAT, {**ASKED, "model": "ladder"}))
            await client.read_head()
            told = await broken_off(client)
            await upstream.wait_gone(1)

    assert told_error(told, CHAT)["code"] == "timeout_total"
    assert len(upstream.seen) == 1
