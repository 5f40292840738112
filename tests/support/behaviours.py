"""Ready-made behaviours for a scripted upstream: good answers, silence, and the ways an answer can break."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tests.support.completions import Completion, complete, prompt_tokens
from tests.support.wire import DONE, Behaviour, HeaderItems, Seen, Wire, sse_event

Event = bytes | Mapping[str, Any]


def answer(status: int, obj: Any, headers: HeaderItems | None = None) -> Behaviour:
    """A whole JSON answer."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.json(status, obj, headers)

    return behave


def stream(*events: Event, pause: float = 0.0, done: bool = True) -> Behaviour:
    """An event stream that ends properly, with `pause` seconds between its events; `done` adds [DONE]."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.sse(done=False)
        for index, event in enumerate((*events, DONE) if done else events):
            await wire.pause(pause if index else 0.0)
            await wire.chunk(sse_event(event))
        await wire.finish()

    return behave


def silent() -> Behaviour:
    """Take the request and never answer."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.client_gone()

    return behave


def head_then_silent() -> Behaviour:
    """The head of an event stream and nothing more."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.sse(done=False)
        await wire.client_gone()

    return behave


def cut_after(events: int, how: Literal["close", "reset", "unterminated"] = "close") -> Behaviour:
    """So many content events and then no more.

    `close` is a FIN and `reset` an RST, without the terminating chunk; `unterminated` ends the HTTP body
    properly and leaves out the terminal event ([DONE], finish_reason), which only the content tells.
    """

    async def behave(seen: Seen, wire: Wire) -> None:
        completion = Completion("", "simulated")
        await wire.sse(*(completion.event({"content": f"word{i} "}) for i in range(events)), done=False)
        if how == "close":
            wire.close()
        elif how == "reset":
            wire.reset()
        else:
            await wire.finish()

    return behave


def garbage() -> Behaviour:
    """Bytes that are no HTTP, and the end of the connection."""

    async def behave(seen: Seen, wire: Wire) -> None:
        await wire.raw(b"\x00\xffnot http\r\n\r\n")
        wire.close()

    return behave


def reset_before_head() -> Behaviour:
    """Take the request and reset the connection."""

    async def behave(seen: Seen, wire: Wire) -> None:
        wire.reset()

    return behave


def chat(text: str = "Hello from upstream", model: str | None = None, *, pause: float = 0.0) -> Behaviour:
    """A chat completion, whole or streamed as the request asks; the model is the request's unless given."""

    async def behave(seen: Seen, wire: Wire) -> None:
        body = seen.json()
        name = model or str(body.get("model", "simulated"))
        await complete(seen, wire, Completion(text, name, prompt_tokens(body)), pause=pause)

    return behave
