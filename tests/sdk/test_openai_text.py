"""The OpenAI SDK, what it asks in JSON: chats, tools, completions, embeddings, moderations, models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.sdk.clients import Sent, openai_client, passed_on
from tests.support.completions import Completion
from tests.support.openai_api import OPENAI_KEY, OPENAI_MODEL, VECTOR
from tests.support.process import Tidegate
from tests.support.upstream import ScriptedUpstream, answer

pytestmark = pytest.mark.asyncio(loop_scope="package")

MODEL = f"up/{OPENAI_MODEL}"
SAY = [{"role": "user", "content": "one two thrée"}]
SAID = "You said: one two thrée"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = WEATHER | {"function": WEATHER["function"] | {"name": "time"}}  # type: ignore[operator]
CALLS = [("call_0", "weather", {"city": "Zürich"}), ("call_1", "time", {"city": "Zürich"})]
ASK_FOR_TOOLS: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Zürich"}],
    "tools": [WEATHER, TIME],
}


async def test_a_chat_comes_back_whole_and_goes_up_as_the_sdk_sent_it(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    told = await client.chat.completions.create(
        model=MODEL,
        messages=SAY,
        temperature=0.3,
        metadata={"trace": "a"},
        extra_body={"own": [1.50, "ü"]},
        extra_headers={"X-Own": "kept"},
    )

    assert told.choices[0].message.content == SAID
    assert (told.model, told.usage.completion_tokens) == (OPENAI_MODEL, 5)
    (seen,) = upstream.seen
    passed_on(sent, upstream.seen)
    assert (seen.path, seen.json()["model"]) == ("/v1/chat/completions", OPENAI_MODEL)
    assert seen.header("authorization") == f"Bearer {OPENAI_KEY}"
    assert (seen.header("user-agent") or "").startswith("AsyncOpenAI/Python ")
    assert seen.header("x-stainless-lang") == "python"
    assert seen.header("x-own") == "kept"


async def test_a_streamed_chat_comes_word_by_word_with_its_usage(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=SAY, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [word for word in said if word] == ["You ", "said: ", "one ", "two ", "thrée"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 5
    passed_on(sent, upstream.seen)


async def test_the_accumulating_stream_has_what_was_streamed(client: Any) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=SAY) as stream:
        events = [event async for event in stream]
        told = await stream.get_final_completion()

    assert told.choices[0].message.content == SAID
    assert "".join(event.delta for event in events if event.type == "content.delta") == SAID
    assert [event.content for event in events if event.type == "content.done"] == [SAID]


async def test_tool_calls_come_back_whole_and_their_results_go_up(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    asked = await client.chat.completions.create(**ASK_FOR_TOOLS)
    (choice,) = asked.choices
    calls = choice.message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    history = [*ASK_FOR_TOOLS["messages"], choice.message, *results]
    told = await client.chat.completions.create(model=MODEL, messages=history)

    assert choice.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in calls] == CALLS
    assert told.choices[0].message.content == "You said: Zürich"
    passed_on(sent, upstream.seen)
    assert [message["role"] for message in upstream.seen[1].json()["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
    ]


async def test_tool_calls_streamed_in_pieces_are_put_together_again(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    stream = await client.chat.completions.create(**ASK_FOR_TOOLS, stream=True)
    named: dict[int, tuple[str, str]] = {}
    arguments: dict[int, list[str]] = {}
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            if call.id:
                named[call.index] = (call.id, call.function.name)
            arguments.setdefault(call.index, []).append(call.function.arguments)
    async with client.chat.completions.stream(**ASK_FOR_TOOLS) as accumulating:
        accumulated = (await accumulating.get_final_completion()).choices[0]

    assert len(arguments[0]) > 2, "they did not come in pieces"
    assert [(*named[index], json.loads("".join(arguments[index]))) for index in named] == CALLS
    assert chunk.choices[0].finish_reason == accumulated.finish_reason == "tool_calls"
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in accumulated.message.tool_calls
    ] == CALLS
    passed_on(sent, upstream.seen)


class City(BaseModel):
    name: str
    country: str


async def test_structured_output_is_parsed_and_its_schema_goes_up_unchanged(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    told = await client.chat.completions.parse(model=MODEL, messages=SAY, response_format=City)

    assert told.choices[0].message.parsed == City(name="one two thrée", country="one two thrée")
    passed_on(sent, upstream.seen)
    schema = upstream.seen[0].json()["response_format"]["json_schema"]
    assert (schema["name"], list(schema["schema"]["properties"])) == ("City", ["name", "country"])


async def test_legacy_completions_come_back_whole_and_streamed(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    whole = await client.completions.create(model=MODEL, prompt="one two three")
    stream = await client.completions.create(model=MODEL, prompt="one two three", stream=True)
    pieces = [piece.choices[0] async for piece in stream]

    assert whole.choices[0].text == "one two three"
    assert [piece.text for piece in pieces] == ["one ", "two ", "three", ""]
    assert pieces[-1].finish_reason == "stop"
    passed_on(sent, upstream.seen)
    assert {seen.path for seen in upstream.seen} == {"/v1/completions"}


async def test_embeddings_are_asked_for_in_base64_and_decoded(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    packed = await client.embeddings.create(model=MODEL, input=["a", "b"])
    plain = await client.embeddings.create(model=MODEL, input="a", encoding_format="float")

    assert [item.embedding for item in packed.data] == [list(VECTOR)] * 2
    assert [item.embedding for item in plain.data] == [list(VECTOR)]
    passed_on(sent, upstream.seen)
    assert [seen.json()["encoding_format"] for seen in upstream.seen] == ["base64", "float"]


async def test_moderations_come_back(client: Any, upstream: ScriptedUpstream, sent: Sent) -> None:
    told = await client.moderations.create(model=MODEL, input="violence")

    assert told.results[0].flagged
    assert told.results[0].categories.violence
    passed_on(sent, upstream.seen)


async def test_models_are_listed_with_their_routes_and_retrieved_one_by_one(client: Any) -> None:
    listed = [model.id async for model in client.models.list()]
    one = await client.models.retrieve(MODEL)

    assert MODEL in listed
    assert not [name for name in listed if name.startswith(("kimi/", "keyless/", "dead/"))]
    assert one.id == MODEL


async def test_a_route_in_the_base_url_lists_the_providers_own_models(
    gate: Tidegate, upstream: ScriptedUpstream, sent: Sent
) -> None:
    async with openai_client(gate.base_url + "/up/v1", sent) as client:
        listed = [model.id async for model in client.models.list()]
        told = await client.chat.completions.create(model=OPENAI_MODEL, messages=SAY)

    assert listed == [OPENAI_MODEL]
    assert told.choices[0].message.content == SAID
    passed_on(sent, upstream.seen)


async def test_a_raw_response_has_the_providers_headers_and_ours(
    client: Any, upstream: ScriptedUpstream
) -> None:
    theirs = {
        "x-request-id": "req_simulated",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
        "openai-processing-ms": "17",
        "x-tidegate-route": "forged",
        "Set-Cookie": "sid=secret",
    }
    upstream.behaviour = answer(200, Completion("said", OPENAI_MODEL).whole(), theirs)

    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=SAY, max_tokens=5)
    told = raw.parse()

    assert told.choices[0].message.content == "said"
    assert told._request_id == raw.request_id == "req_simulated"
    assert {name: raw.headers[name] for name in list(theirs)[:5]} == dict(list(theirs.items())[:5])
    assert (raw.headers["x-tidegate-route"], raw.headers["x-tidegate-attempts"]) == ("up", "1")
    assert f"model={MODEL}->{OPENAI_MODEL}" in raw.headers["x-tidegate-changed"]
    assert raw.headers["x-tidegate-id"]
    assert "set-cookie" not in raw.headers
