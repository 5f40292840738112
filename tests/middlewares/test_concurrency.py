from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.concurrency import Concurrency, Options, Slots
from middlewares.exchange import Exchange
from middlewares.faults import Refusal
from tests.middlewares.fakes import UNHURRIED, FakeNext, deps_of, exchange_of, settle


def made(limit: int, queue: int = 0, wait: float = 30.0) -> Concurrency:
    return Concurrency(Options(limit=limit, queue=queue, wait=wait), deps_of(route="busy"))


async def test_a_slot_is_held_until_the_exchange_is_over_and_not_only_until_its_head() -> None:
    busy, first, second = made(1), exchange_of(), exchange_of()
    await busy(first, FakeNext())
    with pytest.raises(Refusal) as caught:
        await busy(second, FakeNext())
    await first.stack.aclose()
    await busy(second, FakeNext())

    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("queue_full", 429, 1)
    assert caught.value.message == "The route 'busy' is busy: 1 exchanges are in flight and 0 wait."


async def test_those_who_wait_are_served_in_order_and_one_too_many_is_refused() -> None:
    busy, first = made(1, queue=2), exchange_of()
    await busy(first, FakeNext())
    served: list[int] = []

    async def serve(number: int, exchange: Exchange) -> None:
        await busy(exchange, FakeNext())
        served.append(number)

    waiting = [exchange_of(), exchange_of()]
    tasks = [asyncio.create_task(serve(n, exchange)) for n, exchange in enumerate(waiting)]
    for task in tasks:
        await settle(task)
    with pytest.raises(Refusal):
        await busy(exchange_of(), FakeNext())
    await first.stack.aclose()
    await settle(tasks[0])
    before = list(served)
    await waiting[0].stack.aclose()
    await asyncio.gather(*tasks)

    assert before == [0]
    assert served == [0, 1]


async def test_waiting_ends_after_its_time_and_leaves_nothing_behind() -> None:
    busy, first = made(1, queue=1, wait=0.01), exchange_of()
    await busy(first, FakeNext())
    call_next = FakeNext()
    with pytest.raises(Refusal) as caught:
        await busy(exchange_of(), call_next)
    await first.stack.aclose()

    assert caught.value.code == "queue_full"
    assert "none of 1 exchanges ended within 0.01 s" in caught.value.message
    assert call_next.calls == 0
    assert (busy.slots.free, busy.slots.queued) == (1, 0)


async def test_a_slot_given_to_one_who_leaves_in_that_moment_goes_on_to_the_next() -> None:
    slots = Slots(1)
    assert await slots.take(30)
    leaves, stays = asyncio.create_task(slots.take(30)), asyncio.create_task(slots.take(30))
    await settle(leaves)
    await settle(stays)
    slots.give_back()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves

    assert await asyncio.wait_for(stays, 5)
    slots.give_back()
    assert (slots.free, slots.queued) == (1, 0)


@UNHURRIED
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["ask", "end", "leave", "turn"]), st.integers(0, 9)), max_size=60),
)
def test_no_order_of_events_loses_a_slot_or_gives_one_too_many(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        slots = Slots(limit)
        tasks: list[asyncio.Task[bool]] = []
        held = 0
        for what, which in steps:
            if what == "ask":
                tasks.append(asyncio.create_task(slots.take(30)))
            elif what == "leave" and tasks:
                tasks[which % len(tasks)].cancel()
            elif what == "end" and held:
                held -= 1
                slots.give_back()
            if what == "turn" or which % 2:
                await asyncio.sleep(0)
            held += sum(task.done() and not task.cancelled() and task.result() for task in tasks)
            tasks = [task for task in tasks if not task.done()]
            assert held <= limit
        while tasks or held:
            for _ in range(held):
                slots.give_back()
            held = 0
            await asyncio.gather(*(asyncio.wait({task}, timeout=0.001) for task in tasks))
            held = sum(task.done() and not task.cancelled() and task.result() for task in tasks)
            tasks = [task for task in tasks if not task.done()]
        assert (slots.free, slots.queued) == (limit, 0)

    asyncio.run(run())


@pytest.mark.parametrize("options", [{}, {"limit": 0}, {"limit": 1, "queue": -1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, Options)
