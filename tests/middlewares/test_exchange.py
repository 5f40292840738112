from __future__ import annotations

import asyncio

import pytest

from middlewares.clocks import Clocks, Watch
from middlewares.exchange import Body, Unreadable, Upload
from middlewares.faults import ClientFault, TimeoutFault
from tests.middlewares.fakes import FakeTimer, exchange_of, sent


def unreadable() -> Unreadable:
    return Unreadable(b"{", ClientFault("invalid_json", "The body is not valid JSON."))


async def _nothing():
    return
    yield b""


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        (b'{"model":"k2"}', "k2"),
        (b'{"model":""}', ""),
        (b'{"model":"gpt-4 "}', "gpt-4 "),
        (b'{"model":"a\\u0000b"}', "a\x00b"),
        (b'{"model":"cheap","mod\\u0065l":"dear"}', "dear"),
        (b'{"model":null}', None),
        (b'{"model":7}', None),
        (b'{"model":["k2"]}', None),
        (b"{}", None),
        (None, None),
        (Upload(_nothing(), None), None),
    ],
)
def test_the_model_is_a_text_or_none(raw: bytes | Body, model):
    assert exchange_of(raw).model == model


@pytest.mark.parametrize(
    ("raw", "streaming"),
    [
        (b'{"stream":true}', True),
        (b'{"stream":false}', False),
        (b'{"stream":1}', False),
        (b'{"stream":"true"}', False),
        (b'{"stream":null}', False),
        (b'{"stream":true,"stream":false}', False),
        (b"{}", False),
        (None, False),
        (unreadable(), False),
        (Upload(_nothing(), 3), False),
    ],
)
def test_a_stream_is_asked_for_with_true_and_with_nothing_else(raw: bytes | Body, streaming):
    assert exchange_of(raw).streaming is streaming


@pytest.mark.parametrize("ask", [lambda exchange: exchange.fields, lambda exchange: exchange.model])
def test_an_unreadable_body_says_why_when_its_fields_are_asked_for(ask):
    with pytest.raises(ClientFault, match="not valid JSON"):
        ask(exchange_of(unreadable()))


def test_a_body_without_fields_has_none_and_no_changes():
    for body in (None, Upload(_nothing(), None)):
        exchange = exchange_of(body)
        exchange.rename_model("k2")
        assert exchange.fields is None
        assert exchange.changes == {}
    assert exchange_of(unreadable()).changes == {}


def test_a_renamed_model_is_what_goes_up_and_is_told():
    exchange = exchange_of(b'{"n":1,"model":"kimi/k2"}')
    exchange.rename_model("k2")
    assert exchange.model == "k2"
    assert sent(exchange) == b'{"n":1,"model":"k2"}'
    assert exchange.changes == {"model": ("kimi/k2", "k2")}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/chat/completions", "chat"),
        ("/messages", "messages"),
        ("/responses", "responses"),
        ("/files", "other"),
    ],
)
def test_the_dialect_is_that_of_the_client_s_path(path, dialect):
    assert exchange_of(path=path).dialect == dialect


async def test_the_head_stops_connect_and_first_byte_and_starts_idle():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=1.0, first_byte=2.0, idle=4.0), timer)
    exchange = exchange_of(watch=watch)
    watch.start("connect")
    watch.start("first_byte")
    assert exchange.head_at is None
    exchange.note_head()
    assert exchange.head_at is not None
    with pytest.raises(TimeoutFault, match="idle"):
        async with watch.guard():
            timer.advance(4)
            await asyncio.Event().wait()


async def test_content_stops_first_token_and_nothing_else():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, first_token=3.0, total=5.0), timer)
    exchange = exchange_of(watch=watch)
    watch.start("first_token")
    watch.start("total")
    assert exchange.content_at is None
    exchange.note_content()
    assert exchange.content_at is not None
    with pytest.raises(TimeoutFault, match="total"):
        async with watch.guard():
            timer.advance(5)
            await asyncio.Event().wait()
