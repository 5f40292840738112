"""The embedded model as Anthropic's messages.

Source: https://docs.anthropic.com/en/api/messages and …/messages-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.demo.saying import Saying

Shape = dict[str, Any]


def whole(saying: Saying) -> Shape:
    """A plain answer."""
    content: list[Shape] = []
    if saying.reasoning:
        content.append({"type": "thinking", "thinking": " ".join(saying.reasoning), "signature": "demo"})
    if saying.words:
        content.append({"type": "text", "text": saying.text})
    return {
        **_frame(saying),
        "content": content,
        "stop_reason": _stop(saying),
        "stop_sequence": None,
        "usage": {"input_tokens": saying.prompt_tokens, "output_tokens": saying.tokens},
    }


def events(saying: Saying) -> Iterator[Shape]:
    """A stream's events, each named by its type."""
    nothing: Shape = {"content": [], "stop_reason": None, "stop_sequence": None}
    spent = {"input_tokens": saying.prompt_tokens, "output_tokens": 0}
    yield {"type": "message_start", "message": {**_frame(saying), **nothing, "usage": spent}}
    blocks: list[tuple[Shape, Iterator[Shape]]] = []
    if saying.reasoning:
        thoughts = ({"type": "thinking_delta", "thinking": thought} for thought in saying.thoughts())
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, thoughts))
    if saying.words:
        pieces = ({"type": "text_delta", "text": piece} for piece in saying.pieces())
        blocks.append(({"type": "text", "text": ""}, pieces))
    for index, (block, deltas) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _stop(saying), "stop_sequence": None},
        "usage": {"output_tokens": saying.tokens},
    }
    yield {"type": "message_stop"}


def error(message: str, kind: str) -> Shape:
    """An error of this API."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def _stop(saying: Saying) -> str:
    return "end_turn" if saying.whole else "max_tokens"


def _frame(saying: Saying) -> Shape:
    return {"id": "msg_demo", "type": "message", "role": "assistant", "model": saying.model}
