"""OpenAI chat completions made of words: whole or as events, with the usage counted in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.tools import ToolCall
from tests.support.wire import DONE, HeaderItems, Seen, Wire, sse_event

CREATED = 1_750_000_000
_REASONING_WORDS_AN_EVENT = 50


def words(text: str) -> list[str]:
    """The words of a text, each with the white space after it; a word stands for a token."""
    return re.findall(r"\s*\S+\s*", text)


def message_text(message: dict[str, Any]) -> str:
    """The text of a message whose content is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content)


def prompt_tokens(body: dict[str, Any]) -> int:
    return sum(len(words(message_text(message))) for message in body.get("messages", ()))


def last_user_text(body: dict[str, Any]) -> str:
    texts = [message_text(message) for message in body.get("messages", ()) if message.get("role") == "user"]
    return texts[-1] if texts else ""


def answer_to(body: dict[str, Any]) -> str:
    """PONG to whoever asks for PONG, else an echo."""
    asked = last_user_text(body)
    return "PONG" if "PONG" in asked else f"You said: {asked}"


@dataclass(frozen=True)
class Completion:
    """An answer to be: `whole()` for a plain request, `events()` for a streamed one."""

    text: str
    model: str
    prompt_tokens: int = 0
    reasoning: str = ""
    finish_reason: str = "stop"
    ident: str = "chatcmpl-simulated"
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def usage(self) -> dict[str, Any]:
        reasoning = len(words(self.reasoning))
        completion = reasoning + len(words(self.text))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [_tool_call(call, call.text) for call in self.tool_calls]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return self._object("chat.completion", choices=[choice], usage=self.usage)

    def events(self, include_usage: bool = False) -> Iterator[dict[str, Any]]:
        """The role, the reasoning, one word an event, the tool calls in pieces, the finish reason and, if
        asked for, the usage."""
        yield self.event({"role": "assistant", "content": ""})
        thoughts = words(self.reasoning)
        for start in range(0, len(thoughts), _REASONING_WORDS_AN_EVENT):
            part = "".join(thoughts[start : start + _REASONING_WORDS_AN_EVENT])
            yield self.event({"reasoning_content": part})
        for word in words(self.text):
            yield self.event({"content": word})
        for index, call in enumerate(self.tool_calls):
            yield self.event({"tool_calls": [{"index": index, **_tool_call(call, "")}]})
            for piece in call.pieces():
                yield self.event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self.event({}, self.finish_reason)
        if include_usage:
            yield self._object("chat.completion.chunk", choices=[], usage=self.usage)

    def event(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", choices=[choice])

    def _object(self, kind: str, **rest: Any) -> dict[str, Any]:
        return {"id": self.ident, "object": kind, "created": CREATED, "model": self.model, **rest}


def _tool_call(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": call.ident, "type": "function", "function": {"name": call.name, "arguments": arguments}}


async def complete(
    seen: Seen,
    wire: Wire,
    completion: Completion,
    *,
    headers: HeaderItems | None = None,
    comment: bytes = b"",
    pause: float = 0.0,
) -> None:
    """Answer whole or streamed as the request asks; a `comment` opens a stream and recurs within it."""
    body = seen.json()
    if not body.get("stream"):
        await wire.json(200, completion.whole(), headers)
        return
    await wire.sse(*[comment] * 2 if comment else (), done=False, headers=headers)
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    for index, event in enumerate(completion.events(wants_usage)):
        if comment and index % 3 == 2:
            await wire.chunk(comment)
        await wire.chunk(sse_event(event))
        await wire.pause(pause)
    await wire.chunk(DONE)
    await wire.finish()
