"""A snapshot of the metrics as the text that Prometheus reads; the words are prometheus-client's.

To be imported when it is first needed, and to run in a thread: tens of thousands of samples take most of
a second, and the thread steps aside often enough that the event loop hardly notices. It needs nothing of
the process whose numbers they are.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from proxy.metrics import FIRST_TOKEN_S, OVERHEAD_S, REQUEST_S, Histogram, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SAMPLES_AT_ONCE = 50
_STEP_ASIDE_S = 50e-6
"""Asleep, a thread leaves the interpreter to the others; without that it would keep it 5 ms at a time."""

_Labels = tuple[str, ...]


def render(snapshot: Snapshot) -> bytes:
    """The whole page."""
    # One family at a time: joining all of them at once is one long step that nothing interrupts.
    return b"".join(_rendered(family) for family in _families(snapshot))


def _rendered(family: Metric) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_One(family))
    return generate_latest(registry)


class _One(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        yield self._family


def _families(of: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "requests", "Exchanges that are over.", ("route", "client", "status", "outcome"), of.requests
    )
    yield _counter("attempts", "Calls to providers, by how they ended.", ("route", "result"), of.attempts)
    yield _counter("tokens", "Tokens, as answers tell them.", ("route", "client", "kind"), of.tokens)
    yield _counter(
        "empty_answers", "Answers whose budget was spent on reasoning.", ("route",), of.empty_answers
    )
    yield _counter(
        "unobserved_answers",
        "Answers that came encoded and were not read.",
        ("route",),
        of.unobserved_answers,
    )
    yield _histogram("request_seconds", "From a request's head to its end.", of.request_seconds, REQUEST_S)
    yield _histogram(
        "first_token_seconds",
        "From a request's head to its stream's first content.",
        of.first_token_seconds,
        FIRST_TOKEN_S,
    )
    yield _histogram(
        "overhead_seconds", "Our own time in an exchange, no waits.", of.overhead_seconds, OVERHEAD_S
    )
    yield _gauge("streams_in_flight", "Streams and WebSockets under way.", ("route",), of.streams_in_flight)
    yield _gauge("breaker_state", "0 closed, 1 half open, 2 open.", ("route",), of.breaker_state)
    yield _gauge("store_up", "Whether the store of limits answers.", ("store",), of.store_up)
    yield _counter("store_failures", "Times that the store did not answer.", ("store",), of.store_failures)
    if of.reload_success is not None and of.reloaded_at is not None:
        success, at = float(of.reload_success), of.reloaded_at
        yield _gauge(
            "config_last_reload_success", "Whether the table was read when last tried.", (), {(): success}
        )
        yield _gauge(
            "config_last_reload_timestamp_seconds", "When the served table was loaded.", (), {(): at}
        )


_Values = Mapping[str, int] | Mapping[tuple[str, str], int] | Mapping[tuple[str, str, str], int]
_Numbers = _Values | Mapping[tuple[str, str, int, str], int] | Mapping[tuple[()], float]


def _counter(name: str, text: str, labels: _Labels, values: _Numbers) -> Metric:
    return _family(name, text, "counter", _samples(f"tidegate_{name}_total", labels, values))


def _gauge(name: str, text: str, labels: _Labels, values: _Numbers) -> Metric:
    return _family(name, text, "gauge", _samples(f"tidegate_{name}", labels, values))


def _histogram(name: str, text: str, by_route: Mapping[str, Histogram], bounds: tuple[float, ...]) -> Metric:
    return _family(name, text, "histogram", _buckets(f"tidegate_{name}", by_route, bounds))


def _samples(name: str, labels: _Labels, values: _Numbers) -> Iterator[Sample]:
    for key, value in values.items():
        told = (key,) if isinstance(key, str) else key
        yield Sample(name, dict(zip(labels, map(str, told), strict=True)), value)


def _buckets(name: str, by_route: Mapping[str, Histogram], bounds: tuple[float, ...]) -> Iterator[Sample]:
    for route, histogram in by_route.items():
        below = 0
        for bound, count in zip((*map(float, bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            yield Sample(f"{name}_bucket", {"route": route, "le": str(bound)}, below)
        yield Sample(f"{name}_count", {"route": route}, below)
        yield Sample(f"{name}_sum", {"route": route}, histogram.total)


def _family(name: str, text: str, kind: str, samples: Iterator[Sample]) -> Metric:
    family = Metric(f"tidegate_{name}", text, kind)
    # Made as they are written: all of them together would be work for the garbage collector, in one go.
    family.samples = cast("list[Sample]", _unhurried(samples))
    return family


def _unhurried(samples: Iterator[Sample]) -> Iterator[Sample]:
    for number, sample in enumerate(samples):
        if number % _SAMPLES_AT_ONCE == 0:
            time.sleep(_STEP_ASIDE_S)
        yield sample
