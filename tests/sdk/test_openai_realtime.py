"""The OpenAI SDK's realtime client through a real process: another WebSocket implementation at each end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.support.process import Tidegate, write_table
from tests.support.realtime import RealtimeProvider

PROVIDER_KEY = "sk-realtime-simulated"
CLIENT_KEY = "the-clients-own-key"


async def converse(socket: web.WebSocketResponse) -> None:
    """A session in which each item that is asked for is said back; `enough` ends it with a code."""
    await socket.send_json({"type": "session.created", "event_id": "e0", "session": {"type": "realtime"}})
    async for message in socket:
        assert message.type == WSMsgType.TEXT
        event = json.loads(message.data)
        if event["type"] != "conversation.item.create":
            continue
        text = event["item"]["content"][0]["text"]
        if text == "enough":
            await socket.close(code=4002, message=b"enough")
            return
        place = {"response_id": "r", "item_id": "i", "output_index": 0, "content_index": 0}
        for word in text.split():
            told = {"type": "response.output_text.delta", "event_id": "e", "delta": word, **place}
            await socket.send_json(told)
        await socket.send_json({"type": "response.output_text.done", "event_id": "e", "text": text, **place})


@asynccontextmanager
async def realtime(folder: Path, provider: RealtimeProvider) -> AsyncIterator[tuple[Tidegate, AsyncOpenAI]]:
    chain = ["prefix_rewrite", {"key": {"env": "OPENAI_KEY"}}]
    async with provider:
        table = write_table(folder, {"up": {"upstream": provider.url, "middlewares": chain}})
        async with Tidegate(table, env={"OPENAI_KEY": PROVIDER_KEY}) as gate:
            async with AsyncOpenAI(base_url=gate.base_url + "/v1", api_key=CLIENT_KEY) as client:
                yield gate, client


def item(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_a_session_is_held_both_ways_with_the_providers_key(tmp_path: Path) -> None:
    provider = RealtimeProvider(converse)
    said = []
    async with realtime(tmp_path, provider) as (gate, client):
        async with client.realtime.connect(model="up/gpt-realtime") as session:
            assert (await session.recv()).type == "session.created"
            for text in ("one two three", "x" * 200_000):
                await session.conversation.item.create(item=item(text))
                async for event in session:
                    if event.type == "response.output_text.done":
                        said.append(event.text)
                        break
        (entry,) = await gate.wait_log(1)
    (request,) = provider.requests

    assert said == ["one two three", "x" * 200_000]
    assert request.raw_path == "/v1/realtime?model=gpt-realtime"
    assert request.headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    assert request.headers["User-Agent"].startswith("AsyncOpenAI/Python")
    assert CLIENT_KEY not in repr(request.headers)
    assert (entry["status"], entry["outcome"]) == (101, "ok")


async def test_the_providers_close_code_reaches_the_sdk(tmp_path: Path) -> None:
    async with realtime(tmp_path, RealtimeProvider(converse)) as (_, client):
        async with client.realtime.connect(model="up/gpt-realtime") as session:
            await session.recv()
            await session.conversation.item.create(item=item("enough"))
            with pytest.raises(ConnectionClosedError) as caught:
                await session.recv()

    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4002, "enough")


async def test_a_refused_handshake_is_an_error_of_the_sdk(tmp_path: Path) -> None:
    async with realtime(tmp_path, RealtimeProvider(converse)) as (_, client):
        with pytest.raises(InvalidStatus) as caught:
            async with client.realtime.connect(model="nobody/gpt-realtime"):
                raise AssertionError("the handshake was accepted")

    assert caught.value.response.status_code == 404
    assert caught.value.response.headers["x-tidegate-error"] == "model_not_found"
