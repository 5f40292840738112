"""A breaker that stands after `retry`: what the caller is told when it opens between two calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from middlewares.breaker import Breaker
from middlewares.breaker import Options as BreakerOptions
from middlewares.clocks import Clocks, Watch
from middlewares.exchange import Exchange, Handler, Reply
from middlewares.faults import Fault, Refusal, TimeoutFault, UpstreamFault
from tests.middlewares.fakes import FakeBody, FakeTimer, deps_of, exchange_of, pumped, settle
from tests.middlewares.retries import RESET, Rest, Step, answer, made

QUOTA = b'{"error": "you have reached your session usage limit"}'
HELD = 64 * 1024


class Scene:
    """A retry around a breaker around what answers; the breaker opens with so many failures.

    `let_go` tells of each run of what stands after `retry` whether all that it held was given back.
    """

    def __init__(self, *steps: Step, failures: int = 1, on_wait: Callable[[], None] = lambda: None) -> None:
        self.rest = Rest(*steps)
        self.let_go: list[bool] = []
        self.breaker = Breaker(BreakerOptions(failures=failures), deps_of())
        self._on_wait = on_wait
        self._retry = made(chance=self._chance)
        self.exchange = exchange_of()

    def _chance(self) -> float:
        self._on_wait()
        return 1.0

    async def ask(self, exchange: Exchange | None = None) -> Reply:
        return await self._retry(exchange or self.exchange, self._guarded(self.rest))

    def _guarded(self, rest: Handler) -> Handler:
        async def call(exchange: Exchange) -> Reply:
            number = len(self.let_go)
            self.let_go.append(False)
            exchange.stack.callback(lambda: self.let_go.__setitem__(number, True))
            return await self.breaker(exchange, rest)

        return call


@pytest.mark.parametrize(
    ("status", "body", "asks"),
    [
        (503, b'{"error": {"code": "overloaded"}}', {"Retry-After": "0"}),
        (500, b"not JSON", {"Retry-After": "soon"}),
        (502, b"", {}),
        (429, QUOTA, {}),
    ],
)
async def test_an_answer_of_the_provider_is_told_as_it_was(
    status: int, body: bytes, asks: dict[str, str]
) -> None:
    half = len(body) // 2
    scene = Scene(answer(status, body[:half], body[half:], **asks))
    reply = await scene.ask()

    assert scene.breaker.circuit.state == "open"
    assert (reply.status, b"".join(await pumped(reply.body))) == (status, body)
    assert reply.headers.get("Retry-After") == asks.get("Retry-After")
    assert reply.headers["x-should-retry"] == "false"
    assert scene.rest.calls == 1


async def test_a_fault_of_the_connection_is_told_as_it_was() -> None:
    fault = UpstreamFault("upstream_reset", "reset")
    fault.__cause__ = ConnectionResetError()
    scene = Scene(fault)
    with pytest.raises(UpstreamFault) as caught:
        await scene.ask()

    assert caught.value is fault and fault.spent
    assert isinstance(fault.__cause__, ConnectionResetError), "the operator is not told what the network said"
    assert scene.rest.calls == 1


@pytest.mark.parametrize("bad", [RESET, 500])
async def test_it_is_not_asked_again_and_nothing_is_held(bad: Fault | int) -> None:
    scene = Scene(bad if isinstance(bad, Fault) else answer(bad))
    with pytest.raises(UpstreamFault) if isinstance(bad, Fault) else nullcontext():
        await scene.ask()

    assert scene.let_go == [True, True]


async def test_of_several_failures_the_last_is_told() -> None:
    scene = Scene(RESET, answer(503), failures=2)
    reply = await scene.ask()

    assert (reply.status, reply.headers["x-should-retry"], scene.rest.calls) == (503, "false", 2)


async def test_it_may_be_others_who_open_it_meanwhile() -> None:
    scene = Scene(answer(500, b"ours"), failures=9, on_wait=lambda: scene.breaker.circuit.open(30))
    reply = await scene.ask()

    assert (reply.status, await pumped(reply.body), scene.rest.calls) == (500, [b"ours"], 1)


async def test_a_breaker_that_was_open_before_the_first_call_says_so_itself() -> None:
    scene = Scene(RESET)
    scene.breaker.circuit.open(30)
    with pytest.raises(Refusal) as caught:
        await scene.ask()

    assert (caught.value.code, caught.value.retry_after, caught.value.spent) == ("breaker_open", 30, False)
    assert scene.rest.calls == 0


async def test_what_is_told_of_the_request_is_what_the_provider_got() -> None:
    scene = Scene(answer(500))
    await scene.ask()

    assert scene.exchange.model == "changed"
    assert scene.exchange.headers["X-Changed"] == "yes"
    assert scene.rest.let_go == [True], "the attempt that is told still holds something"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param((b"x" * HELD, b"x"), id="long"),
        pytest.param((b"x", UpstreamFault("upstream_cut", "cut")), id="cut"),
        pytest.param((b"x", asyncio.Event()), id="long in coming"),
    ],
)
async def test_an_answer_that_is_not_here_to_be_told_leaves_the_refusal(
    body: tuple[bytes | asyncio.Event | BaseException, ...],
) -> None:
    bad = answer(500, *body)
    source = bad.body
    scene = Scene(bad)
    with pytest.raises(Refusal) as caught:
        await scene.ask()

    assert caught.value.code == "breaker_open"
    assert isinstance(source, FakeBody) and source.closed


async def test_the_longest_answer_that_is_kept_is_told_whole() -> None:
    scene = Scene(answer(500, b"x" * (HELD - 1), b"y"))
    reply = await scene.ask()

    assert b"".join(await pumped(reply.body)) == b"x" * (HELD - 1) + b"y"


async def test_a_clock_that_runs_out_in_a_failures_body_is_not_tried_again() -> None:
    timer = FakeTimer()
    exchange = exchange_of(watch=Watch(Clocks(idle=0.5), timer))
    exchange.watch.start("idle")
    scene = Scene(_Stalled.answer(exchange), failures=9)
    task = asyncio.create_task(scene.ask(exchange))
    await settle(task)
    timer.advance(0.5)
    with pytest.raises(TimeoutFault) as caught:
        await task

    assert (caught.value.clock, scene.rest.calls) == ("idle", 1)


class _Stalled(FakeBody):
    """As an upstream's body under its exchange's clocks, of which nothing comes."""

    exchange: Exchange

    @classmethod
    def answer(cls, exchange: Exchange) -> Reply:
        reply = answer(500)
        reply.body = body = cls(asyncio.Event())
        body.exchange = exchange
        return reply

    async def pump(self, sink: Callable[[bytes], None], /) -> bool:
        async with self.exchange.watch.guard():
            return await super().pump(sink)


@pytest.mark.parametrize("code", ["queue_full", "key_missing"])
async def test_another_refusal_between_two_calls_is_told_itself(code: str) -> None:
    refusal: Fault = Refusal(code, "not now", retry_after=1)
    scene = Scene(answer(500), refusal, failures=9)
    with pytest.raises(Refusal) as caught:
        await scene.ask()

    assert caught.value is refusal
