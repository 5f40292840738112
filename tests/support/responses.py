"""Answers in the shape of OpenAI's responses, whole or as the events that the API sends.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.completions import CREATED, words
from tests.support.messages import named_event
from tests.support.tools import ToolCall, calls_for
from tests.support.wire import Wire

_Item = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A response to be: a message, or the tools that it calls in its place."""

    text: str
    model: str
    input_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()

    def whole(self) -> dict[str, Any]:
        spent = len(words(self.text))
        usage = {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": spent,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + spent,
        }
        return self._object("completed", self._items(), usage)

    def events(self) -> Iterator[bytes]:
        """The sequence of the API, each event with its number."""
        for number, (kind, fields) in enumerate(self._sequence()):
            yield named_event(kind, sequence_number=number, **fields)

    def _sequence(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "response.created", {"response": self._object("in_progress", [], None)}
        yield "response.in_progress", {"response": self._object("in_progress", [], None)}
        for index, item in enumerate(self._items()):
            place = {"output_index": index}
            yield "response.output_item.added", {**place, "item": _begun(item)}
            if item["type"] == "message":
                yield from self._say(item["id"], index)
            else:
                yield from _call(self.tool_calls[index], item["id"], index)
            yield "response.output_item.done", {**place, "item": item}
        yield "response.completed", {"response": self.whole()}

    def _say(self, item_id: str, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
        place = {"item_id": item_id, "output_index": index, "content_index": 0}
        yield "response.content_part.added", {**place, "part": _part("")}
        for word in words(self.text):
            yield "response.output_text.delta", {**place, "delta": word, "logprobs": []}
        yield "response.output_text.done", {**place, "text": self.text, "logprobs": []}
        yield "response.content_part.done", {**place, "part": _part(self.text)}

    def _items(self) -> list[_Item]:
        if self.tool_calls:
            return [_call_item(call) for call in self.tool_calls]
        content = [_part(self.text)]
        return [
            {
                "id": "msg_0",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        ]

    def _object(self, status: str, output: list[_Item], usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": "resp_simulated",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: ToolCall) -> _Item:
    return {
        "id": f"fc_{call.ident}",
        "type": "function_call",
        "call_id": call.ident,
        "name": call.name,
        "arguments": call.text,
        "status": "completed",
    }


def _begun(item: _Item) -> _Item:
    empty: _Item = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return {**item, **empty, "status": "in_progress"}


def _call(call: ToolCall, item_id: str, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    place = {"item_id": item_id, "output_index": index}
    for piece in call.pieces():
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    yield "response.function_call_arguments.done", {**place, "name": call.name, "arguments": call.text}


async def answer_response(wire: Wire, body: dict[str, Any]) -> None:
    """Answer whole or streamed as the request asks, with a call of every tool that it offers."""
    asked = body["input"] if isinstance(body["input"], str) else str(body["input"][-1]["content"])
    answer = Answer(f"You said: {asked}", body["model"], len(words(asked)), calls_for(body, asked))
    if body.get("stream"):
        await wire.sse(*answer.events(), done=False)
        await wire.finish()
    else:
        await wire.json(200, answer.whole())
