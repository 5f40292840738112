"""What counts as our own time: what runs, and nothing that is waited for."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from proxy.stopwatch import Stopwatch


def burn(seconds: float) -> None:
    """Keep the processor busy."""
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass


async def test_what_runs_counts_and_what_is_waited_for_does_not() -> None:
    async def work() -> str:
        burn(0.02)
        await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            await asyncio.sleep(0.2)
        burn(0.01)
        return "done"

    watch = Stopwatch(work())
    began = perf_counter()

    assert await watch == "done"
    took = perf_counter() - began
    # A busy machine may take its time within a step; it cannot hide half a second of waits.
    assert 0.03 <= watch._ran <= took - 0.49


async def test_what_others_do_meanwhile_does_not_count() -> None:
    turn = asyncio.Event()

    async def other() -> None:
        burn(0.2)
        turn.set()

    async def work() -> None:
        await turn.wait()

    watch = Stopwatch(work())
    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        await watch

    assert watch._ran < 0.1


async def test_it_can_be_asked_from_inside() -> None:
    asked: list[float] = []

    async def work() -> None:
        burn(0.01)
        asked.append(watch.seconds)
        await asyncio.sleep(0.05)
        asked.append(watch.seconds)
        burn(0.01)
        asked.append(watch.seconds)

    watch = Stopwatch(work())
    await watch

    first, second, third = asked
    assert 0.01 <= first <= second < first + 0.04
    assert third >= second + 0.01


async def test_a_cancellation_reaches_what_waits_and_its_last_step_counts() -> None:
    cleaned: list[bool] = []
    started = asyncio.Event()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            burn(0.01)
            cleaned.append(True)

    watch = Stopwatch(work())

    async def drive() -> None:
        await watch

    task = asyncio.create_task(drive())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cleaned == [True]
    assert watch._ran >= 0.01


async def test_a_cancellation_may_be_survived() -> None:
    started = asyncio.Event()

    async def work() -> str:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.uncancel()
        await asyncio.sleep(0)
        return "went on"

    async def drive() -> str:
        return await Stopwatch(work())

    task = asyncio.create_task(drive())
    await started.wait()
    task.cancel()

    assert await task == "went on"


async def test_an_error_comes_out_as_it_is() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise LookupError("no luck")

    with pytest.raises(LookupError, match="no luck"):
        await Stopwatch(work())


async def test_what_is_never_awaited_to_its_end_can_be_dropped() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    watch = Stopwatch(work())
    next(watch)
    watch.close()

    assert closed == [True]
