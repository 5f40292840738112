"""`usage`: asking for it, counting it, and hiding what only we asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.commit import observed
from middlewares.exchange import Exchange, Reply
from middlewares.observation import Observation
from middlewares.usage import Options, Usage, WithoutUsage
from tests.middlewares.fakes import FakeBody, FakeNext, deps_of, exchange_of, reply_of

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
OTHERS = [
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n',
    b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}]}\r\n\r\n',
    b': comment with "usage"\n\n',
    b'data: {"choices":[],"usage":null}\n\n',
    b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3}}\n\n',
    b'event: x\rdata: {not json, "usage"}\r\r',
    b"data: [DONE]\n\n",
]


async def filtered(*pieces: bytes) -> bytes:
    body = WithoutUsage(FakeBody(*pieces))
    kept: list[bytes] = []
    assert await body.pump(kept.append)
    return b"".join(kept)


@given(st.lists(st.sampled_from([*OTHERS, USAGE]), max_size=8), st.lists(st.integers(1, 40), max_size=30))
async def test_only_the_usage_event_is_taken_out_for_any_chunking(
    events: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(events)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    pieces.append(data[start:])

    assert await filtered(*pieces) == b"".join(event for event in events if event != USAGE)


async def test_an_event_that_is_whole_is_handed_on_at_once_and_a_half_one_is_not() -> None:
    body = WithoutUsage(FakeBody(OTHERS[0] + USAGE[:20], USAGE[20:]))
    kept: list[bytes] = []

    def take(piece: bytes) -> None:
        kept.append(piece)
        body.halt()

    assert not await body.pump(take)
    assert kept == [OTHERS[0]]
    assert body.between_events
    assert await body.pump(kept.append)
    assert kept == [OTHERS[0]]


async def test_an_event_too_large_to_be_the_one_is_not_held() -> None:
    large = b'data: {"usage": "' + b"x" * 100_000
    body = WithoutUsage(FakeBody(large, b'"}\n\n' + USAGE + OTHERS[0]))
    kept: list[bytes] = []

    def take(piece: bytes) -> None:
        kept.append(piece)
        body.halt()

    assert not await body.pump(take)
    assert len(kept[0]) > 99_000
    assert not body.between_events
    assert await body.pump(kept.append)
    assert b"".join(kept) == large + b'"}\n\n' + OTHERS[0]


async def test_an_end_without_the_end_of_its_event_comes_out_as_it_is() -> None:
    assert await filtered(b"data: x\n\n", b"data: half") == b"data: x\n\ndata: half"


def asking(body: dict[str, Any], path: str = "/chat/completions") -> Exchange:
    return exchange_of(json.dumps(body).encode(), path=path)


def stream_reply() -> Reply:
    return observed(asking({"stream": True}), reply_of(USAGE))


def asked(options: Any) -> dict[str, Any]:
    return {"stream": True, "stream_options": options}


@pytest.mark.parametrize(
    ("body", "path", "options", "hidden"),
    [
        ({"stream": True}, "/chat/completions", {"include_usage": True}, True),
        ({"stream": True}, "/completions", {"include_usage": True}, True),
        ({"stream": True, "stream_options": None}, "/chat/completions", {"include_usage": True}, True),
        (asked({"x": 1}), "/chat/completions", {"x": 1, "include_usage": True}, True),
        (asked({"include_usage": True}), "/chat/completions", {"include_usage": True}, False),
        (asked({"include_usage": False}), "/chat/completions", {"include_usage": True}, True),
        ({"stream": True, "stream_options": 4}, "/chat/completions", 4, False),
        ({"stream": False}, "/chat/completions", None, False),
        ({}, "/chat/completions", None, False),
        ({"stream": True}, "/messages", None, False),
        ({"stream": True}, "/responses", None, False),
    ],
)  # fmt: skip
async def test_usage_is_asked_for_where_the_client_did_not_and_hidden_only_there(
    body: dict[str, Any], path: str, options: Any, hidden: bool
) -> None:
    exchange = asking(body, path)
    reply = await Usage(Options(), deps_of())(exchange, FakeNext(stream_reply()))

    assert exchange.fields is not None
    assert exchange.fields.value("stream_options") == options
    assert isinstance(reply.body, WithoutUsage) == hidden
    assert exchange.counts_usage


async def test_it_can_be_told_to_ask_for_nothing() -> None:
    exchange = asking({"stream": True})
    reply = await Usage(Options(include_usage=False), deps_of())(exchange, FakeNext(stream_reply()))

    assert exchange.fields is not None and exchange.fields.untouched
    assert not isinstance(reply.body, WithoutUsage)
    assert exchange.counts_usage


async def test_a_plain_error_in_place_of_the_stream_passes_as_it_is() -> None:
    refused = reply_of(b'{"error": {}}', status=400, kind="application/json")
    reply = await Usage(Options(), deps_of())(asking({"stream": True}), FakeNext(refused))

    assert isinstance(reply.body, FakeBody)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, (None, None, None, None)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, (3, 2, None, None)),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 9,
                "completion_tokens_details": {"reasoning_tokens": 7},
                "prompt_tokens_details": {"cached_tokens": 1},
            },
            (3, 9, 7, 1),
        ),
        (
            {
                "input_tokens": 4,
                "output_tokens": 6,
                "output_tokens_details": {"reasoning_tokens": 5},
                "input_tokens_details": {"cached_tokens": 2},
            },
            (4, 6, 5, 2),
        ),
        ({"input_tokens": 4, "output_tokens": 6, "cache_read_input_tokens": 2}, (4, 6, None, 2)),
        ({"prompt_tokens": "3", "completion_tokens": None, "completion_tokens_details": []}, (None,) * 4),
    ],
)
def test_the_two_sets_of_names_are_read_as_one(usage: dict[str, Any], tokens: tuple[int | None, ...]) -> None:
    seen = Observation("chat")
    seen.read_answer(json.dumps({"usage": usage, "choices": []}).encode())

    assert seen.tokens == tokens
