"""When an answer is committed, where a route says something else than its first event."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.clocks import Clocks, Watch
from middlewares.commit import ready
from middlewares.exchange import Commit, CommitAt, Exchange, Reply, Sink
from middlewares.faults import TimeoutFault, UpstreamFault
from tests.middlewares.fakes import (
    UNHURRIED,
    FakeBody,
    FakeTimer,
    exchange_of,
    observed_reply,
    pumped,
    reply_of,
    settle,
)

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
ERROR = b'data: {"error":{"message":"overloaded","code":503}}\n\n'
CLAUDE_BEGINS = (
    b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
    b'data: {"type":"content_block_start","content_block":{"type":"text"}}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n'
)
CLAUDE_SAYS = b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n'
MODES: list[CommitAt] = ["headers", "first_event", "first_token", "complete"]
HOLDING: list[CommitAt] = ["first_event", "first_token", "complete"]

Step = bytes | asyncio.Event | BaseException


def committing(at: CommitAt, *, hold: int = 8 * 1024**2, path: str = "/chat/completions") -> Exchange:
    exchange = exchange_of(b'{"stream":true}', path=path)
    exchange.commit = Commit(at=at, hold=hold)
    return exchange


async def readied(at: CommitAt, *script: Step, hold: int = 8 * 1024**2, **head: Any) -> Reply:
    path = head.pop("path", "/chat/completions")
    exchange = committing(at, hold=hold, path=path)
    return await ready(exchange, observed_reply(exchange, reply_of(*script, **head)))


def provider(reply: Reply) -> FakeBody:
    """The provider's own body, before anything is made of it."""
    assert isinstance(reply.body, FakeBody)
    return reply.body


async def committed_after(at: CommitAt, *pieces: bytes, **more: Any) -> int:
    """How many of `pieces` had to come before it could be committed; each comes only once it is asked for."""
    body = FakeBody(*pieces, asyncio.Event())
    exchange = committing(at, **{k: more.pop(k) for k in ("hold", "path") if k in more})
    reply = reply_of(**more)
    reply.body = body
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, reply)))
    await settle(task)
    taken = len(pieces) + 1 - body.left
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return -1
    await task
    return taken


STREAM = (PING, ROLE, b": ping\n", TEXT[:30], TEXT[30:], TEXT, DONE)


@pytest.mark.parametrize(
    ("at", "taken"), [("headers", 0), ("first_event", 2), ("first_token", 5), ("complete", -1)]
)
async def test_each_mode_has_its_moment_in_a_stream(at: CommitAt, taken: int) -> None:
    assert await committed_after(at, *STREAM) == taken


@pytest.mark.parametrize(
    ("at", "taken"), [("headers", 0), ("first_event", 1), ("first_token", 1), ("complete", -1)]
)
@pytest.mark.parametrize("head", [{"kind": "application/json"}, {"headers": {"Content-Encoding": "gzip"}}])
async def test_each_mode_has_its_moment_in_another_answer(at: CommitAt, taken: int, head: Any) -> None:
    assert await committed_after(at, b"{", b"}", **head) == taken


@pytest.mark.parametrize("at", MODES)
async def test_only_headers_has_the_head_sent_by_itself(at: CommitAt) -> None:
    assert (await readied(at, *STREAM)).eager == (at == "headers")


@pytest.mark.parametrize(
    ("path", "before", "content"),
    [
        (
            "/messages",
            CLAUDE_BEGINS,
            CLAUDE_SAYS,
        ),
        (
            "/responses",
            b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n',
            b'event: x\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
        ),
        ("/chat/completions", ROLE, b'data: {"choices":[{"delta":{"reasoning_content":"Hm"}}]}\n\n'),
        ("/chat/completions", ROLE, b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'),
    ],
)
async def test_first_token_waits_for_content_in_the_words_of_each_endpoint(
    path: str, before: bytes, content: bytes
) -> None:
    assert await committed_after("first_token", before, content, content, path=path) == 2


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    parts = draw(
        st.lists(st.sampled_from([PING, ROLE, TEXT, b"data: {odd\n\n", b":\n", b"\xff\n"]), max_size=6)
    )
    whole = b"".join(parts) + b"\n" + TEXT + DONE
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=9)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]


@UNHURRIED
@given(streams(), st.sampled_from(MODES), st.sampled_from([1, 100, 8 * 1024**2]))
async def test_the_bytes_that_come_out_are_those_that_came_in(
    pieces: list[bytes], at: CommitAt, hold: int
) -> None:
    reply = await readied(at, *pieces, hold=hold)
    assert b"".join(await pumped(reply.body)) == b"".join(pieces)
    assert reply.seen is not None and reply.seen.complete


@UNHURRIED
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=6), st.sampled_from(MODES))
async def test_the_bytes_of_another_answer_come_out_as_they_came_in(
    pieces: list[bytes], at: CommitAt
) -> None:
    reply = await readied(at, *pieces, kind="audio/mpeg")
    assert b"".join(await pumped(reply.body)) == b"".join(pieces)


# ---- what is held is bounded


@pytest.mark.parametrize(("at", "piece"), [("first_event", PING), ("first_token", ROLE), ("complete", TEXT)])
async def test_past_its_bound_what_is_held_is_committed(at: CommitAt, piece: bytes) -> None:
    exactly = 3 * len(piece)
    assert await committed_after(at, *[piece] * 3, hold=exactly) == -1
    assert await committed_after(at, *[piece] * 5, hold=exactly) == 4
    assert await committed_after(at, *[piece] * 5, hold=exactly - 1) == 3


async def test_past_the_bound_the_rest_of_a_complete_answer_is_relayed_as_it_comes() -> None:
    later = asyncio.Event()
    reply = await readied("complete", TEXT, TEXT, later, TEXT, DONE, hold=len(TEXT))
    pieces: list[bytes] = []
    task = asyncio.create_task(reply.body.pump(pieces.append))
    await settle(task)
    assert b"".join(pieces) == TEXT * 2
    later.set()
    assert await task
    assert b"".join(pieces) == TEXT * 3 + DONE


async def test_an_error_past_the_bound_is_a_part_of_the_answer() -> None:
    reply = await readied("complete", TEXT, TEXT, ERROR, hold=len(TEXT))
    assert reply.status == 200
    assert reply.body.between_events is False, "held pieces are still to come"


# ---- an error among what is held


@pytest.mark.parametrize("at", HOLDING)
async def test_an_error_as_the_first_event_is_promoted(at: CommitAt) -> None:
    upstream = reply_of(PING, ERROR, asyncio.Event(), headers={"Retry-After": "7"})
    body = provider(upstream)
    exchange = committing(at)
    reply = await ready(exchange, observed_reply(exchange, upstream))
    assert (reply.status, reply.events, reply.headers["Retry-After"]) == (503, None, "7")
    assert b"".join(await pumped(reply.body)) == ERROR.removeprefix(b"data: ").strip()
    assert body.closed


async def test_headers_promotes_nothing() -> None:
    reply = await readied("headers", ERROR, DONE)
    assert (reply.status, await pumped(reply.body)) == (200, [ERROR, DONE])


@pytest.mark.parametrize(
    ("at", "before"), [("first_token", [ROLE, PING]), ("complete", [ROLE]), ("complete", [ROLE, TEXT, TEXT])]
)
async def test_a_later_error_is_promoted_too_while_everything_is_held(
    at: CommitAt, before: list[bytes]
) -> None:
    # The rest never comes: the error must be enough.
    reply = await readied(at, *before, ERROR, asyncio.Event())
    assert reply.status == 503
    assert TEXT not in b"".join(await pumped(reply.body))


async def test_an_error_after_the_first_content_is_only_observed() -> None:
    reply = await readied("first_token", ROLE, TEXT, ERROR, DONE)
    assert (reply.status, await pumped(reply.body)) == (200, [ROLE, TEXT, ERROR, DONE])
    assert reply.seen is not None and reply.seen.error is not None


async def test_an_error_in_words_only_commits_no_complete_answer_before_its_end() -> None:
    words = b"event: error\ndata: overloaded\n\n"
    upstream = reply_of(TEXT, words)
    body = provider(upstream)
    exchange = committing("complete")
    with pytest.raises(UpstreamFault) as caught:
        await ready(exchange, observed_reply(exchange, upstream))
    assert caught.value.code == "upstream_cut"
    assert body.closed


async def test_a_failed_response_is_an_answer_and_is_waited_for_to_its_end() -> None:
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"code":"x"}}}\n\n'
    assert await committed_after("complete", failed, PING, path="/responses") == -1
    reply = await readied("complete", failed, PING, path="/responses")
    assert (reply.status, await pumped(reply.body)) == (200, [failed + PING])


# ---- cut or stalled before it is committed


@pytest.mark.parametrize("end", ["cut", "reset", "no end"])
async def test_a_stream_that_breaks_off_before_it_is_complete_is_a_fault_and_nothing_was_shown(
    end: str,
) -> None:
    reset = UpstreamFault("upstream_cut", "It broke off.")
    script: list[Step] = [
        ROLE,
        *[TEXT] * 40,
        *([reset] if end == "reset" else [TEXT[:9]] if end == "cut" else []),
    ]
    upstream = reply_of(*script)
    body = provider(upstream)
    exchange = committing("complete")
    with pytest.raises(UpstreamFault) as caught:
        await ready(exchange, observed_reply(exchange, upstream))
    assert caught.value.code == "upstream_cut"
    assert body.closed


@pytest.mark.parametrize("kind", ["application/json", "audio/mpeg"])
async def test_another_answer_that_breaks_off_before_it_is_complete_is_a_fault(kind: str) -> None:
    with pytest.raises(UpstreamFault):
        await readied("complete", b'{"half":', UpstreamFault("upstream_cut", "cut"), kind=kind)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("clock", ["idle", "total"])
async def test_an_answer_that_stalls_before_it_is_complete_is_a_fault(kind: str, clock: str) -> None:
    timer = FakeTimer()
    exchange = committing("complete")
    exchange.watch = Watch(Clocks(connect=None, **{clock: 4.0}), timer)
    exchange.watch.start("total")
    upstream = reply_of(TEXT, TEXT, asyncio.Event(), kind=kind)
    body = provider(upstream)
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, upstream)))
    await settle(task)
    timer.advance(4)
    with pytest.raises(TimeoutFault) as caught:
        await task
    assert caught.value.clock == clock
    assert body.closed


async def test_under_first_token_a_stream_without_content_is_a_fault_when_its_clock_runs_out() -> None:
    timer = FakeTimer()
    exchange = committing("first_token")
    exchange.watch = Watch(Clocks(connect=None, first_token=3.0), timer)
    exchange.watch.start("first_token")
    task = asyncio.create_task(
        ready(exchange, observed_reply(exchange, reply_of(ROLE, PING, asyncio.Event())))
    )
    await settle(task)
    assert not task.done()
    timer.advance(3)
    with pytest.raises(TimeoutFault, match="first_token"):
        await task


@pytest.mark.parametrize("at", ["first_token", "complete"])
async def test_a_client_that_leaves_while_it_is_held_lets_go_of_the_upstream(at: CommitAt) -> None:
    upstream = reply_of(ROLE, asyncio.Event())
    body = provider(upstream)
    exchange = committing(at)
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, upstream)))
    await settle(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert body.closed


async def test_no_clock_is_left_running_after_a_complete_answer_was_held() -> None:
    timer = FakeTimer()
    exchange = committing("complete")
    exchange.watch = Watch(Clocks(connect=None, first_token=3.0, idle=4.0), timer)
    exchange.watch.start("first_token")
    reply = await ready(exchange, observed_reply(exchange, reply_of(ROLE, TEXT, DONE)))
    async with exchange.watch.guard():
        timer.advance(100)
        await asyncio.sleep(0)
    assert await pumped(reply.body) == [ROLE + TEXT + DONE]


# ---- many pieces


class Dripping(FakeBody):
    """A provider that sends two bytes at a time."""

    def __init__(self, stream: bytes) -> None:
        super().__init__()
        self._stream = stream
        self._at = 0

    async def pump(self, sink: Sink, /) -> bool:
        self._halted = False
        while self._at < len(self._stream):
            self._at += 2
            sink(self._stream[self._at - 2 : self._at])
            if self._halted:
                return False
        return True


FAILED = b'data: {"type":"response.failed","response":{"x":[' + b"1," * 100_000 + b"1]}}\n\n"


@pytest.mark.parametrize(
    ("at", "path", "before"),
    [
        ("first_token", "/chat/completions", b""),
        ("complete", "/chat/completions", b"event: error\ndata: words\n\n"),
        ("complete", "/responses", FAILED),
    ],
)
async def test_very_many_tiny_pieces_are_cheap(at: CommitAt, path: str, before: bytes) -> None:
    # A second or two; work that is quadratic in the pieces would take minutes.
    stream = before + ROLE * (512 * 1024 // len(ROLE)) + TEXT + DONE
    reply = reply_of()
    reply.body = Dripping(stream)
    exchange = committing(at, path=path)
    began = time.process_time()
    out = await pumped((await ready(exchange, observed_reply(exchange, reply))).body)
    assert time.process_time() - began < 20
    assert b"".join(out) == stream
    assert len(out) == 1 or at == "first_token"
