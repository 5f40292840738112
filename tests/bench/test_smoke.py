"""The benchmark measures what it says: a cost that is put in on purpose is the cost that comes out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import windows
from tests.bench.accounting import KIB, cpu_seconds, cpu_ticks, memory
from tests.bench.figures import Findings, percentile, table
from tests.bench.payloads import EVENT_END, STREAM_HEAD, answer, ending, event, request, stream_number
from tests.bench.plot import drawn
from tests.bench.soak import growth
from tests.bench.subjects import Ground, Subject, Target, cores, minimal, tidegate
from tests.bench.traffic import Broken, Ends, Stage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the accounts are Linux's")

COSTS = """
import asyncio
import time

class Burns:
    def __init__(self, options, deps): pass
    async def __call__(self, exchange, call_next):
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
        return await call_next(exchange)

class Dawdles:
    def __init__(self, options, deps): pass
    async def __call__(self, exchange, call_next):
        await asyncio.sleep(0.03)
        return await call_next(exchange)

class Hoards:
    def __init__(self, options, deps): pass
    async def __call__(self, exchange, call_next):
        exchange.stack.callback(len, bytearray(b"x" * 65536))
        return await call_next(exchange)
"""


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    (tmp_path / "costs.py").write_text(COSTS)
    with closing(Stage()) as stage:
        yield Ground(stage, tmp_path, cores())


def gate_with(ground: Ground, *middlewares: str) -> Subject:
    """With a route for each of them besides `none`, which has none."""
    chains: dict[str, list[Any]] = {name.lower(): [f"costs:{name}"] for name in middlewares}
    return tidegate(ground, routes={"none": [], **chains})


def on(route: str, gate: Subject) -> Target:
    return Target(route, gate.port, f"{route}/m", gate.path, gate.pids)


def test_a_millisecond_of_work_for_each_request_is_seen_as_one(ground: Ground) -> None:
    with gate_with(ground, "Burns") as gate:
        added = [brief(ground, on("burns", gate)) - brief(ground, on("none", gate)) for _ in range(7)]

    assert 850 < median(added) < 1400, added


def brief(ground: Ground, target: Target) -> float:
    return windows.requests(ground.stage, target, 0.12, connections=8, warm=0.04).each_us


def test_the_minimal_relay_costs_as_much_as_itself(ground: Ground) -> None:
    with minimal(ground, name="one") as one, minimal(ground, name="other") as other:
        ratios = [brief(ground, one) / brief(ground, other) for _ in range(7)]

    assert 0.75 < median(ratios) < 1.33, ratios


def test_a_wait_is_added_latency_and_costs_no_processor(ground: Ground) -> None:
    with gate_with(ground, "Dawdles") as gate:
        slow, quick = (windows.one_by_one(ground.stage, on(route, gate), 15) for route in ("dawdles", "none"))
        first = windows.first_tokens(ground.stage, on("dawdles", gate), 10)
        burnt = cpu_seconds(gate.pids)
        windows.one_by_one(ground.stage, on("dawdles", gate), 10)
        burnt = cpu_seconds(gate.pids) - burnt

    assert slow.p50 - quick.p50 > 25
    assert first.p50 > 30
    assert burnt < 0.15


def test_memory_that_each_stream_holds_is_seen(ground: Ground) -> None:
    held = {}
    for route in ("none", "hoards"):
        with gate_with(ground, "Hoards") as gate:
            windows.one_by_one(ground.stage, on(route, gate), 5)
            before = memory(gate.pids)
            with windows.streams(ground.stage, on(route, gate), 150):
                held[route] = (memory(gate.pids) - before) / 150 / KIB

    assert 5 < held["none"] < 100
    assert 60 < held["hoards"] - held["none"] < 75


def test_every_event_that_is_sent_is_counted_once_and_none_is_left_behind(ground: Ground) -> None:
    with minimal(ground) as relay:
        with windows.streams(ground.stage, relay, 20) as opened:
            cost = windows.events(ground.stage, relay, opened, 0.1, event())
            counted = sum(client.events for client in opened)
            latency, _ = windows.paced(ground.stage, relay, opened, 0.1, event(20_000))
            woken, _ = windows.wake(ground.stage, relay, opened, event())
            after = sum(client.events for client in opened)

    assert 0 < cost.count < counted - 20
    assert after - counted == 100 + 20
    assert 0 < latency.p50 <= latency.p99 and woken.p99 > 0


def test_events_that_arrive_together_are_told_one_by_one(ground: Ground) -> None:
    told: list[int] = []
    direct = Target("direct", ground.stage.port)
    with windows.streams(ground.stage, direct, 1) as (client,):
        client.moved = lambda moved: told.append(moved.events)
        assert client.call is not None
        client.call.send(event() * 3)
        ground.stage.until(lambda: len(told) == 3, "the three events")

    assert told == [4, 4, 4]


def test_an_answer_that_is_an_error_ends_the_run(ground: Ground) -> None:
    with gate_with(ground) as gate:
        with pytest.raises(Broken, match="404"):
            windows.requests(ground.stage, on("missing", gate), 0.1)


def test_a_subject_that_cannot_start_says_why(ground: Ground) -> None:
    with pytest.raises(RuntimeError, match="no_such_middleware"):
        with tidegate(ground, routes={"x": ["no_such_middleware"]}):
            pass


def test_the_accounts_agree_with_each_other() -> None:
    pid = os.getpid()
    before, ticks = cpu_seconds((pid,)), cpu_ticks(pid)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    burnt, by_ticks = cpu_seconds((pid,)) - before, cpu_ticks(pid) - ticks

    assert 0.3 <= burnt < 0.4
    assert abs(burnt - by_ticks) <= 0.03


@given(st.sampled_from([answer(50), request("/v1/x", "m"), STREAM_HEAD + event() + ending()]), st.data())
def test_the_end_of_a_message_is_found_at_its_last_byte_however_it_is_cut(message: bytes, data: Any) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(message) - 1), max_size=8)))
    ends = Ends()
    for _ in range(2):
        pieces = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        assert [ends.feed(piece) for piece in pieces] == [False] * len(cuts) + [True]
        assert message.startswith(ends.head) and ends.head.endswith(b"\r\n\r\n")
        ends.reset()


@pytest.mark.parametrize("size", [256, 1024, 65536])
def test_bytes_are_of_the_size_that_is_asked_for(size: int) -> None:
    asked = request("/v1/x", "full/m", max(size, 512), stream=True, number=4711)
    assert len(asked.partition(b"\r\n\r\n")[2]) == max(size, 512)
    assert stream_number(asked) == 4711
    assert abs(len(event(size)) - size) < 16 and event(size).count(EVENT_END) == 1


def test_figures_are_shown_within_the_width_with_their_spread_and_what_they_should_be() -> None:
    findings = Findings()
    ours = findings.add("requests", "processor for each", "tidegate", "µs CPU", [10, 12, 14, 12, 12])
    theirs = findings.add("requests", "processor for each", "minimal relay", "µs CPU", [20, 24, 28, 24, 24])
    for at in (1, 1000):
        findings.add("streams", "a <series>", "tidegate", "µs CPU", [at + 1.0], at)
    findings.aim("half of it", findings.ratio(ours, theirs), 0.5)
    findings.aim("more than it", ours, 13, at_least=True)
    shown = table(findings)

    assert (ours.median, ours.spread) == (12, 0.0)
    assert findings.figures[-1].samples == (0.5,) * 5
    assert "met     half of it" in shown and "MISSED  more than it" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert [aim["met"] for aim in findings.as_data({})["aims"]] == [True, False]
    assert len(ET.fromstring(drawn(findings)).findall("{*}g")) == 2


def test_percentiles_and_growth_are_those_of_the_books() -> None:
    assert percentile(range(1, 101), 0.5) == 51
    assert percentile(range(1, 101), 0.99) == 100
    assert percentile([7], 0.99) == 7
    assert growth([500, *[100] * 8, 110]) == pytest.approx(0.1)
    assert growth([100, *[100] * 19]) == 0
