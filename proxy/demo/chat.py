"""The embedded model as chat completions, and as the completions before them.

Source: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.demo.saying import CREATED, Saying

Shape = dict[str, Any]


def usage(saying: Saying) -> Shape:
    """What it cost."""
    return {
        "prompt_tokens": saying.prompt_tokens,
        "completion_tokens": saying.tokens,
        "total_tokens": saying.prompt_tokens + saying.tokens,
        "completion_tokens_details": {"reasoning_tokens": len(saying.reasoning)},
    }


def whole(saying: Saying, *, chat: bool) -> Shape:
    """A plain answer."""
    choice: Shape = {"index": 0, "finish_reason": _finish(saying), "logprobs": None}
    if chat:
        message: Shape = {"role": "assistant", "content": saying.text}
        if saying.reasoning:
            message["reasoning_content"] = " ".join(saying.reasoning)
        choice["message"] = message
    else:
        choice["text"] = saying.text
    return _frame(saying, chat=chat, event=False) | {"choices": [choice], "usage": usage(saying)}


def events(saying: Saying, *, chat: bool, with_usage: bool) -> Iterator[Shape]:
    """A stream's events, but for the last, which is no JSON."""
    frame = _frame(saying, chat=chat, event=True)
    more = {"usage": None} if with_usage else {}

    def event(delta: Shape, text: str, finish: str | None) -> Shape:
        told = {"delta": delta} if chat else {"text": text}
        return {**frame, "choices": [{"index": 0, **told, "finish_reason": finish}], **more}

    if chat:
        yield event({"role": "assistant", "content": ""}, "", None)
        for thought in saying.thoughts():
            yield event({"reasoning_content": thought}, "", None)
    for piece in saying.pieces():
        yield event({"content": piece}, piece, None)
    yield event({}, "", _finish(saying))
    if with_usage:
        yield {**frame, "choices": [], "usage": usage(saying)}


def _finish(saying: Saying) -> str:
    return "stop" if saying.whole else "length"


def _frame(saying: Saying, *, chat: bool, event: bool) -> Shape:
    kind = ("chat.completion.chunk" if event else "chat.completion") if chat else "text_completion"
    prefix = "chatcmpl" if chat else "cmpl"
    return {"id": f"{prefix}-demo", "object": kind, "created": CREATED, "model": saying.model}
