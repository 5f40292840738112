from __future__ import annotations

import msgspec
import pytest

from middlewares.envelope import Envelope
from middlewares.exchange import Unreadable
from middlewares.faults import ClientFault
from middlewares.prefix_rewrite import Options, PrefixRewrite
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of, sent


@pytest.mark.parametrize(
    ("options", "model", "seen"),
    [
        ({}, "kimi/k2", "k2"),
        ({}, "k2", "k2"),
        ({}, "kimi/kimi/k2", "kimi/k2"),
        ({}, "kimik2", "kimik2"),
        ({}, "Kimi/k2", "Kimi/k2"),
        ({}, "openai/kimi/k2", "openai/kimi/k2"),
        ({}, "kimi/moonshotai/kimi-k2:1t", "moonshotai/kimi-k2:1t"),
        ({}, "kimi/", ""),
        ({}, "", ""),
        ({}, "kimi/gpt-4 ", "gpt-4 "),
        ({}, 'kimi/"\\\n\x00é', '"\\\n\x00é'),
        ({"strip": ""}, "kimi/k2", "kimi/k2"),
        ({"strip": "vendor:"}, "vendor:k2", "k2"),
        ({"strip": "vendor:"}, "kimi/k2", "kimi/k2"),
        ({"add": "moonshotai/"}, "kimi/k2", "moonshotai/k2"),
        ({"add": "moonshotai/"}, "k2", "moonshotai/k2"),
        ({"strip": "", "add": "x/"}, "kimi/k2", "x/kimi/k2"),
        ({"map": {"k2": "kimi-for-coding"}}, "kimi/k2", "kimi-for-coding"),
        ({"map": {"k2": "kimi-for-coding"}}, "k2", "kimi-for-coding"),
        ({"map": {"kimi/k2": "never"}}, "kimi/k2", "k2"),
        ({"map": {"k2": "final"}, "add": "x/"}, "kimi/k2", "final"),
        ({"map": {"k2": "final"}, "add": "x/"}, "kimi/k3", "x/k3"),
        ({"map": {"a": "b", "b": "c"}}, "a", "b"),
        ({"map": {"k2": ""}}, "kimi/k2", ""),
    ],
)
async def test_the_upstream_sees_the_rewritten_model(options, model, seen):
    exchange = exchange_of(msgspec.json.encode({"stream": True, "model": model, "n": 1}))
    call_next = FakeNext()
    middleware = PrefixRewrite(Options(**options), deps_of())
    assert await middleware(exchange, call_next) is call_next.reply
    assert msgspec.json.decode(sent(exchange)) == {"stream": True, "model": seen, "n": 1}
    assert exchange.model == seen
    assert ("model" in exchange.changes) == (seen != model)


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "model" : "k2" }',
        b'{"n":1}',
        b'{"model":null}',
        b'{"model":7}',
        b'{"model":["kimi/k2"]}',
        b'{"model":{"kimi/k2":1}}',
        b"{}",
    ],
)
async def test_a_body_with_nothing_to_rewrite_goes_up_as_it_came(raw):
    exchange = exchange_of(raw)
    rename = {"None": "never", "7": "never"}
    await PrefixRewrite(Options(map=rename), deps_of())(exchange, FakeNext())
    assert sent(exchange) == raw
    assert exchange.changes == {}


async def test_a_request_without_a_body_passes():
    call_next = FakeNext()
    await PrefixRewrite(Options(add="x/"), deps_of())(exchange_of(None, path="/models"), call_next)
    assert call_next.calls == 1


async def test_a_body_that_cannot_be_read_is_refused_before_it_is_sent():
    call_next = FakeNext()
    body = Unreadable(b"{", ClientFault("invalid_json", "The body is not valid JSON."))
    with pytest.raises(ClientFault) as caught:
        await PrefixRewrite(Options(), deps_of())(exchange_of(body), call_next)
    assert caught.value.code == "invalid_json"
    assert call_next.calls == 0


async def test_the_change_is_told_by_old_and_new_name():
    exchange = exchange_of(b'{"model":"kimi/k2"}')
    await PrefixRewrite(Options(add="moonshotai/"), deps_of())(exchange, FakeNext())
    assert exchange.changes == {"model": ("kimi/k2", "moonshotai/k2")}


async def test_the_default_prefix_is_the_route_of_this_chain():
    exchange = exchange_of(b'{"model":"kimi/k2"}')
    await PrefixRewrite(Options(), deps_of(route="openrouter"))(exchange, FakeNext())
    assert sent(exchange) == b'{"model":"kimi/k2"}'


async def test_the_envelope_of_another_rung_is_not_touched():
    first = Envelope.parse(b'{"model":"kimi/k2"}')
    exchange = exchange_of(first.copy())
    await PrefixRewrite(Options(), deps_of())(exchange, FakeNext())
    assert sent(exchange) == b'{"model":"k2"}'
    assert first.encode() == b'{"model":"kimi/k2"}'
