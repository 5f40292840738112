"""The embedded model as OpenAI's responses.

Source: https://platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from proxy.demo.saying import CREATED, Saying

Shape = dict[str, Any]


def whole(saying: Saying) -> Shape:
    """A plain answer."""
    return _response(saying, _output(saying, "completed"), done=True)


def events(saying: Saying) -> Iterator[Shape]:
    """A stream's events, each named by its type and numbered."""
    numbers = count()
    for kind, fields in _told(saying):
        yield {"type": kind, "sequence_number": next(numbers), **fields}


def _told(saying: Saying) -> Iterator[tuple[str, Shape]]:
    begun = _response(saying, [], done=False)
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(_output(saying, "completed")):
        place = {"output_index": index, "item_id": item["id"]}
        hidden = item["type"] == "reasoning"
        empty = {**item, "summary": []} if hidden else {**item, "status": "in_progress", "content": []}
        yield "response.output_item.added", {"output_index": index, "item": empty}
        yield from _reasoned(saying, item, place) if hidden else _spoken(saying, item, place)
        yield "response.output_item.done", {"output_index": index, "item": item}
    end = "response.completed" if saying.whole else "response.incomplete"
    yield end, {"response": whole(saying)}


def _reasoned(saying: Saying, item: Shape, place: Shape) -> Iterator[tuple[str, Shape]]:
    part = {**place, "summary_index": 0}
    yield "response.reasoning_summary_part.added", {**part, "part": {"type": "summary_text", "text": ""}}
    for thought in saying.thoughts():
        yield "response.reasoning_summary_text.delta", {**part, "delta": thought}
    (summary,) = item["summary"]
    yield "response.reasoning_summary_text.done", {**part, "text": summary["text"]}
    yield "response.reasoning_summary_part.done", {**part, "part": summary}


def _spoken(saying: Saying, item: Shape, place: Shape) -> Iterator[tuple[str, Shape]]:
    part = {**place, "content_index": 0}
    (content,) = item["content"]
    yield "response.content_part.added", {**part, "part": {**content, "text": ""}}
    for piece in saying.pieces():
        yield "response.output_text.delta", {**part, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**part, "text": content["text"], "logprobs": []}
    yield "response.content_part.done", {**part, "part": content}


def _output(saying: Saying, status: str) -> list[Shape]:
    items: list[Shape] = []
    if saying.reasoning:
        summary = [{"type": "summary_text", "text": " ".join(saying.reasoning)}]
        items.append({"id": "rs_demo", "type": "reasoning", "summary": summary})
    if saying.words:
        content = [{"type": "output_text", "text": saying.text, "annotations": [], "logprobs": []}]
        message = {"id": "msg_demo", "type": "message", "role": "assistant", "status": status}
        items.append({**message, "content": content})
    return items


def _response(saying: Saying, output: list[Shape], *, done: bool) -> Shape:
    ended = "completed" if saying.whole else "incomplete"
    usage = {
        "input_tokens": saying.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": saying.tokens,
        "output_tokens_details": {"reasoning_tokens": len(saying.reasoning)},
        "total_tokens": saying.prompt_tokens + saying.tokens,
    }
    return {
        "id": "resp_demo",
        "object": "response",
        "created_at": CREATED,
        "status": ended if done else "in_progress",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done and not saying.whole else None,
        "instructions": None,
        "metadata": {},
        "model": saying.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if done else None,
    }
