from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from middlewares import commit
from middlewares.clocks import Clocks, Watch
from middlewares.commit import observed, ready
from middlewares.exchange import Exchange, Reply
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

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAMS = {
    "/chat/completions": (TEXT, DONE),
    "/completions": (b'data: {"choices":[{"text":"Hi","finish_reason":null}]}\n\n', DONE),
    "/messages": (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
    "/responses": (
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
    ),
}
"""Content and terminal event of each endpoint that has one."""


async def readied(
    *script: bytes | asyncio.Event | BaseException, path: str = "/chat/completions", **head
) -> Reply:
    exchange = exchange_of(path=path)
    return await ready(exchange, observed_reply(exchange, reply_of(*script, **head)))


def source(reply: Reply) -> FakeBody:
    """The provider's body behind what was made of it."""
    assert isinstance(reply.body, commit.ObservedBody) and isinstance(reply.body._inner, FakeBody)
    return reply.body._inner


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses", "/not/yet/invented"])
async def test_a_stream_is_ready_with_its_first_whole_event(path):
    first, terminal = STREAMS.get(path, (TEXT, DONE))
    arrived = [asyncio.Event(), asyncio.Event()]
    script: list[bytes | asyncio.Event] = [
        first[:20],
        arrived[0],
        first[20:-1],
        arrived[1],
        first[-1:],
        asyncio.Event(),
        terminal,
    ]
    exchange = exchange_of(path=path)
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, reply_of(*script))))
    for one in arrived:
        await settle(task)
        assert not task.done()
        one.set()
    reply = await task
    assert source(reply).left == 2
    assert reply.events is not None and reply.events.events == 1


@pytest.mark.parametrize(
    "held", [b": ping\n", b": ping\n\n", b":\r\n\r\n", b"\n\n", b"event: x\n\n", b"id: 1\n\n"]
)
async def test_what_is_no_event_is_held_and_comes_out_with_the_first_one(held):
    arrived = asyncio.Event()
    exchange = exchange_of()
    upstream = reply_of(held, held, arrived, TEXT, DONE)
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, upstream)))
    await settle(task)
    assert not task.done()
    arrived.set()
    reply = await task
    assert await pumped(reply.body) == [held, held, TEXT, DONE]


async def test_events_that_came_together_come_out_together():
    reply = await readied(b": ping\n\n" + TEXT + STOP[:10], STOP[10:] + DONE)
    assert source(reply).left == 1
    assert await pumped(reply.body) == [b": ping\n\n" + TEXT + STOP[:10], STOP[10:] + DONE]


@st.composite
def chunkings(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A complete stream of one endpoint, with comments in it, in any pieces."""
    path = draw(st.sampled_from([*STREAMS, "/other"]))
    content, terminal = STREAMS.get(path, (TEXT, TEXT))
    parts = draw(
        st.lists(st.sampled_from([content, b": ping\n\n", b":\n", b"data: {odd\n\n", b"\xff\n"]), max_size=5)
    )
    stream = (
        b"".join(parts) + b"\n" + terminal + draw(st.sampled_from([b"", b"\n", b": bye\n", b"data: cut"]))
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return path, [piece for piece in pieces if piece]


@UNHURRIED
@given(chunkings())
@example(("/messages", [bytes([byte]) for byte in b"".join(STREAMS["/messages"])]))
async def test_the_bytes_that_come_out_are_those_that_came_in(case):
    path, pieces = case
    reply = await readied(*pieces, path=path)
    assert await pumped(reply.body) == pieces


@UNHURRIED
@given(
    st.lists(st.binary(min_size=1, max_size=9), max_size=5),
    st.sampled_from(["application/json", "audio/mpeg"]),
)
async def test_a_plain_answer_comes_out_as_it_came_in(pieces, kind):
    reply = await readied(*pieces, kind=kind)
    assert source(reply).left == max(0, len(pieces) - 1)
    assert await pumped(reply.body) == pieces


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"message": "m", "code": 429}}, 429),
        ({"error": {"message": "m", "status": 503}}, 503),
        ({"error": {"message": "m"}, "code": 402}, 402),
        ({"error": {"message": "m"}, "status": 400}, 400),
        ({"error": "overloaded", "code": 599}, 599),
        ({"error": "overloaded"}, 502),
        ({"error": {"message": "m"}}, 502),
        ({"error": {"code": "429"}}, 502),
        ({"error": {"code": "rate_limit_exceeded", "status": 429}}, 429),
        ({"error": {"code": 999}}, 502),
        ({"error": {"code": 600}}, 502),
        ({"error": {"code": 399}}, 502),
        ({"error": {"code": 200}}, 502),
        ({"error": {"code": 999, "status": 503}}, 503),
        ({"error": {"code": None, "status": 404}}, 404),
        ({"error": {"code": 429.0}}, 502),
        ({"error": {"code": True}}, 502),
        ({"error": {"code": [429]}}, 502),
        ({"error": ["x"]}, 502),
        ({"type": "error", "error": {"type": "overloaded_error"}}, 502),
        ({"type": "error", "message": "m", "code": "server_error"}, 502),
        ({"type": "error", "message": "m", "status": 529}, 529),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses", "/other"])
async def test_an_error_as_the_first_event_is_promoted_to_the_status_that_it_names(path, error, status):
    data = msgspec.json.encode(error)
    upstream = reply_of(
        b": ping\n\ndata: " + data + b"\n\n",
        asyncio.Event(),
        headers={"Cache-Control": "no-cache", "Content-Length": "1", "Retry-After": "7", "x-request-id": "r"},
    )
    body = upstream.body
    exchange = exchange_of(path=path)
    reply = await ready(exchange, observed_reply(exchange, upstream))
    assert (reply.status, reply.events) == (status, None)
    assert dict(reply.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        "Retry-After": "7",
        "x-request-id": "r",
    }
    assert await pumped(reply.body) == [data]
    assert isinstance(body, FakeBody) and body.closed


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        ({"error": {"code": "context_length_exceeded"}}, True),
        ({"error": {"code": "model_not_found"}}, True),
        ({"error": {"type": "content_filter"}}, True),
        ({"type": "error", "code": "context_length_exceeded"}, True),
        ({"error": {"code": "overloaded"}}, False),
        ({"error": {"code": ["model_not_found"]}}, False),
        ({"error": "overloaded"}, False),
    ],
)
async def test_a_promoted_error_says_whether_it_is_about_what_was_asked(error, blames):
    reply = await readied(b"data: " + msgspec.json.encode(error) + b"\n\n")
    assert (reply.status, reply.blames_request) == (502, blames)


@pytest.mark.parametrize(
    "first",
    [
        TEXT,
        b'data: {"error":null,"choices":[]}\n\n',
        b'data: {"error":{}}\n\n',
        b'data: {"error":""}\n\n',
        b'data: "error"\n\n',
        b'data: {"error":\n\n',
        b"data: [DONE]\n\n",
        b"data:\n\n",
    ],
)
async def test_what_is_no_error_is_not_promoted(first):
    reply = await readied(first, DONE)
    assert reply.status == 200
    assert await pumped(reply.body) == [first, DONE]


async def test_an_event_named_error_is_promoted_whatever_its_object_holds():
    reply = await readied(b'event: error\ndata: {"message":"overloaded","code":529}\n\n', path="/messages")
    assert reply.status == 529


async def test_an_error_after_the_first_event_is_only_observed():
    error = b'data: {"error":{"code":429}}\n\n'
    reply = await readied(TEXT, error, DONE)
    assert (reply.status, await pumped(reply.body)) == (200, [TEXT, error, DONE])
    assert reply.events is not None and reply.events.seen.error == {"error": {"code": 429}}


async def test_a_promoted_error_stops_the_clocks_of_the_stream():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, first_token=3.0, idle=4.0), timer)
    exchange = exchange_of(watch=watch)
    watch.start("first_token")
    upstream = reply_of(b'data: {"error":{"code":429}}\n\n')
    reply = await ready(exchange, observed_reply(exchange, upstream))
    async with watch.guard():
        timer.advance(100)
        await asyncio.sleep(0)
    assert reply.status == 429


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("before", [[], [b": ping\n\n"], [b"data: half"], [b"event: x\n\n"]])
async def test_a_stream_that_ends_before_its_first_event_was_cut(path, before):
    upstream = reply_of(*before)
    body = upstream.body
    exchange = exchange_of(path=path)
    with pytest.raises(UpstreamFault) as caught:
        await ready(exchange, observed_reply(exchange, upstream))
    assert (caught.value.code, caught.value.outcome) == ("upstream_cut", "cut")
    assert isinstance(body, FakeBody) and body.closed


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("last", [b"", b": bye\n\n", b"data: [DONE]", b"data: {"])
async def test_a_stream_without_its_terminal_event_was_cut_after_all_that_came_is_out(path, last):
    content, _ = STREAMS[path]
    script = [content, content, *([last] if last else [])]
    reply = await readied(*script, path=path)
    pieces: list[bytes] = []
    with pytest.raises(UpstreamFault, match="before it was complete") as caught:
        await reply.body.pump(pieces.append)
    assert caught.value.code == "upstream_cut"
    assert pieces == script


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_with_its_terminal_event_is_complete(path):
    script = STREAMS[path]
    reply = await readied(*script, path=path)
    assert await pumped(reply.body) == list(script)
    assert reply.seen is not None and reply.seen.complete


async def test_a_terminal_event_that_comes_with_the_first_counts():
    reply = await readied(TEXT + STOP)
    assert await pumped(reply.body) == [TEXT + STOP]


@pytest.mark.parametrize("path", ["/embeddings", "/audio/speech", "/not/yet/invented"])
@pytest.mark.parametrize("script", [[], [b": ping\n\n"], [TEXT], [TEXT, b"data: half"]])
async def test_on_other_paths_the_end_of_the_body_decides(path, script):
    reply = await readied(*script, path=path)
    assert await pumped(reply.body) == script


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "application/json"},
        {"kind": "text/plain"},
        {"kind": ""},
        {"status": 500},
        {"status": 404, "kind": "application/json"},
        {"headers": {"Content-Encoding": "gzip"}},
        {"headers": {"Content-Encoding": "br"}, "kind": "application/json"},
    ],
)
async def test_what_is_no_readable_stream_is_ready_with_its_first_byte(head):
    later = asyncio.Event()
    reply = await readied(b"{", later, b"}", **head)
    assert reply.events is None
    assert source(reply).left == 2
    later.set()
    assert await pumped(reply.body) == [b"{", b"}"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_an_empty_plain_answer_is_ready_at_its_end(kind):
    assert await pumped((await readied(kind=kind)).body) == []


@pytest.mark.parametrize("script", [[], [b": ping\n\n"], [TEXT]])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_fault_of_the_upstream_passes_and_lets_go_of_it(kind, script):
    reset = UpstreamFault("upstream_reset", "It broke off.")
    upstream = reply_of(*script, reset, kind=kind)
    body = upstream.body
    exchange = exchange_of()
    with pytest.raises(UpstreamFault) as caught:
        reply = await ready(exchange, observed_reply(exchange, upstream))
        await reply.body.pump(lambda piece: None)
    assert caught.value is reset
    committed = script == [TEXT] or (script and kind == "application/json")
    assert isinstance(body, FakeBody) and body.closed == (not committed)


async def test_a_cancellation_while_it_is_held_lets_go_of_the_upstream():
    upstream = reply_of(b": ping\n\n", asyncio.Event())
    body = upstream.body
    exchange = exchange_of()
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, upstream)))
    await settle(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(body, FakeBody) and body.closed


def timed(**limits: float) -> tuple[FakeTimer, Exchange]:
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, **limits), timer)
    exchange = exchange_of(b'{"stream":true}', watch=watch)
    watch.start("first_token")
    watch.start("total")
    return timer, exchange


async def test_first_token_runs_past_the_first_event_until_there_is_content():
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
    timer, exchange = timed(first_token=3.0)
    reply = await ready(exchange, observed_reply(exchange, reply_of(role, asyncio.Event())))
    task = asyncio.create_task(reply.body.pump(lambda piece: None))
    await settle(task)
    timer.advance(3)
    with pytest.raises(TimeoutFault, match="first_token"):
        await task
    assert exchange.content_at is None


async def test_first_token_is_stopped_by_content_and_content_is_noted():
    later = asyncio.Event()
    timer, exchange = timed(first_token=3.0)
    reply = await ready(exchange, observed_reply(exchange, reply_of(TEXT, later, DONE)))
    assert exchange.content_at is not None
    task = asyncio.create_task(reply.body.pump(lambda piece: None))
    await settle(task)
    timer.advance(100)
    later.set()
    assert await task


@pytest.mark.parametrize("head", [{"kind": "application/json"}, {"headers": {"Content-Encoding": "gzip"}}])
async def test_first_token_does_not_run_where_content_cannot_be_seen(head):
    later = asyncio.Event()
    timer, exchange = timed(first_token=3.0)
    upstream = reply_of(later, b"{}", **head)
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, upstream)))
    await settle(task)
    timer.advance(100)
    later.set()
    assert await pumped((await task).body) == [b"{}"]


async def test_idle_runs_from_the_head_and_every_byte_counts():
    timer, exchange = timed(idle=4.0)
    pings = [asyncio.Event() for _ in range(3)]
    script = [step for ping in pings for step in (ping, b": ping\n")]
    task = asyncio.create_task(ready(exchange, observed_reply(exchange, reply_of(*script, asyncio.Event()))))
    for ping in pings:
        await settle(task)
        timer.advance(3.999)
        ping.set()
    await settle(task)
    timer.advance(3.999)
    await settle(task)
    assert not task.done()
    timer.advance(0.001)
    with pytest.raises(TimeoutFault, match="idle"):
        await task


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_idle_ends_an_answer_that_stalls_after_its_beginning(kind):
    timer, exchange = timed(idle=4.0)
    reply = await ready(exchange, observed_reply(exchange, reply_of(TEXT, asyncio.Event(), kind=kind)))
    task = asyncio.create_task(reply.body.pump(lambda piece: None))
    await settle(task)
    timer.advance(4)
    with pytest.raises(TimeoutFault, match="idle"):
        await task


async def test_idle_starts_anew_when_the_client_reads_again():
    timer, exchange = timed(idle=4.0)
    reply = await ready(exchange, observed_reply(exchange, reply_of(TEXT, asyncio.Event())))
    task = asyncio.create_task(reply.body.pump(lambda piece: None))
    await settle(task)
    reply.body.pause()
    timer.advance(3)
    reply.body.resume()
    timer.advance(3.999)
    await settle(task)
    assert not task.done()
    timer.advance(0.001)
    with pytest.raises(TimeoutFault, match="idle"):
        await task


async def test_total_ends_an_answer_that_never_stalls():
    timer, exchange = timed(total=5.0, idle=4.0)
    script: list[bytes | asyncio.Event] = [TEXT]
    steps = [asyncio.Event() for _ in range(3)]
    for step in steps:
        script += [step, TEXT]
    reply = await ready(exchange, observed_reply(exchange, reply_of(*script)))
    task = asyncio.create_task(reply.body.pump(lambda piece: None))
    for step in steps[:2]:
        await settle(task)
        timer.advance(2)
        step.set()
    await settle(task)
    timer.advance(1)
    with pytest.raises(TimeoutFault, match="total"):
        await task


async def test_at_the_end_of_the_body_idle_has_done_its_work():
    timer, exchange = timed(idle=4.0)
    reply = await ready(exchange, observed_reply(exchange, reply_of(TEXT, DONE)))
    await pumped(reply.body)
    async with exchange.watch.guard():
        timer.advance(100)
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_halted_body_goes_on_where_it_stopped(kind):
    reply = await readied(TEXT, TEXT, STOP, DONE, kind=kind)
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if piece is STOP:
            reply.body.halt()

    assert not await reply.body.pump(take)
    assert pieces == [TEXT, TEXT, STOP]
    assert await reply.body.pump(take)
    assert pieces == [TEXT, TEXT, STOP, DONE]


async def test_a_body_can_be_halted_at_a_piece_that_was_held():
    reply = await readied(b": ping\n\n", TEXT, DONE)
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        reply.body.halt()

    assert not await reply.body.pump(take)
    assert pieces == [b": ping\n\n"]


async def test_backpressure_and_closing_reach_the_upstream():
    reply = await readied(TEXT, DONE)
    reply.body.pause()
    reply.body.resume()
    reply.body.close()
    assert source(reply).calls == ["pause", "resume"]
    assert source(reply).closed


async def test_what_is_held_is_bounded():
    comments = [b":" + b"c" * 65_535] * 200
    reply = await readied(*comments, b"\n", TEXT, DONE)
    assert source(reply).left > 3


@pytest.mark.parametrize(
    ("head", "path", "events", "seen"),
    [
        ({}, "/chat/completions", True, False),
        ({"kind": "text/event-stream; charset=utf-8"}, "/messages", True, False),
        ({"kind": "Text/Event-Stream"}, "/responses", True, False),
        ({"status": 201}, "/other", True, False),
        ({"kind": "application/json"}, "/chat/completions", False, True),
        ({"kind": "application/json; charset=utf-8"}, "/responses", False, True),
        ({"kind": "application/json"}, "/embeddings", False, False),
        ({"kind": "text/plain"}, "/chat/completions", False, False),
        ({"status": 400}, "/chat/completions", False, False),
        ({"status": 500, "kind": "application/json"}, "/chat/completions", False, False),
        ({"headers": {"Content-Encoding": "gzip"}}, "/chat/completions", False, False),
        ({"headers": {"content-encoding": "br"}, "kind": "application/json"}, "/messages", False, False),
    ],
)
def test_an_answer_is_observed_if_it_is_a_readable_success(head, path, events, seen):
    exchange = exchange_of(path=path)
    reply = reply_of(**head)
    assert observed(exchange, reply) is reply
    assert (reply.events is not None, reply.seen is not None) == (events, seen)
    for observer in (reply.events.seen if reply.events else None, reply.seen):
        assert not observer or observer.dialect == exchange.dialect


async def test_a_plain_answer_is_read_at_its_end():
    answer = (
        b'{"choices":[{"message":{"content":null},"finish_reason":"length"}],"usage":{"prompt_tokens":9}}'
    )
    reply = await readied(answer[:30], answer[30:], kind="application/json")
    assert reply.seen is not None and not reply.seen.empty_answer
    await pumped(reply.body)
    assert reply.seen.empty_answer and reply.seen.finish == "length"
    assert reply.seen.usage == {"prompt_tokens": 9}


async def test_a_plain_answer_that_is_too_large_is_relayed_and_not_read(monkeypatch):
    monkeypatch.setattr(commit, "_OBSERVED_AT_MOST", 10)
    script = [b'{"a":', b'"12345"}', b" " * 9]
    reply = await readied(*script, kind="application/json")
    assert reply.seen is not None
    assert await pumped(reply.body) == script
    assert reply.seen is None


async def test_a_plain_answer_just_within_the_limit_is_read(monkeypatch):
    answer = b'{"usage":{"prompt_tokens":9}}'
    monkeypatch.setattr(commit, "_OBSERVED_AT_MOST", len(answer))
    reply = await readied(answer, kind="application/json")
    await pumped(reply.body)
    assert reply.seen is not None and reply.seen.usage == {"prompt_tokens": 9}
