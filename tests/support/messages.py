"""Answers in the shape of Anthropic's messages, whole or as events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.completions import answer_to, last_user_text, prompt_tokens, words
from tests.support.tools import ToolCall, calls_for
from tests.support.wire import Wire, sse_event

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def named_event(kind: str, **fields: Any) -> bytes:
    """An event with its name, as these streams have them."""
    return f"event: {kind}\n".encode() + sse_event({"type": kind, **fields})


@dataclass(frozen=True)
class Message:
    """An answer to be: a text, and the tools that it calls."""

    text: str
    model: str
    input_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def usage(self) -> dict[str, int]:
        return {"input_tokens": self.input_tokens, "output_tokens": len(words(self.text))}

    @property
    def _ending(self) -> dict[str, Any]:
        return {"stop_reason": "tool_use" if self.tool_calls else "end_turn", "stop_sequence": None}

    def whole(self) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        content += [{**_opening_block(call), "input": call.arguments} for call in self.tool_calls]
        return self._object(content=content, **self._ending, usage=self.usage)

    def events(self) -> Iterator[bytes]:
        """One word an event, then the input of each tool in pieces."""
        unsaid = {**self.usage, "output_tokens": 0}
        opening = self._object(content=[], stop_reason=None, stop_sequence=None, usage=unsaid)
        yield named_event("message_start", message=opening)
        yield from _block(
            0,
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": word} for word in words(self.text)],
        )
        for index, call in enumerate(self.tool_calls, 1):
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in call.pieces()]
            yield from _block(index, {**_opening_block(call), "input": {}}, deltas)
        yield named_event("message_delta", delta=self._ending, usage=self.usage)
        yield named_event("message_stop")

    def _object(self, **rest: Any) -> dict[str, Any]:
        return {
            "id": "msg_simulated",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            **rest,
        }


def _opening_block(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.ident, "name": call.name}


def _block(index: int, opening: dict[str, Any], deltas: list[dict[str, Any]]) -> Iterator[bytes]:
    yield named_event("content_block_start", index=index, content_block=opening)
    for delta in deltas:
        yield named_event("content_block_delta", index=index, delta=delta)
    yield named_event("content_block_stop", index=index)


async def answer_message(wire: Wire, body: dict[str, Any]) -> None:
    """Answer whole or streamed as the request asks, with a call of every tool that it offers."""
    calls = calls_for(body, last_user_text(body))
    message = Message(answer_to(body), body["model"], prompt_tokens(body), calls)
    if not body.get("stream"):
        await wire.json(200, message.whole())
        return
    opening, *rest = message.events()
    await wire.sse(opening, PING, *rest, done=False)
    await wire.finish()
