"""The SDKs' blocking clients, each in a thread: they read, close and reuse connections in their own way."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.sdk.clients import CLIENT_KEY, OVER_LOOPBACK
from tests.sdk.conftest import MAX_BODY
from tests.sdk.test_leaving import CHAT, ENDLESS_CHAT, ENDLESS_MESSAGE, MESSAGE
from tests.support.openai_api import OPENAI_KEY, OPENAI_MODEL, OpenAI
from tests.support.process import Tidegate
from tests.support.upstream import ScriptedUpstream, answer, silent

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.fixture
def blocking(gate: Tidegate, upstream: ScriptedUpstream) -> Iterator[Any]:
    http = openai.DefaultHttpxClient(**OVER_LOOPBACK)
    base = gate.base_url + "/v1"
    with openai.OpenAI(base_url=base, api_key=CLIENT_KEY, http_client=http, max_retries=0) as client:
        yield client


@pytest.fixture
def blocking_anthropic(gate: Tidegate, claude: ScriptedUpstream) -> Iterator[Any]:
    http = anthropic.DefaultHttpxClient(**OVER_LOOPBACK)
    with anthropic.Anthropic(
        base_url=gate.base_url, api_key=CLIENT_KEY, http_client=http, max_retries=0
    ) as client:
        yield client


async def test_a_blocking_client_gets_chats_whole_and_streamed(
    blocking: Any, upstream: ScriptedUpstream
) -> None:
    def talk() -> tuple[str, str]:
        whole = blocking.chat.completions.create(**CHAT)
        pieces = blocking.chat.completions.create(**CHAT, stream=True)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        return whole.choices[0].message.content, streamed

    assert await asyncio.to_thread(talk) == ("You said: one", "You said: one")
    first = upstream.seen[0]
    assert first.header("authorization") == f"Bearer {OPENAI_KEY}"
    assert (first.header("user-agent") or "").startswith("OpenAI/Python ")
    assert first.header("x-stainless-async") == "false"
    assert first.json()["model"] == OPENAI_MODEL


async def test_a_blocking_client_that_breaks_out_of_a_chat_ends_the_call(
    blocking: Any, upstream: ScriptedUpstream
) -> None:
    def leave() -> None:
        with blocking.chat.completions.create(**CHAT, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break

    upstream.behaviour = ENDLESS_CHAT
    await asyncio.to_thread(leave)

    await upstream.wait_gone(1)


async def test_a_blocking_client_that_closes_a_chat_is_served_the_next(
    blocking: Any, upstream: ScriptedUpstream
) -> None:
    def leave_and_return() -> str:
        stream = blocking.chat.completions.create(**CHAT, stream=True)
        next(stream)
        stream.close()
        return str(blocking.chat.completions.create(**CHAT).choices[0].message.content)

    upstream.script(ENDLESS_CHAT, OpenAI())

    assert await asyncio.to_thread(leave_and_return) == "You said: one"
    await upstream.wait_gone(1)


async def test_a_blocking_client_raises_a_timeout_and_ends_the_call(
    blocking: Any, upstream: ScriptedUpstream
) -> None:
    def wait() -> None:
        blocking.chat.completions.create(**CHAT, timeout=1.0)

    upstream.behaviour = silent()
    with pytest.raises(openai.APITimeoutError):
        await asyncio.to_thread(wait)

    await upstream.wait_gone(1)


async def test_a_blocking_client_raises_errors_and_waits_out_a_rate_limit(
    blocking: Any, upstream: ScriptedUpstream
) -> None:
    def ask(retries: int) -> str:
        told = blocking.with_options(max_retries=retries).chat.completions.create(**CHAT)
        return str(told.choices[0].message.content)

    limited = answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
    upstream.script(limited, limited, OpenAI())
    with pytest.raises(openai.RateLimitError):
        await asyncio.to_thread(ask, 0)

    assert await asyncio.to_thread(ask, 1) == "You said: one"
    _, second, third = upstream.seen
    assert third.at - second.at >= 1.0


async def test_a_blocking_anthropic_client_gets_messages_and_leaves_them(
    blocking_anthropic: Any, claude: ScriptedUpstream
) -> None:
    def talk() -> tuple[str, str]:
        whole = blocking_anthropic.messages.create(**MESSAGE)
        with blocking_anthropic.messages.stream(**MESSAGE) as stream:
            streamed = "".join(stream.text_stream)
        return whole.content[0].text, streamed

    def leave() -> None:
        with blocking_anthropic.messages.create(**MESSAGE, stream=True) as stream:
            next(stream)

    assert await asyncio.to_thread(talk) == ("You said: one", "You said: one")
    claude.behaviour = ENDLESS_MESSAGE
    await asyncio.to_thread(leave)
    await claude.wait_gone(1)


class Halting(io.BytesIO):
    """A file of which the second half is there only when somebody says so."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.go = threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        left = len(self.getvalue()) // 2 - self.tell()
        if left > 0:
            return super().read(left if size is None or size < 0 else min(size, left))
        assert self.go.wait(10)
        return super().read(size)


async def test_an_upload_reaches_the_provider_while_its_client_still_sends(
    gate: Tidegate, blocking: Any, upstream: ScriptedUpstream
) -> None:
    file = Halting(b"x" * (8 * MAX_BODY))
    routed = blocking.with_options(base_url=gate.base_url + "/up/v1")
    before = upstream.open_connections
    uploading = asyncio.create_task(
        asyncio.to_thread(lambda: routed.files.create(file=("batch.jsonl", file), purpose="batch"))
    )
    try:
        await upstream.wait_open(before + 1)
    finally:
        file.go.set()
    told = await uploading

    assert told.bytes == 8 * MAX_BODY
