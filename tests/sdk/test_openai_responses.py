"""The OpenAI SDK's responses: whole, as events, and through the stream that accumulates them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sdk.clients import Sent, passed_on
from tests.support.openai_api import OPENAI_MODEL
from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="package")

ASK: dict[str, Any] = {"model": f"up/{OPENAI_MODEL}", "input": "one two"}
SAID = "You said: one two"
EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 4,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
WEATHER = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


async def test_a_response_comes_back_whole(client: Any, upstream: ScriptedUpstream, sent: Sent) -> None:
    told = await client.responses.create(**ASK, reasoning={"effort": "low"}, store=False)

    assert (told.status, told.output_text, told.usage.total_tokens) == ("completed", SAID, 6)
    passed_on(sent, upstream.seen)
    assert upstream.seen[0].path == "/v1/responses"


async def test_a_streamed_response_comes_as_the_providers_events(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    stream = await client.responses.create(**ASK, stream=True)
    events = [event async for event in stream]

    assert [event.type for event in events] == EVENTS
    assert [event.sequence_number for event in events] == list(range(len(EVENTS)))
    assert "".join(event.delta for event in events if event.type.endswith(".delta")) == SAID
    assert events[-1].response.output_text == SAID
    passed_on(sent, upstream.seen)


async def test_the_accumulating_stream_has_a_response(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    async with client.responses.stream(**ASK) as stream:
        kinds = [event.type async for event in stream]
        told = await stream.get_final_response()

    assert kinds == EVENTS
    assert told.output_text == SAID
    passed_on(sent, upstream.seen)


async def test_a_function_call_comes_back_whole_and_in_pieces(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    whole = await client.responses.create(**ASK, tools=[WEATHER])
    async with client.responses.stream(**ASK, tools=[WEATHER]) as stream:
        pieces = [e.delta async for e in stream if e.type == "response.function_call_arguments.delta"]
        accumulated = await stream.get_final_response()

    (call,), (same) = whole.output, accumulated.output[0]
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "weather",
        {"city": "one two"},
    )
    assert len(pieces) > 2, "it did not come in pieces"
    assert "".join(pieces) == call.arguments == same.arguments
    passed_on(sent, upstream.seen)
