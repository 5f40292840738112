"""Counting, adding up what several processes counted, and the text of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from middlewares.breaker import State
from middlewares.faults import Outcome
from middlewares.stores import Figures as StoreFigures
from middlewares.stores import Stores
from proxy.admin import Pages
from proxy.exposition import render
from proxy.logs import Record
from proxy.metrics import BREAKER, OVERHEAD_S, REQUEST_S, Metrics, Snapshot, merged, past
from proxy.status import Report, snapshot_of
from tests.support.metrics import Figures

ROUTES = ("kimi", "openrouter", 'odd"\\name\n')


def record(route: str | None = "kimi", **facts: object) -> Record:
    made = Record(id="1", route=route, status=200)
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def snapshot(metrics: Metrics, **breakers: State) -> Snapshot:
    return metrics.snapshot(dict.fromkeys(ROUTES, 0), breakers)


def shown(of: Snapshot) -> Figures:
    return Figures(render(of).decode())


exchanges = st.builds(
    record,
    st.sampled_from((None, *ROUTES)),
    client=st.sampled_from((None, "ci", "somebody \\ else")),
    status=st.sampled_from((200, 404, 429, 499, 503)),
    outcome=st.sampled_from(get_args(Outcome)),
    duration_ms=st.floats(0, 1e7),
    ttft_ms=st.none() | st.floats(0, 1e7),
    prompt_tokens=st.none() | st.integers(-5, 10**12),
    completion_tokens=st.none() | st.integers(0, 4000),
    empty_answer=st.booleans(),
)


def count(metrics: Metrics, made: Record) -> None:
    metrics.exchange(made, made.duration_ms / 1e4, unobserved=made.status == 404)
    metrics.attempt(made.route or "", str(made.status))


@given(st.lists(st.tuples(st.integers(0, 2), exchanges), max_size=30))
def test_several_processes_together_are_as_one_that_did_it_all(seen: list[tuple[int, Record]]) -> None:
    alone, parts = Metrics(), [Metrics(), Metrics(), Metrics()]
    for part, made in seen:
        count(alone, made)
        count(parts[part], made)
    whole, together = snapshot(alone), merged([snapshot(part) for part in parts])

    for name in ("requests", "attempts", "tokens", "empty_answers", "unobserved_answers"):
        assert getattr(together, name) == getattr(whole, name), name
    for name in ("request_seconds", "first_token_seconds", "overhead_seconds"):
        sums, one = getattr(together, name), getattr(whole, name)
        assert {route: histogram.counts for route, histogram in sums.items()} == {
            route: histogram.counts for route, histogram in one.items()
        }
        for route, histogram in sums.items():
            assert histogram.total == pytest.approx(one[route].total)


@given(st.lists(exchanges, max_size=10))
def test_a_snapshot_can_be_sent_and_is_rendered_without_the_process_it_came_from(seen: list[Record]) -> None:
    metrics = Metrics()
    for made in seen:
        count(metrics, made)
    taken = snapshot(metrics, kimi="open")
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(taken), type=Snapshot)

    assert arrived == taken
    assert render(arrived) == render(taken)
    told = Figures(render(arrived).decode())
    assert told.value("tidegate_requests_total") == len(seen)
    assert told.value("tidegate_request_seconds_count") == len(seen)
    assert told.labels("route") >= set(ROUTES)


def test_every_route_is_there_with_nothing_counted_before_it_is_asked() -> None:
    text = render(Metrics().snapshot({"kimi": 0}, {})).decode()

    for line in (
        'tidegate_attempts_total{result="ok",route="kimi"} 0.0',
        'tidegate_empty_answers_total{route="kimi"} 0.0',
        'tidegate_unobserved_answers_total{route="kimi"} 0.0',
        'tidegate_streams_in_flight{route="kimi"} 0.0',
    ):
        assert f"\n{line}\n" in text


def test_a_snapshot_stays_as_it_was_taken() -> None:
    metrics = Metrics()
    count(metrics, record())
    taken = snapshot(metrics)
    before = msgspec.msgpack.encode(taken)
    count(metrics, record())

    assert msgspec.msgpack.encode(taken) == before


def test_of_several_breakers_and_reloads_the_worst_is_shown() -> None:
    a, b = Metrics(), Metrics()
    b.reloaded(success=True)
    a.reloaded_at, b.reloaded_at = 2000.0, 1000.0
    b.reloaded(success=False)
    together = merged([snapshot(a, kimi="closed", openrouter="open"), snapshot(b, kimi="half_open")])

    assert together.breaker_state == {"kimi": 1, "openrouter": 2}
    assert together.reload_success is False
    assert together.reloaded_at == 1000.0
    assert sorted(BREAKER.values()) == [BREAKER["closed"], BREAKER["half_open"], BREAKER["open"]]


def test_a_store_is_up_when_it_is_to_every_process_that_lives() -> None:
    metrics = Metrics()
    up, down = StoreFigures(up=True, failures=1), StoreFigures(up=False, failures=2)
    taken = [metrics.snapshot({}, {}, stores) for stores in ({"a": up, "b": up}, {"a": down, "b": up}, {})]
    told = shown(merged([*taken[:2], taken[2], past(taken[1])]))

    assert told.by("tidegate_store_up", "store") == {"b": 1}
    assert told.value("tidegate_store_up", store="a") == 0
    assert told.by("tidegate_store_failures_total", "store") == {"a": 5, "b": 3}


def test_a_process_that_has_ended_leaves_its_counts_and_nothing_else() -> None:
    gone, lives = Metrics(), Metrics()
    for metrics in (gone, lives):
        count(metrics, record())
    gone.reloaded(success=False)
    gone.reloaded_at = 1.0
    last = gone.snapshot({"kimi": 7}, {"kimi": "open"})
    together = merged([past(last), lives.snapshot({"kimi": 1}, {"kimi": "closed"})])
    told = shown(together)

    assert told.value("tidegate_requests_total") == 2
    assert told.value("tidegate_overhead_seconds_count") == 2
    assert told.value("tidegate_streams_in_flight") == 1
    assert told.value("tidegate_breaker_state") == 0
    assert told.value("tidegate_config_last_reload_success") == 1
    assert together.reloaded_at == lives.reloaded_at
    # Where nobody lives nobody has a table, and there is nothing to say of one.
    assert "config_last_reload" not in render(past(last)).decode()


def test_a_reload_that_fails_keeps_the_time_of_the_table_that_is_served() -> None:
    metrics = Metrics()
    metrics.reloaded_at = 5.0
    metrics.reloaded(success=False)
    failed = shown(snapshot(metrics))
    metrics.reloaded(success=True)
    mended = shown(snapshot(metrics))

    assert failed.value("tidegate_config_last_reload_success") == 0
    assert failed.value("tidegate_config_last_reload_timestamp_seconds") == 5
    assert mended.value("tidegate_config_last_reload_success") == 1
    assert mended.value("tidegate_config_last_reload_timestamp_seconds") > 1e9


@pytest.mark.parametrize("tokens", [-1, 0, 10**9, 10**400])
def test_what_cannot_be_true_of_an_answer_is_not_added_to_the_tokens(tokens: int) -> None:
    metrics = Metrics()
    count(metrics, record(prompt_tokens=5, completion_tokens=tokens))

    assert shown(snapshot(metrics)).by("tidegate_tokens_total", "kind") == {"prompt": 5}


def test_a_value_on_the_bound_of_a_bucket_is_in_it_and_one_over_the_last_is_only_in_all() -> None:
    metrics = Metrics()
    for seconds in (REQUEST_S[0], REQUEST_S[0] * 1.01, REQUEST_S[-1] + 1):
        metrics.exchange(record(duration_ms=seconds * 1000), OVERHEAD_S[0], unobserved=False)
    told = shown(snapshot(metrics))
    buckets = told.by("tidegate_request_seconds_bucket", "le")

    assert buckets[str(float(REQUEST_S[0]))] == 1
    assert buckets[str(float(REQUEST_S[1]))] == 2
    assert buckets[str(float(REQUEST_S[-1]))] == 2
    assert buckets["+Inf"] == told.value("tidegate_request_seconds_count") == 3
    assert told.value("tidegate_overhead_seconds_bucket", le="5e-05") == 3


def test_the_text_says_of_each_family_once_what_it_is() -> None:
    text = render(snapshot(Metrics(), kimi="closed")).decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}

    assert families == {
        "tidegate_requests": "counter",
        "tidegate_attempts": "counter",
        "tidegate_tokens": "counter",
        "tidegate_empty_answers": "counter",
        "tidegate_unobserved_answers": "counter",
        "tidegate_request_seconds": "histogram",
        "tidegate_first_token_seconds": "histogram",
        "tidegate_overhead_seconds": "histogram",
        "tidegate_streams_in_flight": "gauge",
        "tidegate_breaker_state": "gauge",
        "tidegate_store_up": "gauge",
        "tidegate_store_failures": "counter",
        "tidegate_config_last_reload_success": "gauge",
        "tidegate_config_last_reload_timestamp_seconds": "gauge",
    }
    assert text.count("# HELP") == text.count("# TYPE") == len(families)


async def waits_during(work: Awaitable[object]) -> list[float]:
    """How long each of many short sleeps took meanwhile, the shortest first."""
    loop = asyncio.get_running_loop()
    times = [loop.time()]
    done = asyncio.Event()

    async def tick() -> None:
        while not done.is_set():
            await asyncio.sleep(0.001)
            times.append(loop.time())

    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        await work
        done.set()
    return sorted(later - earlier for earlier, later in pairwise(times))


def busy_metrics() -> Metrics:
    """50 routes and 200 clients."""
    metrics = Metrics()
    for route in range(50):
        for client in range(200):
            made = record(f"route{route}", client=f"client{client}", prompt_tokens=1, completion_tokens=1)
            count(metrics, made)
    return metrics


async def test_the_event_loop_goes_on_while_very_many_samples_are_rendered() -> None:
    taken = snapshot(busy_metrics())
    idle = await waits_during(asyncio.sleep(0.2))
    busy = await waits_during(asyncio.to_thread(render, taken))

    assert render(taken).count(b"\n") > 30_000
    assert len(busy) >= 30
    # Without stepping aside each wait is as long as the interpreter's switch interval, 5 ms.
    assert busy[len(busy) // 2] < idle[len(idle) // 2] + 0.003
    assert busy[-1] < sum(busy) / 3


class Answer:
    """What a page was answered with."""

    def answer(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.body = status, body


async def test_the_event_loop_goes_on_while_the_page_is_made() -> None:
    async def others() -> tuple[Report, ...]:
        return (Report(snapshot_of(cast("Any", other))),)

    # Two processes, as a supervisor has them to show.
    program, other = (
        SimpleNamespace(
            metrics=busy_metrics(),
            table=SimpleNamespace(routes={}),
            in_flight=(),
            stores=Stores(),
            others=others,
        )
        for _ in range(2)
    )
    pages = Pages(cast("Any", program), admin=True)
    answer = Answer()
    busy = await waits_during(pages._metrics(cast("Any", answer)))

    assert (answer.status, answer.body.count(b"\n") > 30_000) == (200, True)
    assert len(busy) >= 30
    assert busy[-1] < sum(busy) / 3
