"""An answer in the shape of Anthropic's messages, whole or as events."""

from __future__ import annotations

from typing import Any

from tests.support.completions import answer_to, prompt_tokens, words
from tests.support.wire import Wire, sse_event


def named_event(kind: str, **fields: Any) -> bytes:
    """An event with its name, as these streams have them."""
    return f"event: {kind}\n".encode() + sse_event({"type": kind, **fields})


async def answer_message(wire: Wire, body: dict[str, Any]) -> None:
    text = answer_to(body)
    usage = {"input_tokens": prompt_tokens(body), "output_tokens": len(words(text))}
    message = {"id": "msg_simulated", "type": "message", "role": "assistant", "model": body["model"]}
    if not body.get("stream"):
        content = [{"type": "text", "text": text}]
        ending = {"stop_reason": "end_turn", "stop_sequence": None}
        await wire.json(200, {**message, "content": content, **ending, "usage": usage})
        return
    opening = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    deltas = [{"type": "text_delta", "text": word} for word in words(text)]
    await wire.sse(
        named_event("message_start", message={**opening, "usage": {**usage, "output_tokens": 0}}),
        named_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(named_event("content_block_delta", index=0, delta=delta) for delta in deltas),
        named_event("content_block_stop", index=0),
        named_event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage),
        named_event("message_stop"),
        done=False,
    )
    await wire.finish()
