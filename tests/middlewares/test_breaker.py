from __future__ import annotations

import asyncio
from typing import get_args

import pytest

from middlewares.clocks import Clocks, Watch
from middlewares.exchange import Exchange, Reply
from middlewares.faults import ClientFault, ClientGone, Fault, Outcome, Refusal, TimeoutFault, UpstreamFault
from tests.middlewares.breakers import COOLDOWN, FAILURES, RESET, Scene, Step
from tests.middlewares.fakes import FakeTimer, exchange_of, reply_of, settle

FAULTS_OF_THE_PROVIDER: list[Fault] = [
    *(UpstreamFault(f"upstream_{kind}", "no") for kind in ("connect", "reset", "protocol", "cut")),
    *(TimeoutFault(clock, "late") for clock in ("connect", "first_byte", "first_token", "idle", "total")),
]
NOBODYS_FAULT: list[BaseException] = [
    Refusal("key_missing", "no key"),
    Refusal("queue_full", "busy", retry_after=1),
    Refusal("breaker_open", "another one's"),
    ClientFault("invalid_json", "what"),
    ClientGone(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("step", [*FAULTS_OF_THE_PROVIDER, 500, 502, 503, 529, 599], ids=str)
async def test_it_opens_after_so_many_failures_in_a_row_and_then_asks_nobody(step: Step) -> None:
    scene = Scene()
    for number in range(FAILURES):
        assert (scene.state, scene.calls) == ("closed", number)
        await scene.ask(step)
    assert scene.state == "open"
    assert await scene.ask(200) == "breaker_open"
    assert scene.calls == FAILURES


@pytest.mark.parametrize("outcome", ["cut", "timeout"])
async def test_an_answer_that_began_and_did_not_end_well_is_a_failure(outcome: Outcome) -> None:
    scene = Scene()
    for _ in range(FAILURES):
        assert scene.state == "closed"
        await scene.ask(200, outcome)
    assert scene.state == "open"


@pytest.mark.parametrize("step", [*NOBODYS_FAULT, 400, 401, 402, 403, 404, 408, 413, 422, 429], ids=repr)
async def test_what_is_no_fault_of_the_provider_counts_neither_way(step: Step) -> None:
    scene = Scene()
    for _ in range(FAILURES * 2):
        await scene.ask(step)
    assert scene.state == "closed"

    await scene.ask(RESET)
    for _ in range(FAILURES - 1):
        await scene.ask(step)
        assert scene.state == "closed"
        await scene.ask(RESET)
    assert scene.state == "open", "it broke the row of failures"


async def test_an_error_inside_a_stream_about_what_was_asked_counts_neither_way() -> None:
    scene = Scene()
    for _ in range(FAILURES * 2):
        about_the_request = reply_of(b"{}", status=502, kind="application/json")
        about_the_request.blames_request = True
        await scene.ask(about_the_request)
    assert scene.state == "closed"


@pytest.mark.parametrize("outcome", sorted({*get_args(Outcome)} - {"ok", "cut", "timeout", "upstream_error"}))
async def test_an_end_that_is_not_the_providers_doing_counts_neither_way(outcome: Outcome) -> None:
    scene = Scene()
    await scene.ask(RESET)
    await scene.ask(RESET)
    await scene.ask(200, outcome)
    assert scene.state == "closed"
    await scene.ask(RESET)
    assert scene.state == "open", "it broke the row of failures"


async def test_a_client_that_does_not_take_its_bytes_is_no_failure_of_the_provider() -> None:
    scene = Scene()
    for _ in range(FAILURES * 2):
        exchange, reply = await scene.begin(200)
        exchange.client_stalled = True
        await scene.end(exchange, reply, "timeout")
    assert scene.state == "closed"


async def test_a_success_ends_the_row() -> None:
    scene = Scene()
    for _ in range(5):
        await scene.ask(RESET)
        await scene.ask(500)
        await scene.ask(200)
    assert scene.state == "closed"


async def test_an_answer_counts_as_a_success_at_its_end_and_not_before() -> None:
    scene = Scene()
    await scene.ask(RESET)
    await scene.ask(RESET)
    await scene.begin(200)
    await scene.ask(RESET)
    assert scene.state == "open"


async def test_the_refusal_says_how_long_it_will_be() -> None:
    scene = Scene()
    await scene.open()
    scene.now += 7.5
    with pytest.raises(Refusal) as caught:
        await scene.begin(200)
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("breaker_open", 503, 23)


async def test_half_open_lets_one_probe_through_and_nobody_else() -> None:
    scene = Scene()
    await scene.half_open()
    asked = scene.calls
    never = asyncio.Event()

    async def rest(_exchange: Exchange) -> Reply:
        scene.calls += 1
        await never.wait()
        return reply_of()

    exchange = exchange_of()
    probe = asyncio.create_task(scene.breaker(exchange, rest))
    await settle(probe)
    assert scene.calls == asked + 1
    with pytest.raises(Refusal) as caught:
        await scene.begin(200)
    assert (caught.value.code, caught.value.retry_after) == ("breaker_open", 1)
    assert scene.calls == asked + 1

    # Its client leaves: that tells nothing of the provider, and the place is free for another probe.
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    await exchange.stack.aclose()
    assert scene.state == "half_open"
    assert await scene.ask(200) == "answered"
    assert scene.state == "closed"


@pytest.mark.parametrize("step", [*NOBODYS_FAULT, 400, 404, 429], ids=repr)
async def test_a_probe_that_tells_nothing_leaves_its_place_to_the_next(step: Step) -> None:
    scene = Scene()
    await scene.half_open()
    for _ in range(3):
        await scene.ask(step)
        assert scene.state == "half_open"
    assert await scene.ask(200) == "answered"
    assert scene.state == "closed"


@pytest.mark.parametrize("step", [*FAULTS_OF_THE_PROVIDER, 500, 503], ids=str)
async def test_a_probe_that_fails_opens_it_anew(step: Step) -> None:
    scene = Scene()
    await scene.half_open()
    await scene.ask(step)
    assert scene.state == "open"
    scene.now += COOLDOWN - 0.001
    assert await scene.ask(200) == "breaker_open"
    scene.now += 0.001
    assert await scene.ask(200) == "answered"


async def test_a_probe_that_is_answered_closes_it_at_once_and_on_parole() -> None:
    scene = Scene()
    await scene.half_open()
    probe = await scene.begin(200)
    assert scene.state == "closed"
    other = await scene.begin(200)

    await scene.end(*probe, "cut")
    assert scene.state == "open"
    await scene.end(*other)
    assert scene.state == "open", "an answer from before it opened closed it"


async def test_after_the_probes_answer_came_to_its_end_it_takes_a_whole_row_again() -> None:
    scene = Scene()
    await scene.half_open()
    await scene.ask(200)
    for _ in range(FAILURES):
        assert scene.state == "closed"
        await scene.ask(RESET)
    assert scene.state == "open"


async def test_what_was_asked_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    scene = Scene()
    early = [await scene.begin(200) for _ in range(8)]
    release = asyncio.Event()

    async def late(_exchange: Exchange) -> Reply:
        await release.wait()
        return reply_of(status=200)

    head_to_come = exchange_of()
    waiting = asyncio.create_task(scene.breaker(head_to_come, late))
    await settle(waiting)
    await scene.open()
    release.set()
    early.append((head_to_come, await waiting))
    assert scene.state == "open", "an answer to what was asked before closed it"

    scene.now += COOLDOWN / 2
    for number, one in enumerate(early):
        await scene.end(*one, "cut" if number % 2 else "ok")
    scene.now += COOLDOWN / 2
    assert scene.state == "half_open"


async def test_an_answer_from_before_does_not_end_the_probes_turn() -> None:
    scene = Scene()
    early = [await scene.begin(200) for _ in range(FAILURES + 1)]
    await scene.half_open()
    release = asyncio.Event()

    async def slow(_exchange: Exchange) -> Reply:
        await release.wait()
        return reply_of(status=200)

    exchange = exchange_of()
    probe = asyncio.create_task(scene.breaker(exchange, slow))
    await settle(probe)
    for one in early:
        await scene.end(*one, "cut")
        assert await scene.ask(200) == "breaker_open", "two probes at one time"
    release.set()
    await scene.end(exchange, await probe)
    assert scene.state == "closed"


async def test_an_old_probe_that_still_streams_frees_no_place_of_a_new_one() -> None:
    scene = Scene()
    await scene.half_open()
    old = await scene.begin(200)  # closes it, on parole
    await scene.ask(RESET)
    scene.now += COOLDOWN
    release = asyncio.Event()

    async def slow(_exchange: Exchange) -> Reply:
        await release.wait()
        return reply_of(status=200)

    exchange = exchange_of()
    probe = asyncio.create_task(scene.breaker(exchange, slow))
    await settle(probe)
    await scene.end(*old)
    assert await scene.ask(200) == "breaker_open", "two probes at one time"
    release.set()
    await scene.end(exchange, await probe)


@pytest.mark.parametrize("fires", [True, False], ids=["total ran out", "the client left"])
async def test_total_that_fires_as_a_cancellation_is_a_failure_and_a_client_that_leaves_is_none(
    fires: bool,
) -> None:
    scene = Scene(failures=1)
    timer = FakeTimer()
    exchange = exchange_of(watch=Watch(Clocks(connect=None, total=5.0), timer))

    async def rest(_exchange: Exchange) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def rung() -> Reply:
        exchange.watch.start("total")
        async with exchange.watch.guard():
            return await scene.breaker(exchange, rest)

    task = asyncio.create_task(rung())
    await settle(task)
    if fires:
        timer.advance(5)
    else:
        task.cancel()
    with pytest.raises(TimeoutFault if fires else asyncio.CancelledError):
        await task
    assert scene.state == ("open" if fires else "closed")
