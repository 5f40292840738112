"""The embedded model speaks every API that a newcomer's client may choose, whole and streamed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, NotFoundError
from openai import AsyncOpenAI, BadRequestError
from openai import NotFoundError as OpenAINotFound

from tests.support.process import Tidegate, write_table

SAY = "one two three"
ASK: Any = [{"role": "user", "content": SAY}]


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Tidegate]:
    chain = ["prefix_rewrite", "usage"]
    async with Tidegate(write_table(tmp_path, {"demo": {"upstream": "demo", "middlewares": chain}})) as gate:
        yield gate


@pytest.fixture
async def openai(gate: Tidegate) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gate.base_url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(gate: Tidegate) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=gate.base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "ceiling", "text", "stop", "spent"),
    [
        ("demo/echo", 100, SAY, "end_turn", 3),
        ("demo/echo", 2, "one two", "max_tokens", 2),
        ("demo/reasoner", 800, "", "max_tokens", 800),
        ("demo/reasoner", 1500, SAY, "end_turn", 1003),
    ],
)
async def test_messages_whole_and_streamed_say_the_same(
    gate: Tidegate, anthropic: AsyncAnthropic, model: str, ceiling: int, text: str, stop: str, spent: int
) -> None:
    plain = await anthropic.messages.create(model=model, max_tokens=ceiling, messages=ASK)
    async with anthropic.messages.stream(model=model, max_tokens=ceiling, messages=ASK) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    entries = await gate.wait_log(2)

    for answer in (plain, final):
        said = "".join(block.text for block in answer.content if block.type == "text")
        assert (said, answer.stop_reason, answer.usage.output_tokens) == (text, stop, spent)
        assert any(block.type == "thinking" for block in answer.content) == (model == "demo/reasoner")
    assert "".join(pieces) == text and len(pieces) == len(text.split())
    assert [entry["completion_tokens"] for entry in entries] == [spent, spent]
    assert [entry["empty_answer"] for entry in entries] == [not text] * 2
    assert [entry["outcome"] for entry in entries] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("model", "ceiling", "text", "status", "spent"),
    [
        ("demo/echo", 100, SAY, "completed", 3),
        ("demo/echo", 2, "one two", "incomplete", 2),
        ("demo/reasoner", 800, "", "incomplete", 800),
        ("demo/reasoner", 1500, SAY, "completed", 1003),
    ],
)
async def test_responses_whole_and_streamed_say_the_same(
    gate: Tidegate, openai: AsyncOpenAI, model: str, ceiling: int, text: str, status: str, spent: int
) -> None:
    plain = await openai.responses.create(model=model, input=SAY, max_output_tokens=ceiling)
    async with openai.responses.stream(model=model, input=ASK, max_output_tokens=ceiling) as stream:
        events = [event async for event in stream]
    final: Any = events[-1]
    entries = await gate.wait_log(2)

    assert final.type == f"response.{status}"
    for answer in (plain, final.response):
        assert (answer.output_text, answer.status) == (text, status)
        assert answer.usage is not None and answer.usage.output_tokens == spent
        assert any(item.type == "reasoning" for item in answer.output) == (model == "demo/reasoner")
    assert [getattr(event, "sequence_number", None) for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert [entry["completion_tokens"] for entry in entries] == [spent, spent]
    assert [entry["empty_answer"] for entry in entries] == [not text] * 2


async def test_embeddings_are_near_when_the_words_are(openai: AsyncOpenAI) -> None:
    texts = ["red green blue", "blue green red", "something else entirely"]
    packed = await openai.embeddings.create(model="demo/echo", input=texts, dimensions=256)
    plain = await openai.embeddings.create(model="demo/echo", input=texts, encoding_format="float")
    one, same, other = (item.embedding for item in packed.data)

    assert [len(item.embedding) for item in (*packed.data, *plain.data)] == [256] * 3 + [64] * 3
    assert math.isclose(math.hypot(*one), 1.0, rel_tol=1e-6)
    assert one == same
    assert sum(a * b for a, b in zip(one, other, strict=True)) < 0.7
    assert packed.usage.total_tokens == 9


async def test_the_demo_makes_no_answer_of_any_size(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="no more than 262144 numbers"):
        await openai.embeddings.create(model="demo/echo", input=["x"] * 8000, dimensions=4096)


async def test_tokens_are_counted_before_they_are_asked_for(anthropic: AsyncAnthropic) -> None:
    counted = await anthropic.messages.count_tokens(model="demo/echo", messages=ASK)

    assert counted.input_tokens == 3


async def test_what_the_demo_has_not_is_told_in_the_apis_own_words(
    openai: AsyncOpenAI, anthropic: AsyncAnthropic
) -> None:
    with pytest.raises(NotFoundError, match="The demo has no model 'nobody'") as theirs:
        await anthropic.messages.create(model="demo/nobody", max_tokens=10, messages=ASK)
    with pytest.raises(OpenAINotFound, match="The demo has no model 'nobody'"):
        await openai.responses.create(model="demo/nobody", input=SAY)
    with pytest.raises(OpenAINotFound, match="The demo serves models"):
        await openai.moderations.create(model="demo/echo", input=SAY)

    assert theirs.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": "The demo has no model 'nobody'; it has echo and reasoner.",
        },
    }
