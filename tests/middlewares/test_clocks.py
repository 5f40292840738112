from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import get_args

import pytest

from middlewares.clocks import Clock, Clocks, Watch
from middlewares.faults import TimeoutFault
from tests.middlewares.fakes import FakeTimer, settle

CLOCKS = list(get_args(Clock))
EACH = Clocks(connect=1.0, first_byte=2.0, first_token=3.0, idle=4.0, total=5.0)


class Waiting:
    """A task that waits inside a guard until it is released or a clock ends it."""

    def __init__(self, watch: Watch) -> None:
        self.released = asyncio.Event()
        self.entered = asyncio.Event()
        self._watch = watch
        self.task: asyncio.Task[str] = asyncio.create_task(self._wait())

    async def _wait(self) -> str:
        async with self._watch.guard():
            self.entered.set()
            await self.released.wait()
        return "released"

    async def ended_by(self) -> str:
        """The clock's name, or how else the wait ended."""
        await settle(self.task)
        if not self.task.done():
            return "waiting"
        try:
            return self.task.result()
        except TimeoutFault as fault:
            return fault.clock

    async def end(self) -> None:
        self.released.set()
        await asyncio.wait([self.task])


async def waiting(watch: Watch) -> Waiting:
    one = Waiting(watch)
    await one.entered.wait()
    return one


@pytest.mark.parametrize("clock", CLOCKS)
async def test_each_clock_fires_on_time_and_names_itself(clock: Clock):
    timer = FakeTimer()
    limit = getattr(EACH, clock)
    watch = Watch(EACH, timer)
    watch.start(clock)
    one = await waiting(watch)
    timer.advance(limit - 0.001)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == clock
    fault = one.task.exception()
    assert isinstance(fault, TimeoutFault)
    assert (fault.code, fault.status) == (f"timeout_{clock}", 504)
    assert fault.message.startswith(f"{clock} timeout: ") and f"{limit:g} s" in fault.message
    assert fault.__suppress_context__


@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_clock_without_a_limit_never_runs(clock: Clock):
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None), timer)
    watch.start(clock)
    assert timer.pending == []


@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_clock_that_was_not_started_does_not_fire(clock: Clock):
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    one = await waiting(watch)
    timer.advance(100)
    assert await one.ended_by() == "waiting"
    await one.end()


@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_stopped_clock_does_not_fire(clock: Clock):
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start(clock)
    watch.stop(clock)
    one = await waiting(watch)
    timer.advance(100)
    assert await one.ended_by() == "waiting"
    await one.end()


@pytest.mark.parametrize("order", [("first_byte", "first_token"), ("first_token", "first_byte")])
@pytest.mark.parametrize(
    ("first_byte", "first_token", "fires"),
    [(2.0, 3.0, "first_byte"), (3.0, 2.0, "first_token")],
)
async def test_the_earlier_of_two_deadlines_fires(order, first_byte, first_token, fires):
    timer = FakeTimer()
    watch = Watch(Clocks(first_byte=first_byte, first_token=first_token), timer)
    for clock in order:
        watch.start(clock)
    one = await waiting(watch)
    timer.advance(1.999)
    assert await one.ended_by() == "waiting"
    timer.advance(100)
    assert await one.ended_by() == fires


async def test_the_later_of_two_deadlines_fires_when_the_earlier_is_stopped():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("first_byte")
    watch.start("total")
    one = await waiting(watch)
    timer.advance(1)
    watch.stop("first_byte")
    timer.advance(3.999)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "total"


async def test_every_byte_pushes_idle_on_and_none_pushes_total():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, idle=4.0, total=30.0), timer)
    watch.start("total")
    watch.start("idle")
    one = await waiting(watch)
    for _ in range(7):
        timer.advance(3.999)
        watch.start("idle")
        assert await one.ended_by() == "waiting"
    assert len(timer.pending) == 1
    timer.advance(2.007)
    assert await one.ended_by() == "total"


async def test_idle_fires_after_the_last_byte():
    timer = FakeTimer()
    watch = Watch(Clocks(idle=4.0), timer)
    watch.start("idle")
    one = await waiting(watch)
    timer.advance(3)
    watch.start("idle")
    timer.advance(3.999)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "idle"


async def test_pushing_idle_on_arms_no_new_timer():
    timer = FakeTimer()
    watch = Watch(Clocks(idle=4.0), timer)
    for _ in range(1000):
        watch.start("idle")
        timer.advance(0.001)
    assert timer.pending == [1004.0]
    watch.close()


async def test_a_new_attempt_starts_connect_stops_the_rest_and_keeps_total():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    for clock in CLOCKS:
        watch.start(clock)
    timer.advance(0.9)
    watch.new_attempt()
    one = await waiting(watch)
    timer.advance(0.999)
    assert await one.ended_by() == "waiting"
    watch.stop("connect")
    timer.advance(3.1)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "total"


async def test_connect_starts_anew_for_each_attempt():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.new_attempt()
    timer.advance(0.5)
    watch.new_attempt()
    one = await waiting(watch)
    timer.advance(0.999)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "connect"


async def test_a_cancellation_from_elsewhere_stays_a_cancellation():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("total")
    one = await waiting(watch)
    one.task.cancel("the client left")
    await asyncio.wait([one.task])
    assert one.task.cancelled()


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_cancellation_at_the_moment_of_the_deadline_stays_a_cancellation(cancelled_first):
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("total")
    one = await waiting(watch)
    steps: list[Callable[[], object]] = [one.task.cancel, lambda: timer.advance(5)]
    for step in steps if cancelled_first else reversed(steps):
        step()
    await asyncio.wait([one.task])
    assert one.task.cancelled()


async def test_a_timeout_error_of_another_making_stays_what_it_is():
    watch = Watch(EACH, FakeTimer())
    with pytest.raises(TimeoutError, match="theirs"):
        async with watch.guard():
            raise TimeoutError("theirs")


async def test_idle_is_postponed_while_the_client_takes_bytes():
    timer = FakeTimer()
    watch = Watch(Clocks(idle=4.0), timer)
    moved = [True, True, False]
    watch.moved = lambda: moved.pop(0)
    watch.start("idle")
    one = await waiting(watch)
    timer.advance(11.999)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "idle"
    assert moved == []


async def test_only_idle_asks_whether_the_client_took_bytes():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, idle=4.0, total=5.0), timer)
    watch.moved = lambda: True
    watch.start("total")
    watch.start("idle")
    one = await waiting(watch)
    timer.advance(4.999)
    assert await one.ended_by() == "waiting"
    timer.advance(0.001)
    assert await one.ended_by() == "total"


async def test_two_clocks_that_are_late_at_once_fire_the_one_that_is_left_when_idle_is_postponed():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, idle=4.0, total=5.0), timer)
    watch.moved = lambda: True
    watch.start("total")
    watch.start("idle")
    one = await waiting(watch)
    # As when the loop was busy: called late, with both deadlines past.
    timer.now += 6
    timer.advance(0)
    assert await one.ended_by() == "total"


async def test_nothing_fires_after_close():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    one = await waiting(watch)
    for clock in CLOCKS:
        watch.start(clock)
    watch.close()
    assert timer.pending == []
    timer.advance(100)
    assert await one.ended_by() == "waiting"
    await one.end()
    watch.close()


async def test_the_innermost_of_nested_guards_raises():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("first_byte")
    ended: list[str] = []

    async def nested() -> None:
        async with watch.guard():
            try:
                async with watch.guard():
                    await asyncio.Event().wait()
            except TimeoutFault as fault:
                ended.append(fault.clock)
            ended.append("outer goes on")

    task = asyncio.create_task(nested())
    await settle(task)
    timer.advance(2)
    await task
    assert ended == ["first_byte", "outer goes on"]


async def test_the_outer_guard_raises_once_the_inner_one_is_left():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("total")
    inner_left = asyncio.Event()

    async def nested() -> None:
        async with watch.guard():
            async with watch.guard():
                pass
            inner_left.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(nested())
    await inner_left.wait()
    timer.advance(5)
    with pytest.raises(TimeoutFault, match=r"^total timeout: the exchange took longer than 5 s\.$"):
        await task


async def test_the_fault_of_the_inner_guard_passes_the_outer_one_unchanged():
    timer = FakeTimer()
    inner, outer = Watch(EACH, timer), Watch(Clocks(connect=None, total=60.0), timer)
    inner.start("idle")
    outer.start("total")

    async def nested() -> None:
        async with outer.guard(), inner.guard():
            await asyncio.Event().wait()

    task = asyncio.create_task(nested())
    await settle(task)
    timer.advance(4)
    with pytest.raises(TimeoutFault, match="idle"):
        await task


async def test_the_outer_watch_ends_a_wait_inside_the_inner_one():
    timer = FakeTimer()
    inner, outer = Watch(EACH, timer), Watch(Clocks(connect=None, total=3.0), timer)
    inner.start("idle")
    outer.start("total")

    async def nested() -> None:
        async with outer.guard(), inner.guard():
            await asyncio.Event().wait()

    task = asyncio.create_task(nested())
    await settle(task)
    timer.advance(3)
    with pytest.raises(TimeoutFault, match="total timeout: the exchange took longer than 3 s"):
        await task


async def test_a_wait_that_ends_in_time_leaves_no_trace():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("first_byte")
    one = await waiting(watch)
    one.released.set()
    assert await one.task == "released"
    watch.stop("first_byte")
    timer.advance(100)
    assert await one.ended_by() == "released"


async def test_total_still_runs_when_another_clock_passes_at_the_moment_the_wait_ends():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("total")
    watch.start("first_byte")
    one = await waiting(watch)
    one.released.set()
    timer.advance(2)
    assert await one.ended_by() == "released"
    watch.stop("first_byte")
    later = await waiting(watch)
    timer.advance(3)
    ended = await later.ended_by()
    await later.end()
    assert ended == "total"


async def test_a_deadline_that_passes_between_two_waits_ends_the_next_one():
    timer = FakeTimer()
    watch = Watch(EACH, timer)
    watch.start("total")
    timer.advance(6)
    later = await waiting(watch)
    timer.advance(0)
    ended = await later.ended_by()
    await later.end()
    assert ended == "total"


async def test_on_a_real_loop_a_clock_fires_too():
    watch = Watch(Clocks(connect=None, idle=0.01), asyncio.get_running_loop())
    watch.start("idle")
    with pytest.raises(TimeoutFault, match=r"^idle timeout: nothing moved for 0\.01 s\.$"):
        async with watch.guard():
            await asyncio.Event().wait()


async def test_a_clock_that_fired_at_an_outer_guard_names_itself_there_after_an_inner_one():
    timer = FakeTimer()
    watch = Watch(Clocks(connect=None, total=5.0), timer)
    watch.start("total")
    with pytest.raises(TimeoutFault) as raised:
        async with watch.guard():
            timer.advance(5.0)
            async with watch.guard():
                await asyncio.Event().wait()

    assert raised.value.clock == "total"
