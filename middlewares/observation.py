"""What an answer says of itself, observed while it passes: content, end, error, emptiness, tokens.

Knows the shapes of four endpoints and nothing of HTTP; never delays or changes a byte. Anything that
does not have the expected shape is simply not observed.
Sources: https://platform.openai.com/docs/api-reference/chat-streaming, …/responses-streaming,
https://docs.anthropic.com/en/docs/build-with-claude/streaming.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from middlewares.sse import Event, Scanner

Dialect = Literal["chat", "messages", "responses", "other"]

_DIALECTS: dict[str, Dialect] = {
    "/chat/completions": "chat",
    "/completions": "chat",
    "/messages": "messages",
    "/responses": "responses",
}
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
_VISIBLE = ("content", "tool_calls", "function_call", "refusal", "audio", "images")
_RESPONSE_ENDS = ("response.completed", "response.incomplete", "response.failed")
_ENDS = ("message_stop", *_RESPONSE_ENDS)
_SPENT = ("completion_tokens_details", "output_tokens_details")
_READ = ("prompt_tokens_details", "input_tokens_details")
_OUT_OF_BUDGET = ("length", "max_tokens", "max_output_tokens")
_REFUSES_CONTENT = frozenset({"content_policy_violation", "content_filter", "moderation_blocked"})
"""Codes or types of errors; of OpenAI, of Azure and Moonshot, and of OpenAI's images."""
_WANTS_ANOTHER_MODEL = frozenset({"context_length_exceeded", "model_not_found"})
_DECODE = msgspec.json.Decoder()


def dialect_of(path: str) -> Dialect:
    """The shape of answers at `path`, which is what follows `/v1`; all under messages is Anthropic's."""
    return "messages" if path.startswith("/messages/") else _DIALECTS.get(path, "other")


def decode(data: bytes) -> dict[str, Any]:
    """The object in `data`, empty when there is none: what cannot be read is not observed."""
    try:
        value = _DECODE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def refuses_content(value: dict[str, Any]) -> bool:
    """Whether an error says that its policy forbids the content: whatever its status, the answer is no."""
    error = _error(value)
    return any(
        isinstance(said, str) and said in _REFUSES_CONTENT for said in (error.get("code"), error.get("type"))
    )


def wants_another_model(value: dict[str, Any]) -> bool:
    """Whether an error says that this model cannot serve the request, which another might."""
    code = _error(value).get("code")
    return isinstance(code, str) and code in _WANTS_ANOTHER_MODEL


def blames_request(value: dict[str, Any]) -> bool:
    """Whether an error is about what was asked: whatever its status, to ask there again gives the same."""
    return refuses_content(value) or wants_another_model(value)


def _error(value: dict[str, Any]) -> dict[str, Any]:
    """What is said of an error, in an object of its own or, as in an event of responses, beside its type."""
    return _object(value.get("error")) or value


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _number(value: dict[str, Any], *names: str) -> int | None:
    found = _first(value, names)
    return found if type(found) is int else None


def _is_shown(block: dict[str, Any]) -> bool:
    """Whether a block of an Anthropic answer says anything to the user."""
    if block.get("type") == "text":
        return bool(block.get("text"))
    return block.get("type") not in ("thinking", "redacted_thinking")


class Tokens(NamedTuple):
    """What an answer cost, as far as it says so."""

    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    cached: int | None = None


class Observation:
    """The facts of one answer, streamed or plain."""

    __slots__ = (
        "_ended",
        "_finished",
        "_open",
        "content",
        "dialect",
        "error",
        "finish",
        "usage",
        "visible",
    )

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.content = False
        """Generated output was seen: text, reasoning, a tool call, a refusal, audio."""
        self.visible = False
        """The same, without reasoning."""
        self.error: dict[str, Any] | None = None
        """An error inside the stream: the object of the event that brought it."""
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}
        self._ended = False
        self._open: set[Any] = set()
        self._finished: set[Any] = set()

    @property
    def complete(self) -> bool:
        """The terminal event was seen: the dialect's own, or an end of every choice seen so far."""
        return self._ended or (bool(self._open) and self._open == self._finished)

    @property
    def empty_answer(self) -> bool:
        """The budget was spent before anything visible was said."""
        return self.finish in _OUT_OF_BUDGET and not self.visible

    @property
    def tokens(self) -> Tokens:
        """The usage under one set of names; the APIs have two."""
        usage = self.usage
        spent, read = _object(_first(usage, _SPENT)), _object(_first(usage, _READ))
        return Tokens(
            prompt=_number(usage, "prompt_tokens", "input_tokens"),
            completion=_number(usage, "completion_tokens", "output_tokens"),
            reasoning=_number(spent, "reasoning_tokens"),
            cached=_number(read, "cached_tokens") or _number(usage, "cache_read_input_tokens"),
        )

    def read_event(self, event: Event) -> None:
        """Take in one event of a stream."""
        if event.data is None:
            self.content = self.visible = True
            self._ended = self._ended or event.name.decode("ascii", "replace") in _ENDS
            return
        if event.data == b"[DONE]":
            self._ended = self._ended or self.dialect == "chat"
            return
        value = decode(event.data)
        if value.get("error") or event.name == b"error" or value.get("type") == "error":
            self.error = value
        if self.dialect == "chat":
            self._read_chat(value)
        elif self.dialect == "messages":
            self._read_messages(value)
        elif self.dialect == "responses":
            self._read_responses(value)
        else:
            self.content = True

    def read_answer(self, body: bytes) -> None:
        """Take in a plain answer, whole."""
        value = decode(body)
        if self.dialect == "chat":
            self._read_chat(value)
        elif self.dialect == "messages":
            self._note(_object(value.get("usage")))
            self.finish = value.get("stop_reason")
            self.visible = any(_is_shown(block) for block in _objects(value.get("content")))
        elif self.dialect == "responses":
            self._read_response(value)

    def _read_chat(self, value: dict[str, Any]) -> None:
        self._note(_object(value.get("usage")))
        for choice in _objects(value.get("choices")):
            said = _object(choice.get("delta") or choice.get("message"))
            if choice.get("text") or any(said.get(name) for name in _VISIBLE):
                self.content = self.visible = True
            elif any(said.get(name) for name in _REASONING):
                self.content = True
            index = choice.get("index", 0)
            index = index if isinstance(index, int) else 0
            self._open.add(index)
            if choice.get("finish_reason") is not None:
                self._finished.add(index)
                self.finish = str(choice["finish_reason"])

    def _read_messages(self, value: dict[str, Any]) -> None:
        kind = value.get("type")
        if kind == "content_block_delta":
            delta = _object(value.get("delta"))
            if delta.get("text") != "":
                self.content = True
                reasons = delta.get("type") in ("thinking_delta", "signature_delta")
                self.visible = self.visible or not reasons
        elif kind == "content_block_start":
            block = _object(value.get("content_block"))
            if block.get("type") not in ("text", "thinking"):
                self.content = True
                self.visible = self.visible or _is_shown(block)
        elif kind == "message_start":
            self._note(_object(_object(value.get("message")).get("usage")))
        elif kind == "message_delta":
            self._note(_object(value.get("usage")))
            self.finish = _object(value.get("delta")).get("stop_reason") or self.finish
        elif kind == "message_stop":
            self._ended = True

    def _read_responses(self, value: dict[str, Any]) -> None:
        kind = str(value.get("type"))
        if kind.endswith(".delta"):
            self.content = True
            self.visible = self.visible or "reasoning" not in kind
        elif kind in _RESPONSE_ENDS:
            self._ended = True
            if kind == "response.failed":
                self.error = value
            self._read_response(_object(value.get("response")))

    def _read_response(self, response: dict[str, Any]) -> None:
        self._note(_object(response.get("usage")))
        self.visible = self.visible or any(
            item.get("type") != "reasoning" and (item.get("type") != "message" or item.get("content"))
            for item in _objects(response.get("output"))
        )
        self.finish = _object(response.get("incomplete_details")).get("reason") or self.finish

    def _note(self, usage: dict[str, Any]) -> None:
        self.usage.update({name: value for name, value in usage.items() if value is not None})


class EventTap:
    """Feeds a stream's bytes to an `Observation`; `on_content` is called once, at the first content."""

    __slots__ = ("_on_content", "_scanner", "error", "events", "first", "seen")

    def __init__(self, dialect: Dialect, on_content: Callable[[], None]) -> None:
        self._scanner = Scanner()
        self._on_content = on_content
        self.seen = Observation(dialect)
        self.events = 0
        self.first: Event | None = None
        self.error: Event | None = None
        """The event that told of an error."""

    @property
    def between_events(self) -> bool:
        """True when what was fed so far ends with an event, or a comment, and not inside one."""
        return self._scanner.between_events

    @property
    def opened_with_error(self) -> bool:
        """Whether the first event was one."""
        return self.error is not None and self.error is self.first

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream."""
        for event in self._scanner.feed(chunk):
            self.events += 1
            had_content = self.seen.content
            self.seen.read_event(event)
            self.first = self.first or event
            if self.error is None and self.seen.error is not None:
                self.error = event
            if self.seen.content and not had_content:
                self._on_content()
