from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from middlewares.clocks import Clocks, Watch
from middlewares.exchange import Exchange, Reply, Upload
from middlewares.faults import ClientFault, Fault, Refusal, TimeoutFault, UpstreamFault
from middlewares.retry_options import Backoff, Options
from middlewares.waits import asked_to_wait
from tests.middlewares.fakes import UNHURRIED, FakeBody, FakeTimer, exchange_of, pumped
from tests.middlewares.retries import CONNECT, CUT, RESET, Rest, answer, made


def raises_if(wanted: bool) -> AbstractContextManager[object]:
    return pytest.raises(UpstreamFault) if wanted else nullcontext()


@pytest.mark.parametrize("first", [CONNECT, RESET, CUT, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_tried_again_from_the_request_as_it_was(first: Fault | int) -> None:
    rest = Rest(first if isinstance(first, Fault) else answer(first), answer(200))
    exchange = exchange_of(headers=[("X-Own", "1")])
    reply = await made()(exchange, rest)

    assert reply.status == 200 and "x-should-retry" not in reply.headers
    assert rest.bodies == [b'{"model":"kimi/k2"}'] * 2
    assert rest.headers == [{"X-Own": "1"}] * 2
    assert rest.let_go == [True, False]
    assert rest.held_at_start == [0, 0], "an attempt began while the one before held something"
    await exchange.stack.aclose()
    assert rest.let_go == [True, True]


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 408, 422, 501, 505])
async def test_what_will_not_pass_is_final(status: int) -> None:
    rest = Rest(answer(status))
    reply = await made()(exchange_of(), rest)

    assert (reply.status, rest.calls) == (status, 1)
    assert "x-should-retry" not in reply.headers


@pytest.mark.parametrize(
    "fault",
    [
        TimeoutFault("first_byte", "late"),
        TimeoutFault("connect", "late"),
        Refusal("key_missing", "no key"),
        Refusal("breaker_open", "open"),
        ClientFault("invalid_json", "what"),
        UpstreamFault("upstream_protocol", "not HTTP"),
    ],
    ids=lambda fault: fault.code,
)
async def test_a_fault_that_another_call_would_not_mend_is_final(fault: Fault) -> None:
    rest = Rest(fault)
    with pytest.raises(type(fault)) as caught:
        await made()(exchange_of(), rest)

    assert caught.value is fault and rest.calls == 1
    assert not fault.spent


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("bad", [500, RESET])
async def test_there_are_so_many_calls_the_first_included(attempts: int, bad: int | Fault) -> None:
    rest = Rest(bad if isinstance(bad, Fault) else answer(bad))
    retry = made(attempts=attempts)
    if isinstance(bad, Fault):
        with pytest.raises(UpstreamFault) as caught:
            await retry(exchange_of(), rest)
        spent = caught.value.spent
        assert ("x-should-retry", "false") in caught.value.headers or attempts == 1
    else:
        reply = await retry(exchange_of(), rest)
        spent = reply.headers.get("x-should-retry") == "false"

    assert rest.calls == attempts
    assert spent == (attempts > 1)


@pytest.mark.parametrize(
    ("when", "bad", "calls"),
    [
        (("connect",), CONNECT, 3),
        (("connect",), RESET, 1),
        (("reset",), CUT, 3),
        (("rate_limited",), 500, 1),
        (("rate_limited",), 429, 3),
        (("server_error",), 429, 1),
        ((), 500, 1),
    ],
)
async def test_only_what_the_table_names_is_tried_again(
    when: tuple[str, ...], bad: int | Fault, calls: int
) -> None:
    rest = Rest(bad if isinstance(bad, Fault) else answer(bad))
    with raises_if(isinstance(bad, Fault)):
        await made(when=when)(exchange_of(), rest)

    assert rest.calls == calls


async def test_an_upload_is_never_sent_twice() -> None:
    async def pieces() -> Any:
        yield b"x"

    class Once(Rest):
        async def __call__(self, exchange: Exchange) -> Reply:
            self.bodies.append(b"")
            return answer(500)

    rest = Once(answer(500))
    reply = await made()(exchange_of(Upload(pieces(), None)), rest)

    assert (reply.status, rest.calls) == (500, 1)


async def test_retry_after_is_waited_for_in_seconds_and_in_dates() -> None:
    for header in ({"Retry-After": "0.05"}, {"retry-after-ms": "50", "Retry-After": "9"}):
        began = time.monotonic()
        await made()(exchange_of(), Rest(answer(429, **header), answer(200)))
        assert time.monotonic() - began >= 0.05

    soon = asked_to_wait(CIMultiDict({"Retry-After": formatdate(time.time() + 30, usegmt=True)}))
    past = asked_to_wait(CIMultiDict({"Retry-After": formatdate(time.time() - 30, usegmt=True)}))
    assert soon is not None and 28 <= soon <= 30
    assert past == 0


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1e400", "Wed, 99 Foo 2026 00:00:00 GMT"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str) -> None:
    assert asked_to_wait(CIMultiDict({"Retry-After": value})) is None


async def test_a_wait_that_is_too_long_is_the_clients_to_decide() -> None:
    rest = Rest(answer(429, **{"Retry-After": "61"}), answer(200))
    reply = await made()(exchange_of(), rest)

    assert (reply.status, rest.calls) == (429, 1)
    assert reply.headers["Retry-After"] == "61" and "x-should-retry" not in reply.headers


async def test_a_wait_longer_than_the_backoff_is_not_begun_while_another_route_is_left() -> None:
    rest = Rest(answer(429, **{"Retry-After": "0.05"}), answer(200))
    exchange = exchange_of()
    exchange.more_rungs = True
    reply = await made()(exchange, rest)

    assert (reply.status, rest.calls) == (429, 1)


@pytest.mark.parametrize("bad", [RESET, 429, 500])
async def test_a_wait_that_total_would_not_see_the_end_of_is_not_begun(bad: int | Fault) -> None:
    timer = FakeTimer()
    exchange = exchange_of(watch=Watch(Clocks(total=1.0), timer))
    exchange.watch.start("total")
    timer.now += 0.5
    slow = Backoff(initial=0.6, max=0.6)
    rest = Rest(bad if isinstance(bad, Fault) else answer(bad))
    with raises_if(isinstance(bad, Fault)):
        await made(backoff=slow)(exchange, rest)

    assert rest.calls == 1
    assert not isinstance(bad, Fault) or not bad.spent


async def test_no_clock_of_an_attempt_runs_during_the_wait() -> None:
    timer = FakeTimer()
    clocks = Clocks(connect=1.0, first_byte=1.0, first_token=1.0, idle=1.0, total=9.0)
    exchange = exchange_of(watch=Watch(clocks, timer))
    for clock in ("total", "connect", "first_byte", "first_token", "idle"):
        exchange.watch.start(clock)
    left: list[float | None] = []

    class Look(Rest):
        async def __call__(self, exchange: Exchange) -> Reply:
            left.extend(exchange.watch.left(clock) for clock in ("connect", "first_byte", "idle"))
            return await super().__call__(exchange)

    await made()(exchange, Look(answer(500), answer(200)))

    assert left == [1.0] * 3 + [None] * 3
    assert exchange.watch.left("total") == 9.0


async def test_a_refused_answers_body_is_closed_before_the_next_call() -> None:
    bad = answer(500)
    body = bad.body
    await made()(exchange_of(), Rest(bad, answer(200)))

    assert isinstance(body, FakeBody) and body.closed


async def test_leaving_while_it_waits_leaves_nothing_behind() -> None:
    exchange = exchange_of()
    rest = Rest(answer(500))
    task = asyncio.create_task(made(backoff=Backoff(initial=30, max=30))(exchange, rest))
    while rest.calls < 1 or rest.let_go != [True]:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert rest.calls == 1


@UNHURRIED
@given(st.floats(0, 1), st.floats(0.001, 5), st.floats(0.001, 60), st.integers(1, 12))
def test_the_backoff_is_full_jitter_under_a_doubling_bound(
    chance: float, initial: float, highest: float, made_calls: int
) -> None:
    from middlewares.retry import _Policy

    options = Options(backoff=Backoff(initial=initial, max=highest))
    policy = _Policy(options, exchange_of(), lambda: chance)

    assert policy._backoff(made_calls) == chance * min(highest, initial * 2 ** (made_calls - 1))


@pytest.mark.parametrize("code", ["context_length_exceeded", "model_not_found", "content_policy_violation"])
@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_error_about_what_was_asked_is_final_whatever_its_status(status: int, code: str) -> None:
    said = b'{"error": {"message": "no", "code": "%s"}}' % code.encode()
    rest = Rest(answer(status, said[:9], said[9:]), answer(200))
    reply = await made()(exchange_of(), rest)

    assert (reply.status, await pumped(reply.body), rest.calls) == (status, [said], 1)
    assert "x-should-retry" not in reply.headers


async def test_what_is_final_after_another_call_is_not_spent() -> None:
    rest = Rest(answer(500), answer(502, b'{"error": {"code": "model_not_found"}}'))
    reply = await made()(exchange_of(), rest)

    assert (reply.status, rest.calls) == (502, 2)
    assert "x-should-retry" not in reply.headers


async def test_an_error_inside_a_stream_about_what_was_asked_is_final() -> None:
    promoted = answer(502)
    promoted.blames_request = True
    rest = Rest(promoted, answer(200))
    reply = await made()(exchange_of(), rest)

    assert (reply.status, rest.calls) == (502, 1)
