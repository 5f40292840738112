"""The Anthropic SDK: messages, tools and tokens, through its own base URL without /v1."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.clients import Sent, anthropic_client, passed_on
from tests.support.anthropic_api import ANTHROPIC_KEY, ANTHROPIC_MODEL
from tests.support.process import Tidegate
from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="package")

SAY = [{"role": "user", "content": "one two thrée"}]
ASK: dict[str, Any] = {"model": f"claude/{ANTHROPIC_MODEL}", "messages": SAY, "max_tokens": 50}
SAID = "You said: one two thrée"
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [WEATHER, WEATHER | {"name": "time"}]
CALLS = [("call_0", "weather", {"city": "one two thrée"}), ("call_1", "time", {"city": "one two thrée"})]


def called(content: list[Any]) -> list[tuple[str, str, Any]]:
    return [(block.id, block.name, block.input) for block in content if block.type == "tool_use"]


async def test_a_message_comes_back_whole_and_goes_up_as_the_sdk_sent_it(
    anthropic: Any, claude: ScriptedUpstream, sent: Sent
) -> None:
    told = await anthropic.messages.create(
        **ASK,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        extra_headers={"anthropic-beta": "one-2025-01-01,two-2025-02-02"},
        metadata={"user_id": "ü"},
    )

    assert (told.content[0].text, told.stop_reason, told.usage.output_tokens) == (SAID, "end_turn", 5)
    passed_on(sent, claude.seen)
    (seen,) = claude.seen
    assert (seen.path, seen.json()["model"]) == ("/v1/messages", ANTHROPIC_MODEL)
    assert (seen.header("x-api-key"), seen.header("authorization")) == (ANTHROPIC_KEY, None)
    assert seen.header("anthropic-version") == sent[0].headers["anthropic-version"]
    assert seen.header("anthropic-beta") == "one-2025-01-01,two-2025-02-02"
    assert (seen.header("user-agent") or "").startswith("AsyncAnthropic/Python ")
    assert seen.header("x-stainless-lang") == "python"


async def test_a_streamed_message_comes_as_the_providers_events(
    anthropic: Any, claude: ScriptedUpstream, sent: Sent
) -> None:
    stream = await anthropic.messages.create(**ASK, stream=True)
    events = [event async for event in stream]

    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    said = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert said == ["You ", "said: ", "one ", "two ", "thrée"]
    passed_on(sent, claude.seen)


async def test_the_accumulating_stream_has_the_message(
    anthropic: Any, claude: ScriptedUpstream, sent: Sent
) -> None:
    async with anthropic.messages.stream(**ASK) as stream:
        pieces = [text async for text in stream.text_stream]
        told = await stream.get_final_message()

    assert "".join(pieces) == told.content[0].text == SAID
    assert (told.stop_reason, told.usage.output_tokens) == ("end_turn", 5)
    passed_on(sent, claude.seen)


async def test_tools_are_called_whole_and_in_pieces_and_their_results_go_up(
    anthropic: Any, claude: ScriptedUpstream, sent: Sent
) -> None:
    whole = await anthropic.messages.create(**ASK, tools=TOOLS)
    async with anthropic.messages.stream(**ASK, tools=TOOLS) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        accumulated = await stream.get_final_message()
    results = [{"type": "tool_result", "tool_use_id": ident, "content": "sunny"} for ident, *_ in CALLS]
    history = [*SAY, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
    told = await anthropic.messages.create(**ASK | {"messages": history})

    assert called(whole.content) == called(accumulated.content) == CALLS
    assert whole.stop_reason == accumulated.stop_reason == "tool_use"
    assert len(pieces) > 4, "they did not come in pieces"
    assert told.stop_reason == "end_turn"
    passed_on(sent, claude.seen)
    last = claude.seen[2].json()["messages"]
    assert [block["type"] for block in last[1]["content"]] == ["text", "tool_use", "tool_use"]


async def test_tokens_are_counted(anthropic: Any, claude: ScriptedUpstream, sent: Sent) -> None:
    told = await anthropic.messages.count_tokens(model=ASK["model"], messages=SAY)

    assert told.input_tokens == 3
    passed_on(sent, claude.seen)
    assert claude.seen[0].path == "/v1/messages/count_tokens"


async def test_a_route_in_the_base_url_reaches_even_an_explicit_one(
    gate: Tidegate, claude: ScriptedUpstream, sent: Sent
) -> None:
    """The key stands there as `header: auto` has it, which is x-api-key on messages."""
    ask = ASK | {"model": ANTHROPIC_MODEL}
    async with anthropic_client(gate.base_url + "/kimi", sent, max_retries=0) as client:
        whole = await client.messages.create(**ask)
        async with client.messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()

    assert whole.content[0].text == streamed.content[0].text == SAID
    passed_on(sent, claude.seen)
    assert {seen.path for seen in claude.seen} == {"/v1/messages"}
    assert {seen.header("x-api-key") for seen in claude.seen} == {ANTHROPIC_KEY}


async def test_tokens_are_counted_where_the_key_goes_by_the_endpoint(
    gate: Tidegate, claude: ScriptedUpstream, sent: Sent
) -> None:
    async with anthropic_client(gate.base_url + "/kimi", sent, max_retries=0) as client:
        told = await client.messages.count_tokens(model=ANTHROPIC_MODEL, messages=SAY)

    assert told.input_tokens == 3
    passed_on(sent, claude.seen)


async def test_an_auth_token_in_place_of_a_key_is_replaced_too(
    gate: Tidegate, claude: ScriptedUpstream, sent: Sent
) -> None:
    async with anthropic_client(gate.base_url, sent, auth_token="the-clients-token") as client:
        told = await client.messages.create(**ASK)

    assert told.content[0].text == SAID
    (seen,) = claude.seen
    assert sent[0].headers["authorization"] == "Bearer the-clients-token"
    assert (seen.header("x-api-key"), seen.header("authorization")) == (ANTHROPIC_KEY, None)
    assert "the-clients-token" not in repr(seen)
    passed_on(sent, claude.seen)


async def test_a_raw_response_has_the_providers_headers_and_ours(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    raw = await anthropic.messages.with_raw_response.create(**ASK)

    assert (await raw.parse()).content[0].text == SAID
    assert (raw.headers["x-tidegate-route"], raw.headers["x-tidegate-attempts"]) == ("claude", "1")


async def test_both_sdks_list_the_same_models(anthropic: Any, client: Any) -> None:
    theirs = [model.id async for model in anthropic.models.list()]
    ours = [model.id async for model in client.models.list()]

    assert f"claude/{ANTHROPIC_MODEL}" in theirs
    assert theirs == ours
