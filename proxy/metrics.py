"""What happened so far, in numbers: plain dicts that an exchange adds to, and snapshots of them.

Nothing here knows Prometheus, locks or waits: counting one exchange is a few stores into dicts. A
snapshot is data without ties to the process that took it, for msgpack, so that another may add several
up and render them (`proxy.exposition`). Every label comes from a bounded set: the table's routes, the
clients' configured names, statuses, and the words of this program; nothing that a client or a provider
says becomes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, time
from types import MappingProxyType
from typing import TypeVar

from msgspec import Struct

from middlewares.breaker import State
from middlewares.stores import Figures
from proxy.logs import Record

REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 15, 20, 30, 60, 120, 300)
OVERHEAD_S = (
    *(50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 750e-6),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
"""Upper bounds of the buckets, in seconds."""
BREAKER: Mapping[State, int] = {"closed": 0, "half_open": 1, "open": 2}
"""The better the lower, so that of several the worst is the highest."""
_PLAUSIBLE_TOKENS = 10**9
"""For one answer. A provider that says more has made a mistake, and a counter keeps it for ever."""
_Key = TypeVar("_Key", bound="str | tuple[str | int, ...]")


class Histogram(Struct):
    """`counts` are those of each bucket alone, and of what is over the last bound; `total` is the sum."""

    counts: list[int]
    total: float = 0.0


Histograms = dict[str, Histogram]
"""By route."""


class Snapshot(Struct, frozen=True):
    """The numbers of one process, or of several together; times of the clock in Unix seconds.

    The keys are the labels' values in the metric's order. `reload_success` and `reloaded_at` are None
    where no process is left of which that could be said.
    """

    requests: dict[tuple[str, str, int, str], int]
    attempts: dict[tuple[str, str], int]
    tokens: dict[tuple[str, str, str], int]
    empty_answers: dict[str, int]
    unobserved_answers: dict[str, int]
    request_seconds: Histograms
    first_token_seconds: Histograms
    overhead_seconds: Histograms
    streams_in_flight: dict[str, int]
    breaker_state: dict[str, int]
    reload_success: bool | None
    reloaded_at: float | None
    store_up: dict[str, int] = {}
    store_failures: dict[str, int] = {}


class Metrics:
    """The counters of one process; it outlives every table. A route that is not chosen has no name: `""`."""

    def __init__(self) -> None:
        self.started = time()
        """Unix seconds."""
        self._began = monotonic()
        self._requests: dict[tuple[str, str, int, str], int] = {}
        self._outcomes: dict[tuple[str, str], int] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._tokens: dict[tuple[str, str, str], int] = {}
        self._empty: dict[str, int] = {}
        self._unobserved: dict[str, int] = {}
        self._request_s: Histograms = {}
        self._first_token_s: Histograms = {}
        self._overhead_s: Histograms = {}
        self.reload_success = True
        """Of the last attempt to load a table."""
        self.reloaded_at = self.started
        """When the table that is served was loaded."""

    @property
    def uptime(self) -> float:
        """Seconds since it began to count."""
        return monotonic() - self._began

    def reloaded(self, *, success: bool) -> None:
        """A table was loaded anew, or could not be and the old one stays."""
        self.reload_success = success
        if success:
            self.reloaded_at = time()

    def attempt(self, route: str, result: str) -> None:
        """A call to a provider is over, or none was made: `middlewares.exchange` says when."""
        _add(self._attempts, (route, result), 1)

    def refused(self, record: Record) -> None:
        """What came in was no request; it has an answer and a line in the log, and took no time."""
        self._count(record.route or "", record.client or "", record)

    def exchange(self, record: Record, overhead: float, *, unobserved: bool) -> None:
        """An exchange is over; `overhead` is our own time in seconds."""
        route, client = record.route or "", record.client or ""
        self._count(route, client, record)
        _observe(self._request_s, REQUEST_S, route, record.duration_ms / 1000)
        _observe(self._overhead_s, OVERHEAD_S, route, overhead)
        if record.ttft_ms is not None:
            _observe(self._first_token_s, FIRST_TOKEN_S, route, record.ttft_ms / 1000)
        self._spend(route, client, "prompt", record.prompt_tokens)
        self._spend(route, client, "completion", record.completion_tokens)
        self._spend(route, client, "reasoning", record.reasoning_tokens)
        self._spend(route, client, "cached", record.cached_tokens)
        if record.empty_answer:
            _add(self._empty, route, 1)
        if unobserved:
            _add(self._unobserved, route, 1)

    def _count(self, route: str, client: str, record: Record) -> None:
        # Not by `_add`: this is done for every exchange.
        requests, key = self._requests, (route, client, record.status, record.outcome)
        requests[key] = requests.get(key, 0) + 1
        outcomes, ended = self._outcomes, (route, record.outcome)
        outcomes[ended] = outcomes.get(ended, 0) + 1

    def _spend(self, route: str, client: str, kind: str, tokens: int | None) -> None:
        if tokens is not None and 0 < tokens < _PLAUSIBLE_TOKENS:
            _add(self._tokens, (route, client, kind), tokens)

    def outcomes(self, route: str) -> dict[str, int]:
        """How the exchanges of a route ended so far."""
        return {outcome: count for (name, outcome), count in self._outcomes.items() if name == route}

    def outcomes_of(self, client: str) -> dict[str, int]:
        """How the exchanges of a client ended so far, on all routes."""
        return outcomes_of(self._requests, client)

    def snapshot(
        self,
        streams: Mapping[str, int],
        breakers: Mapping[str, State],
        stores: Mapping[str, Figures] = MappingProxyType({}),
    ) -> Snapshot:
        """All of it, with what is known elsewhere: streams in flight of every route, breakers, stores.

        A route of the table is there from the beginning, with nothing counted yet, so that its first
        failure is an increase and not a series that appears.
        """
        none = dict.fromkeys(streams, 0)
        return Snapshot(
            requests=self._requests.copy(),
            attempts={(route, "ok"): 0 for route in none} | self._attempts,
            tokens=self._tokens.copy(),
            empty_answers=none | self._empty,
            unobserved_answers=none | self._unobserved,
            request_seconds=_copied(self._request_s),
            first_token_seconds=_copied(self._first_token_s),
            overhead_seconds=_copied(self._overhead_s),
            streams_in_flight=dict(streams),
            breaker_state={route: BREAKER[state] for route, state in breakers.items()},
            reload_success=self.reload_success,
            reloaded_at=self.reloaded_at,
            store_up={name: int(store.up) for name, store in stores.items()},
            store_failures={name: store.failures for name, store in stores.items()},
        )


def outcomes_of(requests: Mapping[tuple[str, str, int, str], int], client: str) -> dict[str, int]:
    """How many of the `requests` of a client ended how."""
    found: dict[str, int] = {}
    for (_, name, _, outcome), number in requests.items():
        if name == client:
            _add(found, outcome, number)
    return found


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Several processes as one: counts, histograms and streams in flight add up.

    Of the rest it is the worst that has to be seen, and a sum or a mean would hide it: the breaker that is
    furthest from closed, a store that one has lost, a reload that failed anywhere, and the oldest of the
    tables that are served, since one process that stays behind is what somebody looks for there.
    """
    successes = [one.reload_success for one in snapshots if one.reload_success is not None]
    times = [one.reloaded_at for one in snapshots if one.reloaded_at is not None]
    breakers: dict[str, int] = {}
    stores: dict[str, int] = {}
    for one in snapshots:
        for route, state in one.breaker_state.items():
            breakers[route] = max(state, breakers.get(route, state))
        for name, up in one.store_up.items():
            stores[name] = min(up, stores.get(name, up))
    return Snapshot(
        requests=_summed(one.requests for one in snapshots),
        attempts=_summed(one.attempts for one in snapshots),
        tokens=_summed(one.tokens for one in snapshots),
        empty_answers=_summed(one.empty_answers for one in snapshots),
        unobserved_answers=_summed(one.unobserved_answers for one in snapshots),
        request_seconds=_together(one.request_seconds for one in snapshots),
        first_token_seconds=_together(one.first_token_seconds for one in snapshots),
        overhead_seconds=_together(one.overhead_seconds for one in snapshots),
        streams_in_flight=_summed(one.streams_in_flight for one in snapshots),
        breaker_state=breakers,
        reload_success=all(successes) if successes else None,
        reloaded_at=min(times, default=None),
        store_up=stores,
        store_failures=_summed(one.store_failures for one in snapshots),
    )


def past(last: Snapshot) -> Snapshot:
    """What stays of a process that has ended: it did what it did, and is in no state any more.

    To be merged on with those that live, since a counter must not go back.
    """
    return Snapshot(
        requests=last.requests,
        attempts=last.attempts,
        tokens=last.tokens,
        empty_answers=last.empty_answers,
        unobserved_answers=last.unobserved_answers,
        request_seconds=last.request_seconds,
        first_token_seconds=last.first_token_seconds,
        overhead_seconds=last.overhead_seconds,
        streams_in_flight={},
        breaker_state={},
        reload_success=None,
        reloaded_at=None,
        store_failures=last.store_failures,
    )


def _add(counts: dict[_Key, int], key: _Key, number: int) -> None:
    counts[key] = counts.get(key, 0) + number


def _observe(histograms: Histograms, bounds: Sequence[float], route: str, value: float) -> None:
    histogram = histograms.get(route)
    if histogram is None:
        histogram = histograms[route] = Histogram([0] * (len(bounds) + 1))
    histogram.counts[bisect_left(bounds, value)] += 1
    histogram.total += value


def _copied(histograms: Histograms) -> Histograms:
    return {route: Histogram(one.counts.copy(), one.total) for route, one in histograms.items()}


def _summed(parts: Iterable[dict[_Key, int]]) -> dict[_Key, int]:
    sums: dict[_Key, int] = {}
    for part in parts:
        for key, number in part.items():
            _add(sums, key, number)
    return sums


def _together(parts: Iterable[Histograms]) -> Histograms:
    sums: Histograms = {}
    for part in parts:
        for route, one in part.items():
            before = sums.get(route) or Histogram([0] * len(one.counts))
            counts = [a + b for a, b in zip(before.counts, one.counts, strict=True)]
            sums[route] = Histogram(counts, before.total + one.total)
    return sums
