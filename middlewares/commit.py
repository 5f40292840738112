"""What is held back until an answer may be committed, and whether it came to its end.

A reply leaves the chain only when it is worth sending, by default a stream with its first whole event
and any other answer with its first byte; a route's `stream` can have it sooner or later. Until then a
failure is an error that can still be told as one, and that a retry or a ladder may mend. An error
event among what is held back is promoted to the status that it names.

The body that `ready` returns keeps the clocks of the rest of the answer, feeds its observers, and
raises `upstream_cut` at the end of a stream that never said that it was complete.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack

from multidict import CIMultiDict

from middlewares.bodies import FixedBody
from middlewares.exchange import Commit, CommitAt, Exchange, Reply, ReplyBody, Sink
from middlewares.faults import UpstreamFault
from middlewares.observation import EventTap, Observation, blames_request, decode
from middlewares.sse import Event

_OF_THE_STREAM = frozenset({"content-type", "content-length", "cache-control"})
_OBSERVED_AT_MOST = 1024 * 1024
"""Bytes of a plain answer that are kept to be observed; a larger one is only relayed."""


async def ready(exchange: Exchange, reply: Reply) -> Reply:
    """Wait until `reply` may be committed. Raises UpstreamFault or TimeoutFault."""
    body = ObservedBody(exchange, reply)
    reply.body = body
    if reply.events is None:
        exchange.watch.stop("first_token")
    if exchange.commit.at == "headers":
        reply.eager = True
        return reply
    with ExitStack() as undo:
        # At once, and not with the exchange: another attempt may follow.
        undo.callback(body.close)
        await body.hold(exchange.commit)
        undo.pop_all()
    opened = reply.events is None or reply.events.opened_with_error
    # Behind an event that is good it is no answer of its own, whether or not both came in one piece.
    promoted = _promoted(reply.events) if opened or exchange.commit.at != "first_event" else None
    if promoted is not None:
        body.close()
        exchange.watch.stop("first_token", "idle")
        promoted.headers.extend(
            (name, value) for name, value in reply.headers.items() if name.lower() not in _OF_THE_STREAM
        )
        return promoted
    return reply


def _promoted(events: EventTap | None) -> Reply | None:
    """The error among the events that are held back, as an answer of its own."""
    told = events.error if events is not None else None
    if told is None or told.data is None:
        return None
    value = decode(told.data)
    if not value:
        return None  # an error in words only: there is no body to give it
    if value.get("type") == "response.failed":
        return None  # an answer of its own kind, whole, and not a refusal to answer
    error = value.get("error")
    named = [error.get("code"), error.get("status")] if isinstance(error, dict) else []
    named += [value.get("code"), value.get("status")]
    status = next((n for n in named if type(n) is int and 400 <= n <= 599), 502)
    headers = CIMultiDict({"Content-Type": "application/json", "Content-Length": str(len(told.data))})
    return Reply(status, headers, FixedBody(told.data), blames_request=blames_request(value))


class ObservedBody:
    """A reply's body with what was held of it in front, under its exchange's clocks."""

    __slots__ = (
        "_answer",
        "_ended",
        "_events",
        "_exchange",
        "_halted",
        "_held",
        "_inner",
        "_reply",
        "_size",
        "_unpromoted",
    )

    def __init__(self, exchange: Exchange, reply: Reply) -> None:
        self._exchange = exchange
        self._reply = reply
        self._inner: ReplyBody = reply.body
        self._events = reply.events
        self._held: deque[bytes] = deque()
        self._ended = False
        self._halted = False
        self._size = 0
        self._unpromoted: Event | None = None
        self._answer: list[bytes] | None = [] if reply.seen is not None else None
        if self._events is not None:
            reply.seen = self._events.seen

    @property
    def between_events(self) -> bool:
        """Only of what was observed, and of all of it."""
        return self._events is not None and self._events.between_events and not self._held

    async def hold(self, commit: Commit) -> None:
        """Keep what arrives until the answer may be committed."""
        size = 0

        def keep(chunk: bytes) -> None:
            nonlocal size
            self._held.append(chunk)
            self._observe(chunk)
            size += len(chunk)
            if size > commit.hold or self._may_go(commit.at):
                self._inner.halt()

        await self._pump(keep)
        if commit.at == "complete" and len(self._held) > 1:
            # It may be very many small pieces, and they all go out together.
            self._held = deque([b"".join(self._held)])

    def _may_go(self, at: CommitAt) -> bool:
        events = self._events
        if events is None:
            return at != "complete"
        if at == "first_event":
            return events.events > 0
        # Nothing is sent yet: an error need not become a part of the answer.
        if at == "first_token":
            return events.seen.content or events.error is not None
        if events.error is None or self._unpromoted is events.error:
            return False
        if _promoted(events) is None:
            self._unpromoted = events.error  # asked once: many pieces may follow
            return False
        return True

    async def pump(self, sink: Sink) -> bool:
        """What was held, then the rest as it arrives."""
        self._halted = False
        while self._held:
            sink(self._held.popleft())
            if self._halted:
                return False
        if self._ended:
            return True

        def pass_on(chunk: bytes) -> None:
            self._observe(chunk)
            sink(chunk)

        return await self._pump(pass_on)

    def halt(self) -> None:
        """Stop after this piece."""
        self._halted = True
        self._inner.halt()

    def pause(self) -> None:
        """Stop asking for more."""
        self._inner.pause()

    def resume(self) -> None:
        """Go on after `pause`. It was the client's turn until now; here the upstream's begins."""
        self._exchange.watch.start("idle")
        self._inner.resume()

    def close(self) -> None:
        """Let go of the upstream."""
        self._inner.close()

    async def _pump(self, sink: Sink) -> bool:
        watch = self._exchange.watch
        async with watch.guard():
            self._ended = await self._inner.pump(sink)
        if self._ended:
            watch.stop("first_token", "idle")
            self._end()
        return self._ended

    def _observe(self, chunk: bytes) -> None:
        self._exchange.watch.start("idle")
        if self._events is not None:
            self._events.feed(chunk)
        elif self._answer is not None:
            self._size += len(chunk)
            if self._size > _OBSERVED_AT_MOST:
                self._answer = None
                self._reply.seen = None
            else:
                self._answer.append(chunk)

    def _end(self) -> None:
        if self._events is not None:
            seen = self._events.seen
            if seen.dialect != "other" and not seen.complete:
                raise UpstreamFault("upstream_cut", "The provider ended the stream before it was complete.")
        elif self._answer is not None and self._reply.seen is not None:
            self._reply.seen.read_answer(b"".join(self._answer))


def observed(exchange: Exchange, reply: Reply) -> Reply:
    """Give `reply` the observers that its content type allows.

    An encoded answer passes unobserved, and so does everything that is not a success.
    """
    if not 200 <= reply.status < 300:
        return reply
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    streams = kind == "text/event-stream"
    tells = kind == "application/json" and exchange.dialect != "other"
    if reply.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        reply.unobserved = streams or tells
    elif streams:
        reply.events = EventTap(exchange.dialect, exchange.note_content)
        # A stream that is cut ends with an event of ours, for which a length would leave no room.
        reply.headers.popall("Content-Length", None)
    elif tells:
        reply.seen = Observation(exchange.dialect)
    return reply
