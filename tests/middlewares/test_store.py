"""The buckets and slots in memory, against exact numbers and against the clock."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from config.units import Rate
from middlewares.store import MemoryGrant, MemoryStore, Refused
from tests.middlewares.fakes import UNHURRIED
from tests.middlewares.limits import Clock, Model, demand

MINUTE = Rate(60, 60.0)
rates = st.builds(Rate, st.integers(1, 1000), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))


def taken(store: MemoryStore, times: int = 1, **limits: object) -> list[MemoryGrant | Refused]:
    return [store.decide(demand(**limits)) for _ in range(times)]  # type: ignore[arg-type]


def test_a_bucket_gives_all_it_holds_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    at_once = taken(store, 70, requests=MINUTE)
    clock.tenths += 9
    too_early = taken(store, requests=MINUTE)
    clock.tenths += 1
    in_time = taken(store, 2, requests=MINUTE)

    assert sum(isinstance(one, MemoryGrant) for one in at_once) == 60
    assert at_once[-1] == Refused("requests", 1.0)
    assert isinstance(too_early[0], Refused)
    assert [type(one) for one in in_time] == [MemoryGrant, Refused]


@UNHURRIED
@given(rates, st.lists(st.integers(0, 700), min_size=2, max_size=300))
def test_no_order_of_requests_lets_anybody_beyond_the_limit_and_its_burst(
    rate: Rate, gaps: list[int]
) -> None:
    """In every stretch of time there are at most as many as the bucket holds and as come in meanwhile."""
    clock = Clock()
    store = MemoryStore(clock)
    at: list[Fraction] = []
    for gap in gaps:
        clock.tenths += gap
        if isinstance(store.decide(demand(requests=rate)), MemoryGrant):
            at.append(Fraction(clock.tenths, 10))

    for first in range(len(at)):
        for last in range(first, len(at)):
            refilled = (at[last] - at[first]) * rate.count / Fraction(rate.seconds)
            assert last - first + 1 <= rate.count + refilled
    # And it is no stricter than it says: whoever is slow enough is never refused.
    if all(gap * rate.count >= rate.seconds * 10 for gap in gaps):
        assert len(at) == len(gaps)


@UNHURRIED
@given(rates, st.integers(0, 2000), st.integers(1, 1000), st.integers(0, 100))
def test_whoever_waits_as_long_as_was_said_is_let_in_and_not_before(
    rate: Rate, spent: int, cost: int, gap: int
) -> None:
    clock = Clock()
    store = MemoryStore(clock)
    first = store.decide(demand(tokens=rate))
    assert isinstance(first, MemoryGrant)
    first.end(spent)
    clock.tenths += gap
    now = clock()
    refused = store.decide(demand(tokens=rate, cost=cost))
    if isinstance(refused, MemoryGrant):
        return
    # A clock that counts from 1970 knows a millionth of a second, and little below.
    for seconds, granted in ((refused.wait + 1e-6, True), (refused.wait * 0.999 - 1e-6, False)):
        later = MemoryStore(lambda seconds=seconds: now + max(0.0, seconds))  # type: ignore[misc]
        later._buckets = store._buckets.copy()
        assert isinstance(later.decide(demand(tokens=rate, cost=cost)), MemoryGrant) is granted


def test_nothing_is_taken_of_any_limit_when_one_of_them_refuses() -> None:
    store = MemoryStore(Clock())
    held = taken(store, requests=MINUTE, concurrent=1)[0]
    assert isinstance(held, MemoryGrant)
    refused = taken(store, 100, requests=MINUTE, concurrent=1)
    held.end(None)
    after = taken(store, 60, requests=MINUTE)

    assert {one.kind for one in refused if isinstance(one, Refused)} == {"concurrent"}
    assert sum(isinstance(one, MemoryGrant) for one in after) == 59


@pytest.mark.parametrize(("cost", "left"), [(None, 70), (0, 100), (30, 70), (90, 10), (250, 0)])
def test_tokens_are_held_by_the_guess_and_charged_by_what_it_cost(cost: int | None, left: int) -> None:
    store, rate = MemoryStore(Clock()), Rate(100, 60.0)
    held = store.decide(demand(tokens=rate, cost=30))
    meanwhile = store.decide(demand(tokens=rate, cost=71))
    assert isinstance(held, MemoryGrant) and isinstance(meanwhile, Refused)
    held.end(cost)
    after = [store.decide(demand(tokens=rate, cost=1)) for _ in range(101)]

    assert sum(isinstance(one, MemoryGrant) for one in after) == left
    # What an answer cost beyond the limit is paid off.
    if cost == 250:
        refused = after[0]
        assert isinstance(refused, Refused) and refused.wait == pytest.approx(60 * 151 / 100)


def test_more_tokens_than_the_bucket_holds_are_let_in_when_it_is_full() -> None:
    clock = Clock()
    store, rate = MemoryStore(clock), Rate(100, 60.0)
    first, second = (store.decide(demand(tokens=rate, cost=10**6)) for _ in range(2))
    clock.tenths += 600
    third = store.decide(demand(tokens=rate, cost=10**6))

    assert isinstance(first, MemoryGrant) and isinstance(third, MemoryGrant)
    assert second == Refused("tokens", 60.0)


def test_a_changed_limit_keeps_what_was_used_and_a_lowered_one_at_most_the_whole() -> None:
    store = MemoryStore(Clock())
    assert len([one for one in taken(store, 60, requests=MINUTE) if isinstance(one, MemoryGrant)]) == 60
    raised = [isinstance(one, MemoryGrant) for one in taken(store, 50, requests=Rate(100, 60.0))]
    lowered = taken(store, requests=Rate(10, 60.0))
    other_time = taken(store, requests=Rate(60, 3600.0))

    assert sum(raised) == 40
    assert lowered == [Refused("requests", 6.0)]
    assert isinstance(other_time[0], MemoryGrant)


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    taken(store, 60, requests=MINUTE)
    clock.tenths -= 36_000
    assert taken(store, requests=MINUTE) == [Refused("requests", 1.0)]


def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    sizes = []
    for number in range(5000):
        clock.tenths += 1
        store.decide(demand(f"address {number}", requests=MINUTE))
        sizes.append(store.buckets)

    # One a second is refilled, ten a second come.
    assert max(sizes) <= 40


def test_no_number_of_strangers_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("middlewares.store._MOST_BUCKETS", 100)
    store = MemoryStore(Clock())
    for number in range(1000):
        store.decide(demand(f"address {number}", requests=Rate(1, 86400.0)))

    assert store.buckets == 100
    assert isinstance(store.decide(demand("address 999", requests=Rate(1, 86400.0))), Refused)


class Against(RuleBasedStateMachine):
    """Any order of demands, ends, changed limits and time: as in exact numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.models: dict[str, Model] = {}
        self.held: list[MemoryGrant] = []

    @property
    def now(self) -> Fraction:
        return Fraction(self.clock.tenths, 10)

    @rule(
        name=st.sampled_from("ab"),
        requests=st.none() | rates,
        tokens=st.none() | rates,
        concurrent=st.none() | st.integers(1, 3),
        cost=st.integers(0, 1500),
    )
    def take(
        self, name: str, requests: Rate | None, tokens: Rate | None, concurrent: int | None, cost: int
    ) -> None:
        wanted = demand(name, requests=requests, tokens=tokens, concurrent=concurrent, cost=cost)
        expected = self.models.setdefault(name, Model()).take(wanted, self.now)
        found = self.store.decide(wanted)
        if expected is None:
            assert isinstance(found, MemoryGrant)
            self.held.append(found)
        else:
            assert isinstance(found, Refused)
            assert math.isclose(found.wait, expected[1], rel_tol=1e-6, abs_tol=1e-6)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tokens=st.none() | st.integers(0, 3000))
    def end(self, data: st.DataObject, tokens: int | None) -> None:
        granted = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.models[granted.demand.name].end(granted.demand, tokens, self.now)
        granted.end(tokens)

    @rule(tenths=st.integers(1, 40_000))
    def wait(self, tenths: int) -> None:
        self.clock.tenths += tenths

    @invariant()
    def slots_are_those_that_are_held(self) -> None:
        for name, model in self.models.items():
            assert self.store.in_use(name) == model.slots


TestAgainstExactNumbers = Against.TestCase
TestAgainstExactNumbers.settings = settings(UNHURRIED, max_examples=60, stateful_step_count=30)


def test_the_long_run_is_the_rate() -> None:
    """A client that always asks gets its burst, and from then on one a second for an hour."""
    clock = Clock()
    store = MemoryStore(clock)
    at = []
    for _ in range(36_000):
        clock.tenths += 1
        if isinstance(store.decide(demand(requests=MINUTE)), MemoryGrant):
            at.append(clock.tenths)

    assert len(at) == 60 + 3600 - 1 or len(at) == 60 + 3600
    assert {later - earlier for earlier, later in pairwise(at[80:])} == {10}
