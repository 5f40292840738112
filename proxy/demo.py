"""The embedded model: an upstream that needs no key, no network and no weights.

Deterministic. `echo` says what it was told, word by word, and `PONG` to a prompt that asks for it.
`reasoner` first spends its budget on hidden reasoning, as reasoning models do, so that a small
`max_tokens` gives an empty answer. A token is a word.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from multidict import CIMultiDict

from middlewares.bodies import FixedBody, PiecesBody
from middlewares.commit import observed, ready
from middlewares.exchange import Exchange, Reply, ReplyBody

MODELS = ("echo", "reasoner")
REASONING_TOKENS = 1000
_BUDGET = 4096
_PAUSE = 0.005
"""Seconds between two events of a stream: enough to see it stream, too little to wait for."""
_CREATED = 1767225600
_REASONING_PIECE = 50
_ASKS_FOR_PONG = re.compile(r"\bpong\b", re.IGNORECASE)
_ENCODE = msgspec.json.Encoder()


class DemoModel:
    """The innermost handler of a route whose upstream is `demo`."""

    async def __call__(self, exchange: Exchange) -> Reply:
        """Answer as an OpenAI-compatible provider would."""
        exchange.begin_attempt()
        exchange.watch.stop("connect")
        if exchange.streaming:
            exchange.watch.start("first_token")
        reply = _answer(exchange)
        exchange.note_head()
        return await ready(exchange, observed(exchange, reply))


@dataclass(frozen=True, slots=True)
class _Saying:
    """What will be said, within the budget."""

    model: str
    prompt_tokens: int
    reasoning: list[str]
    words: list[str]
    finish: str

    @property
    def usage(self) -> dict[str, Any]:
        spent = len(self.reasoning) + len(self.words)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": spent,
            "total_tokens": self.prompt_tokens + spent,
            "completion_tokens_details": {"reasoning_tokens": len(self.reasoning)},
        }


def _answer(exchange: Exchange) -> Reply:
    method, path = exchange.inbound.method, exchange.inbound.path
    if method == "GET" and path == "/models":
        listed = [
            {"id": name, "object": "model", "created": _CREATED, "owned_by": "tidegate"} for name in MODELS
        ]
        return _json(200, {"object": "list", "data": listed})
    if method != "POST" or path not in ("/chat/completions", "/completions"):
        return _error(404, "The demo serves models, chat/completions and completions.", "not_found")
    fields = exchange.fields
    body = {} if fields is None else {name: fields.value(name) for name in _READ if name in fields}
    model = exchange.model
    if model not in MODELS:
        return _error(404, f"The demo has no model {model!r}; it has echo and reasoner.", "model_not_found")
    chat = path == "/chat/completions"
    saying = _said(model, _prompt(body, chat=chat), _budget(body))
    if exchange.streaming:
        options = body.get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        return _reply(200, "text/event-stream", PiecesBody(_paced(saying, chat=chat, with_usage=with_usage)))
    return _json(200, _whole(saying, chat=chat))


_READ = ("messages", "prompt", "max_tokens", "max_completion_tokens", "stream_options")


def _prompt(body: dict[str, Any], *, chat: bool) -> str:
    """The text of the last message, or of the prompt."""
    if not chat:
        prompt = body.get("prompt")
        return prompt if isinstance(prompt, str) else ""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    content = last.get("content") if isinstance(last, dict) else ""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _budget(body: dict[str, Any]) -> int:
    asked = (body.get("max_completion_tokens"), body.get("max_tokens"))
    return next((n for n in asked if type(n) is int and n > 0), _BUDGET)


def _said(model: str, prompt: str, budget: int) -> _Saying:
    words = ["PONG"] if _ASKS_FOR_PONG.search(prompt) else prompt.split() or ["(nothing)"]
    thoughts = [f"step-{n}" for n in range(1, REASONING_TOKENS + 1)] if model == "reasoner" else []
    reasoning = thoughts[:budget]
    kept = words[: budget - len(reasoning)]
    finish = "stop" if len(kept) == len(words) else "length"
    return _Saying(model, len(prompt.split()), reasoning, kept, finish)


def _whole(saying: _Saying, *, chat: bool) -> dict[str, Any]:
    text = " ".join(saying.words)
    choice: dict[str, Any] = {"index": 0, "finish_reason": saying.finish, "logprobs": None}
    if chat:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if saying.reasoning:
            message["reasoning_content"] = " ".join(saying.reasoning)
        choice["message"] = message
    else:
        choice["text"] = text
    return _envelope(saying, chat=chat, event=False) | {"choices": [choice], "usage": saying.usage}


def _envelope(saying: _Saying, *, chat: bool, event: bool) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if event else "chat.completion") if chat else "text_completion"
    prefix = "chatcmpl" if chat else "cmpl"
    return {"id": f"{prefix}-demo", "object": kind, "created": _CREATED, "model": saying.model}


async def _paced(saying: _Saying, *, chat: bool, with_usage: bool) -> AsyncGenerator[bytes, None]:
    for number, event in enumerate(_events(saying, chat=chat, with_usage=with_usage)):
        if number:
            await asyncio.sleep(_PAUSE)
        yield b"data: " + _ENCODE.encode(event) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _events(saying: _Saying, *, chat: bool, with_usage: bool) -> Iterator[dict[str, Any]]:
    frame = _envelope(saying, chat=chat, event=True)
    more = {"usage": None} if with_usage else {}

    def event(delta: dict[str, Any], text: str, finish: str | None) -> dict[str, Any]:
        said = {"delta": delta} if chat else {"text": text}
        return {**frame, "choices": [{"index": 0, **said, "finish_reason": finish}], **more}

    if chat:
        yield event({"role": "assistant", "content": ""}, "", None)
        for start in range(0, len(saying.reasoning), _REASONING_PIECE):
            piece = " ".join(saying.reasoning[start : start + _REASONING_PIECE])
            yield event({"reasoning_content": piece + " "}, "", None)
    for number, word in enumerate(saying.words):
        text = f" {word}" if number else word
        yield event({"content": text}, text, None)
    yield event({}, "", saying.finish)
    if with_usage:
        yield {**frame, "choices": [], "usage": saying.usage}


def _json(status: int, value: dict[str, Any]) -> Reply:
    body = _ENCODE.encode(value)
    reply = _reply(status, "application/json", FixedBody(body))
    reply.headers["Content-Length"] = str(len(body))
    return reply


def _error(status: int, message: str, code: str) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return _json(status, {"error": error})


def _reply(status: int, kind: str, body: ReplyBody) -> Reply:
    return Reply(status, CIMultiDict({"Content-Type": kind}), body)
