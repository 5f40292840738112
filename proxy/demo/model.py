"""The innermost handler of a route whose upstream is `demo`: which API was asked, and how it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
from multidict import CIMultiDict

from middlewares.bodies import FixedBody, PiecesBody
from middlewares.commit import observed, ready
from middlewares.exchange import Exchange, Reply, ReplyBody
from proxy.demo import chat, embeddings, messages, responses
from proxy.demo.saying import CREATED, MODELS, last_text, said

_PAUSE = 0.005
"""Seconds between two events of a stream: enough to see it stream, too little to wait for."""
_ENCODE = msgspec.json.Encoder()
_READ = (
    "dimensions",
    "encoding_format",
    "input",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "messages",
    "prompt",
    "stream_options",
)
_SERVED = {
    "/chat/completions": ("messages", ("max_completion_tokens", "max_tokens")),
    "/completions": ("prompt", ("max_tokens",)),
    "/messages": ("messages", ("max_tokens",)),
    "/responses": ("input", ("max_output_tokens",)),
}
"""Where each API has its prompt and its ceilings."""


class DemoModel:
    """Deterministic, and without state."""

    async def __call__(self, exchange: Exchange) -> Reply:
        """Answer as the provider of that API would."""
        return await exchange.attempt(self._speak)

    async def _speak(self, exchange: Exchange) -> Reply:
        exchange.watch.stop("connect")
        if exchange.streaming:
            exchange.watch.start("first_token")
        reply = _answer(exchange)
        exchange.note_head()
        return await ready(exchange, observed(exchange, reply))


def _answer(exchange: Exchange) -> Reply:
    method, path = exchange.inbound.method, exchange.inbound.path
    if method == "GET" and path == "/models":
        listed = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "tidegate"} for name in MODELS
        ]
        return _json(200, {"object": "list", "data": listed})
    if method != "POST" or path not in (*_SERVED, "/embeddings", "/messages/count_tokens"):
        served = "models, chat/completions, completions, messages, responses and embeddings"
        return _error(path, f"The demo serves {served}.", "not_found")
    fields = exchange.fields
    body = {} if fields is None else {name: fields.value(name) for name in _READ if name in fields}
    model = exchange.model
    if model not in MODELS:
        return _error(path, f"The demo has no model {model!r}; it has echo and reasoner.", "model_not_found")
    if path == "/embeddings":
        answer = embeddings.answer(model, body)
        if answer is None:
            return _error(path, "The demo makes no more than 262144 numbers at a time.", "too_large", 400)
        return _json(200, answer)
    if path == "/messages/count_tokens":
        return _json(200, {"input_tokens": len(last_text(body.get("messages")).split())})
    return _spoken(exchange, path, model, body)


def _spoken(exchange: Exchange, path: str, model: str, body: dict[str, Any]) -> Reply:
    prompt, ceilings = _SERVED[path]
    budgets = (body.get(name) for name in ceilings)
    saying = said(model, last_text(body.get(prompt)), next((n for n in budgets if n is not None), None))
    match path:
        case "/messages":
            whole, events, named = messages.whole(saying), messages.events(saying), True
        case "/responses":
            whole, events, named = responses.whole(saying), responses.events(saying), True
        case _:
            options = body.get("stream_options")
            asked = isinstance(options, dict) and options.get("include_usage") is True
            is_chat = path == "/chat/completions"
            whole = chat.whole(saying, chat=is_chat)
            events, named = chat.events(saying, chat=is_chat, with_usage=asked), False
    if exchange.streaming:
        return _reply(200, "text/event-stream", PiecesBody(_paced(events, named=named)))
    return _json(200, whole)


async def _paced(events: Iterator[dict[str, Any]], *, named: bool) -> AsyncGenerator[bytes, None]:
    for number, event in enumerate(events):
        if number:
            await asyncio.sleep(_PAUSE)
        name = b"event: %b\n" % event["type"].encode() if named else b""
        yield name + b"data: " + _ENCODE.encode(event) + b"\n\n"
    if not named:
        yield b"data: [DONE]\n\n"


def _json(status: int, value: dict[str, Any]) -> Reply:
    body = _ENCODE.encode(value)
    reply = _reply(status, "application/json", FixedBody(body))
    reply.headers["Content-Length"] = str(len(body))
    return reply


def _error(path: str, message: str, code: str, status: int = 404) -> Reply:
    if path.startswith("/messages"):
        return _json(404, messages.error(message, "not_found_error"))
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return _json(status, {"error": error})


def _reply(status: int, kind: str, body: ReplyBody) -> Reply:
    return Reply(status, CIMultiDict({"Content-Type": kind}), body)
