"""The ways of rung `a` and its like to answer badly."""

from __future__ import annotations

from tests.rescue.caller import Shown
from tests.rescue.rungs import events, plain
from tests.support.upstream import Behaviour, Seen, Wire, answer, sse_event

_LATE_S = 8.0
"""Longer than every clock: nobody waits for it to be over."""
_STREAM = {"Content-Type": "text/event-stream"}


def refusal(status: int, code: str, *, wait: str | None = None) -> Behaviour:
    """An error, with a length; `wait` is its Retry-After."""
    told = {"error": {"message": "no", "type": "x", "param": None, "code": code}}
    return answer(status, told, None if wait is None else {"Retry-After": wait})


def opens_with(code: int | str) -> Behaviour:
    """A stream whose first event is an error."""
    return says(sse_event({"error": {"message": "no", "code": code}}))


def says(body: bytes) -> Behaviour:
    """A stream that is what it is, and ends properly."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        await wire.chunk(body)
        await wire.finish()

    return behave


def late(rung: str, opening_events: int) -> Behaviour:
    """The head and so many events at once, a good answer much later."""
    opening = b"".join(events(rung)[:opening_events])

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        if opening:
            await wire.chunk(opening)
        await wire.pause(_LATE_S)
        await wire.chunk(b"".join(events(rung)[opening_events:]))
        await wire.finish()

    return behave


def cut(rung: str, tokens: int, shown: Shown, *, and_half: bool = False) -> Behaviour:
    """So many tokens, maybe half of one more, and the end of the connection."""
    sent = b"".join(events(rung)[: tokens + 1])
    if and_half:
        sent += events(rung)[tokens + 1][:20]

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        await wire.chunk(sent)
        await shown.all_of(len(sent))
        wire.close()

    return behave


def cut_after_usage(rung: str, tokens: int, shown: Shown) -> Behaviour:
    """So many tokens, what they cost, and the end of the connection."""
    sent = b"".join([*events(rung)[: tokens + 1], events(rung)[-2]])

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        await wire.chunk(sent)
        await shown.all_of(len(sent))
        wire.close()

    return behave


def stalled(rung: str, tokens: int, *, and_half: bool = False) -> Behaviour:
    """So many tokens, maybe half of one more, and silence."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        for event in events(rung)[: tokens + 1]:
            await wire.chunk(event)
        if and_half:
            await wire.chunk(events(rung)[tokens + 1][:20])
        await wire.client_gone()

    return behave


def ends_early(rung: str, shown: Shown) -> Behaviour:
    """Every token and a proper end of the body, with nothing that says that the answer is complete."""
    sent = b"".join(events(rung)[:-3])

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        await wire.chunk(sent)
        await shown.all_of(len(sent))
        await wire.finish()

    return behave


def unterminated(rung: str, shown: Shown) -> Behaviour:
    """Every event, [DONE] too, and the end of the connection instead of the body's."""
    sent = b"".join(events(rung))

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, _STREAM)
        await wire.chunk(sent)
        await shown.all_of(len(sent))
        wire.close()

    return behave


def cut_plain(rung: str, shown: Shown) -> Behaviour:
    """Half of the Content-Length, and the end of the connection."""
    body = plain(rung)
    half = body[: len(body) // 2]

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        await wire.raw(half)
        await shown.all_of(len(half))
        wire.close()

    return behave


def _events(rung: str) -> list[bytes]:
    return events(rung)


_GOOD = events("a")
MANGLED = b"".join([*_GOOD[:30], b'data: {"choices": [\n\n', *_GOOD[30:]])
NO_DONE = b"".join(_GOOD[:-1])
