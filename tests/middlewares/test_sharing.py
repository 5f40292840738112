"""What processes tell each other: any order of openings, probes and losses ends with all of one mind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from middlewares.breaker import Circuit, Options, Pass
from middlewares.faults import Refusal
from middlewares.resting import Resting
from middlewares.sharing import Heard, News, Sharing
from tests.middlewares.fakes import UNHURRIED

COOLDOWN = 30.0


class World:
    """A store as `redis_scripts.SHARE` is one, and some processes with a circuit each."""

    def __init__(self, processes: int = 2) -> None:
        self.now = 1000.0
        self.circuits: dict[str, float] = {}
        self.resting: dict[str, float] = {}
        options = Options(failures=1, cooldown=COOLDOWN)
        self.each = [Circuit(options, lambda: self.now) for _ in range(processes)]
        self.rests = [Resting(lambda: self.now) for _ in range(processes)]
        self.sharings = [Sharing(resting) for resting in self.rests]
        for circuit, sharing in zip(self.each, self.sharings, strict=True):
            sharing.share({"up": circuit})

    def tell(self, news: News) -> Heard:
        for name, seconds in news.opened.items():
            self.circuits[name] = max(self.now + seconds, self.circuits.get(name, 0.0))
        for name in news.closed:
            self.circuits.pop(name, None)
        for name, seconds in news.resting.items():
            self.resting[name] = self.now + seconds
        resting = {name: until - self.now for name, until in self.resting.items() if until > self.now}
        return Heard({name: until - self.now for name, until in self.circuits.items()}, resting)

    def turn(self, *numbers: int) -> None:
        for number in numbers or range(len(self.each)):
            sharing = self.sharings[number]
            sharing.hear(self.tell(sharing.news()))

    def fail(self, number: int) -> None:
        entered = self.each[number].enter()
        entered.failed()
        entered.leave()

    def probe(self, number: int) -> Pass:
        return self.each[number].enter()

    @property
    def states(self) -> list[str]:
        return [circuit.state for circuit in self.each]


def test_an_opening_is_followed_and_its_end_is_the_same_for_all() -> None:
    world = World(3)
    world.fail(0)
    world.now += 5
    world.turn()
    states = world.states
    left = [circuit.left for circuit in world.each]
    world.now += 26
    world.turn()

    assert states == ["open"] * 3 and left == [25.0] * 3
    assert world.states == ["half_open"] * 3


def test_a_probe_that_is_answered_closes_all_on_parole() -> None:
    world = World()
    world.fail(0)
    world.turn()
    world.now += COOLDOWN + 1
    world.turn()
    world.probe(1).answered()
    world.turn(1, 0)

    assert world.states == ["closed", "closed"]
    world.fail(0)
    assert world.states[0] == "open", "one more failure is too many"


def test_a_probe_that_fails_opens_all_anew() -> None:
    world = World()
    world.fail(0)
    world.turn()
    world.now += COOLDOWN + 1
    world.turn()
    entered = world.probe(1)
    entered.failed()
    world.turn(1, 0)

    assert world.states == ["open", "open"]
    assert [circuit.left for circuit in world.each] == [COOLDOWN] * 2


def test_what_a_store_has_forgotten_is_told_to_it_again_and_closes_nothing() -> None:
    world = World()
    world.fail(0)
    world.turn()
    world.rests[0].rest("a key", 100)
    world.turn()
    world.circuits.clear()
    world.resting.clear()
    for sharing in world.sharings:
        sharing.again()
    world.turn()

    assert world.states == ["open", "open"]
    assert set(world.circuits) == {"up"} and set(world.resting) == {"a key"}


def test_a_route_that_opens_while_the_answer_is_on_its_way_stays_open() -> None:
    world = World()
    sharing = world.sharings[0]
    told = world.tell(sharing.news())
    world.fail(0)
    sharing.hear(told)
    assert world.states[0] == "open"
    world.turn()

    assert world.states == ["open", "open"]


def test_a_key_rests_for_all_until_one_was_taken_with_it() -> None:
    world = World()
    world.rests[0].rest("a key", 60)
    world.turn()
    world.now += 10
    heard = [resting.left("a key") for resting in world.rests]
    world.rests[1].wake("a key")
    world.turn(1, 0)

    assert heard == [50.0, 50.0]
    assert [resting.left("a key") for resting in world.rests] == [0.0, 0.0]


@settings(UNHURRIED)
@given(
    st.lists(
        st.tuples(st.sampled_from(["fail", "probe", "leave", "turn", "wait", "forget"]), st.integers(0, 2)),
        max_size=40,
    )
)
def test_after_any_history_all_are_of_one_mind(history: list[tuple[str, int]]) -> None:
    world = World(3)
    entered: dict[int, Pass] = {}
    for what, who in history:
        if what == "wait":
            world.now += 12
        elif what == "turn":
            world.turn(who)
        elif what == "forget":
            world.circuits.clear()
            for sharing in world.sharings:
                sharing.again()
        elif what == "leave":
            if who in entered:
                entered.pop(who).leave()
        else:
            try:
                one = entered[who] = world.probe(who)
            except Refusal:
                continue
            (one.failed if what == "fail" else one.answered)()
    for one in entered.values():
        one.leave()
    world.turn()
    world.turn()

    assert len(set(world.states)) == 1, world.states
    left = [circuit.left for circuit in world.each]
    assert max(left) - min(left) <= 1.0
    # And nobody is shut out for longer than one opening lasts.
    assert max(left) <= COOLDOWN


def test_routes_that_are_gone_are_not_told_of() -> None:
    world = World(1)
    world.fail(0)
    world.sharings[0].share({})
    assert world.sharings[0].news() == News({}, [], [], [], {})


@pytest.mark.parametrize("probing", [True, False])
def test_a_probe_is_told_of_for_as_long_as_it_is_under_way(probing: bool) -> None:
    world = World(1)
    world.fail(0)
    world.now += COOLDOWN + 1
    entered = world.probe(0)
    world.sharings[0].claimed("up")
    if not probing:
        entered.leave()
    news = world.sharings[0].news()

    assert (news.probing, news.left) == ((["up"], []) if probing else ([], ["up"]))
    assert world.sharings[0].news().left == []
