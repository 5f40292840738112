from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.problems import Invalid
from middlewares.exchange import Unreadable
from middlewares.faults import ClientFault
from middlewares.token_floor import Options, TokenFloor
from tests.middlewares.fakes import UNHURRIED, FakeNext, deps_of, exchange_of, sent

HUGE = "9" * 40
ENDPOINTS = ["/chat/completions", "/completions", "/messages", "/responses"]
FIELDS = ["max_tokens", "max_completion_tokens", "max_output_tokens"]


async def floored(options: dict[str, object], raw: str, path: str = "/chat/completions") -> str:
    exchange = exchange_of(raw.encode(), path=path)
    call_next = FakeNext()
    middleware = TokenFloor(msgspec.convert(options, Options), deps_of())
    assert await middleware(exchange, call_next) is call_next.reply
    return sent(exchange).decode()


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("options", "asked", "goes_up"),
    [
        ({"min": 1500}, "800", "1500"),
        ({"min": 1500}, "1", "1500"),
        ({"min": 1500}, "1499", "1500"),
        ({"min": 1500}, "1500", "1500"),
        ({"min": 1500}, "1501", "1501"),
        ({"min": 1500}, HUGE, HUGE),
        ({"cap": 4000}, "4001", "4000"),
        ({"cap": 4000}, "4000", "4000"),
        ({"cap": 4000}, "1", "1"),
        ({"cap": 4000}, "18446744073709551616", "4000"),
        ({"cap": 4000}, HUGE, "4000"),
        ({"min": 1500, "cap": 4000}, "800", "1500"),
        ({"min": 1500, "cap": 4000}, "2000", "2000"),
        ({"min": 1500, "cap": 4000}, "9000", "4000"),
        ({"min": 2000, "cap": 2000}, "1", "2000"),
        ({"min": 2000, "cap": 2000}, "9000", "2000"),
        ({"when_absent": 3000}, "5", "5"),
        ({"min": 1500, "when_absent": 3000}, "5", "1500"),
    ],
)
async def test_a_ceiling_is_brought_within_the_limits(path, field, options, asked, goes_up):
    assert await floored(options, f'{{"{field}":{asked}}}', path) == f'{{"{field}":{goes_up}}}'


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        f"-{HUGE}",
        "0.5",
        "800.0",
        "8e2",
        "1E9",
        '"800"',
        '""',
        "[800]",
        '{"value": 800}',
    ],
)
async def test_a_value_that_is_no_positive_integer_stays_for_the_api_to_refuse(field, value):
    raw = f'{{ "model": "m", "{field}": {value} }}'
    assert await floored({"min": 1500, "cap": 4000, "when_absent": 2000}, raw) == raw


@pytest.mark.parametrize(
    ("options", "raw", "goes_up"),
    [
        (
            {"min": 1500},
            '{"max_tokens":1,"max_completion_tokens":2,"max_output_tokens":3}',
            '{"max_tokens":1500,"max_completion_tokens":1500,"max_output_tokens":1500}',
        ),
        (
            {"min": 1500, "cap": 4000},
            '{"max_output_tokens":9000,"max_tokens":1,"max_completion_tokens":null}',
            '{"max_output_tokens":4000,"max_tokens":1500,"max_completion_tokens":null}',
        ),
        (
            {"min": 1500},
            '{"max_tokens":1, "temperature": 1E0 , "messages":[ {"max_tokens":1} ]}',
            '{"max_tokens":1500,"temperature":1E0,"messages":[ {"max_tokens":1} ]}',
        ),
        ({"min": 1500}, '{"max_tokens":1,"max_tokens":2}', '{"max_tokens":1500}'),
        ({"min": 1500}, '{"max_tokens":1,"max\\u005ftokens":9000}', '{"max_tokens":9000}'),
        ({"min": 1500}, '{"max\\u005ftokens":1}', '{"max_tokens":1500}'),
        ({"min": 1500}, '{"thinking":{"max_tokens":1}}', '{"thinking":{"max_tokens":1}}'),
        ({"min": 1500}, '{"Max_Tokens":1}', '{"Max_Tokens":1}'),
        ({"min": 1500}, "{ }", "{ }"),
    ],
)
async def test_each_of_the_three_fields_is_judged_and_nothing_else(options, raw, goes_up):
    assert await floored(options, raw) == goes_up


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/chat/completions", "max_tokens"),
        ("/completions", "max_tokens"),
        ("/messages", "max_tokens"),
        ("/responses", "max_output_tokens"),
    ],
)
async def test_a_request_without_a_ceiling_gets_the_endpoint_s_own_if_so_configured(path, field):
    added = f'{{"model":"m","{field}":2000}}'
    assert await floored({"when_absent": 2000}, '{"model":"m"}', path) == added
    assert await floored({"min": 1500, "cap": 4000, "when_absent": 2000}, '{"model":"m"}', path) == added
    assert await floored({"min": 1500}, '{"model": "m"}', path) == '{"model": "m"}'
    assert await floored({"cap": 1500, "when_absent": "leave"}, '{"model": "m"}', path) == '{"model": "m"}'


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["5000", "null", '"x"'])
async def test_nothing_is_added_beside_a_ceiling_of_any_kind(path, field, value):
    raw = f'{{"{field}": {value}}}'
    assert await floored({"when_absent": 2000}, raw, path) == raw


@pytest.mark.parametrize(
    "path",
    [
        "/embeddings",
        "/rerank",
        "/messages/count_tokens",
        "/messages/batches",
        "/responses/resp_1",
        "/chat/completions/",
        "/images/generations",
        "/not/yet/invented",
        "",
    ],
)
async def test_other_paths_are_left_alone(path):
    raw = '{"max_tokens": 1, "max_output_tokens": 99999}'
    assert await floored({"min": 1500, "cap": 4000, "when_absent": 2000}, raw, path) == raw
    assert await floored({"when_absent": 2000}, "{}", path) == "{}"


async def test_an_unreadable_body_is_refused_where_a_ceiling_must_be_read_and_passes_elsewhere():
    body = Unreadable(b"{", ClientFault("invalid_json", "The body is not valid JSON."))
    floor = TokenFloor(Options(min=1500), deps_of())
    call_next = FakeNext()
    with pytest.raises(ClientFault):
        await floor(exchange_of(body), call_next)
    assert call_next.calls == 0
    await floor(exchange_of(body, path="/files"), call_next)
    assert call_next.calls == 1


async def test_a_request_without_a_body_passes():
    call_next = FakeNext()
    await TokenFloor(Options(when_absent=1), deps_of())(exchange_of(None, path="/responses"), call_next)
    assert call_next.calls == 1


async def test_the_change_is_told_with_old_and_new_value():
    exchange = exchange_of(b'{"max_tokens":800}')
    await TokenFloor(Options(min=1500), deps_of())(exchange, FakeNext())
    assert exchange.changes == {"max_tokens": ("800", "1500")}
    exchange = exchange_of(b"{}")
    await TokenFloor(Options(when_absent=1500), deps_of())(exchange, FakeNext())
    assert exchange.changes == {"max_tokens": ("", "1500")}


@UNHURRIED
@given(
    asked=st.integers(),
    low=st.none() | st.integers(1, 10_000),
    room=st.none() | st.integers(0, 10_000),
)
def test_what_is_granted_lies_within_the_limits_and_is_granted_again(asked, low, room):
    high = None if room is None else (low or 1) + room
    floor = TokenFloor(Options(min=low, cap=high, when_absent=low or 1), deps_of())
    granted = floor.clamp(asked)
    if asked <= 0:
        assert granted == asked
    else:
        assert (low or 1) <= granted <= (high or max(asked, low or 1))
        assert granted == asked or granted in (low, high)
    assert floor.clamp(granted) == granted


@pytest.mark.parametrize(
    ("options", "message", "field"),
    [
        ({}, "token_floor does nothing: give it a 'min', a 'cap' or a 'when_absent'", None),
        ({"when_absent": "leave"}, "token_floor does nothing", None),
        ({"min": 1500, "cap": 1499}, "cap is below min", "cap"),
        ({"min": 1500, "when_absent": 1499}, "when_absent lies outside of min and cap", "when_absent"),
        ({"cap": 1500, "when_absent": 1501}, "when_absent lies outside", "when_absent"),
        ({"min": 1, "cap": 2, "when_absent": 3}, "when_absent lies outside", "when_absent"),
    ],
)
def test_options_that_do_not_fit_each_other_are_errors(options, message, field):
    with pytest.raises(Invalid) as caught:
        Options(**options)
    assert message in str(caught.value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "options",
    [
        {"min": 0},
        {"min": -1},
        {"min": 1.5},
        {"min": True},
        {"min": "1500"},
        {"cap": 0},
        {"when_absent": 0},
        {"when_absent": "drop"},
        {"minimum": 1},
    ],
)
def test_options_of_the_wrong_kind_are_errors(options):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, Options)


@pytest.mark.parametrize(
    "options",
    [
        {"min": 1},
        {"cap": 1},
        {"when_absent": 1},
        {"min": 5, "cap": 5, "when_absent": 5},
        {"min": 1500, "when_absent": 1500},
        {"cap": 4000, "when_absent": 4000},
    ],
)
def test_options_at_the_limits_are_fine(options):
    msgspec.convert(options, Options)
