"""A user who has heard enough: however an SDK lets go of an answer, the provider's call ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.anthropic_api import ANTHROPIC_MODEL
from tests.support.completions import Completion
from tests.support.messages import Message
from tests.support.openai_api import OPENAI_MODEL, SPEECH
from tests.support.responses import Answer
from tests.support.upstream import Behaviour, ScriptedUpstream, Seen, Wire, silent, sse_event

pytestmark = pytest.mark.asyncio(loop_scope="package")

SAY = [{"role": "user", "content": "one"}]
CHAT: dict[str, Any] = {"model": f"up/{OPENAI_MODEL}", "messages": SAY}
MESSAGE: dict[str, Any] = {"model": f"claude/{ANTHROPIC_MODEL}", "messages": SAY, "max_tokens": 9}
RESPONSE: dict[str, Any] = {"model": f"up/{OPENAI_MODEL}", "input": "one"}


def never_ends(*events: Any) -> Behaviour:
    """These events, and then nothing until the peer leaves."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.sse(*events, done=False)
        await wire.client_gone()

    return behave


ENDLESS_CHAT = never_ends(*map(sse_event, list(Completion("one two", OPENAI_MODEL).events())[:3]))
ENDLESS_MESSAGE = never_ends(*list(Message("one two", ANTHROPIC_MODEL).events())[:4])
ENDLESS_RESPONSE = never_ends(*list(Answer("one two", OPENAI_MODEL).events())[:6])


async def test_breaking_out_of_a_chat_ends_the_call(client: Any, upstream: ScriptedUpstream) -> None:
    upstream.behaviour = ENDLESS_CHAT
    async with await client.chat.completions.create(**CHAT, stream=True) as stream:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break

    await upstream.wait_gone(1)


async def test_closing_a_chat_that_was_not_read_ends_the_call(
    client: Any, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = ENDLESS_CHAT
    stream = await client.chat.completions.create(**CHAT, stream=True)
    await stream.close()

    await upstream.wait_gone(1)


async def test_leaving_the_accumulating_streams_ends_the_call(
    client: Any, upstream: ScriptedUpstream
) -> None:
    upstream.script(ENDLESS_CHAT, ENDLESS_RESPONSE)
    async with client.chat.completions.stream(**CHAT) as chat:
        await anext(chat)
    await upstream.wait_gone(1)

    async with client.responses.stream(**RESPONSE) as response:
        async for event in response:
            if event.type == "response.output_text.delta":
                break
    await upstream.wait_gone(2)


async def test_cancelling_a_task_ends_the_call_before_any_answer_and_within_one(
    client: Any, upstream: ScriptedUpstream
) -> None:
    async def read(began: asyncio.Event) -> None:
        async for _ in await client.chat.completions.create(**CHAT, stream=True):
            began.set()

    for number, behaviour in enumerate((silent(), ENDLESS_CHAT), 1):
        upstream.behaviour = behaviour
        began = asyncio.Event()
        task = asyncio.create_task(read(began))
        await upstream.wait_seen(number)
        if number == 2:
            async with asyncio.timeout(5):
                await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.wait_gone(number)


async def test_leaving_speech_half_heard_ends_the_call(client: Any, upstream: ScriptedUpstream) -> None:
    async def speak(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "audio/mpeg"})
        await wire.chunk(SPEECH)
        await wire.client_gone()

    upstream.behaviour = speak
    async with client.audio.speech.with_streaming_response.create(
        model=CHAT["model"], voice="alloy", input="hello"
    ) as answer:
        await anext(answer.iter_bytes(100))

    await upstream.wait_gone(1)


async def test_an_sdk_that_left_one_answer_is_served_the_next(
    client: Any, upstream: ScriptedUpstream
) -> None:
    ordinary = upstream.behaviour
    for number in range(1, 4):
        upstream.script(ENDLESS_CHAT, ordinary)
        async with await client.chat.completions.create(**CHAT, stream=True) as stream:
            await anext(stream)
        await upstream.wait_gone(number)
        told = await client.chat.completions.create(**CHAT)
        assert told.choices[0].message.content == "You said: one"


async def test_breaking_out_of_a_message_ends_the_call(anthropic: Any, claude: ScriptedUpstream) -> None:
    claude.behaviour = ENDLESS_MESSAGE
    async with await anthropic.messages.create(**MESSAGE, stream=True) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                break

    await claude.wait_gone(1)


async def test_leaving_the_accumulating_stream_of_messages_ends_the_call(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    claude.behaviour = ENDLESS_MESSAGE
    async with anthropic.messages.stream(**MESSAGE) as stream:
        async for text in stream.text_stream:
            assert text
            break

    await claude.wait_gone(1)
