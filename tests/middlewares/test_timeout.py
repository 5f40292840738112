from __future__ import annotations

import msgspec
import pytest

from middlewares.clocks import Clocks
from middlewares.timeout import Options, Timeout
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of, sent


@pytest.mark.parametrize(
    ("options", "clocks"),
    [
        ({}, Clocks(connect=10.0)),
        ({"connect": None}, Clocks(connect=None)),
        ({"connect": 0.5}, Clocks(connect=0.5)),
        ({"first_byte": 30.0}, Clocks(connect=10.0, first_byte=30.0)),
        ({"first_token": 60.0}, Clocks(connect=10.0, first_token=60.0)),
        ({"idle": 15.0}, Clocks(connect=10.0, idle=15.0)),
        ({"total": 600.0}, Clocks(connect=10.0, total=600.0)),
        (
            {"connect": 1.0, "first_byte": 2.0, "first_token": 3.0, "idle": 4.0, "total": 5.0},
            Clocks(connect=1.0, first_byte=2.0, first_token=3.0, idle=4.0, total=5.0),
        ),
    ],
)
def test_the_options_become_the_limits_of_the_clocks(options, clocks):
    assert Timeout(Options(**options), deps_of()).clocks == clocks


def test_without_the_middleware_connect_alone_is_limited():
    assert Clocks() == Timeout(Options(), deps_of()).clocks
    assert Clocks() == Clocks(connect=10.0, first_byte=None, first_token=None, idle=None, total=None)


def test_an_unknown_clock_is_an_error():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"read": 1.0}, Options)


async def test_the_link_in_the_chain_only_passes_on():
    exchange = exchange_of()
    before = sent(exchange), exchange.headers.copy()
    call_next = FakeNext()
    assert await Timeout(Options(total=1.0), deps_of())(exchange, call_next) is call_next.reply
    assert call_next.exchange is exchange
    assert (sent(exchange), exchange.headers) == before
