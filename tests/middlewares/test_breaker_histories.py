"""A breaker in any order of events, held to what the contract says of one history."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from middlewares.exchange import Exchange, Reply
from middlewares.faults import Fault, Outcome, Refusal
from tests.middlewares.breakers import COOLDOWN, FAILURES, RESET, Scene, Step, limited
from tests.middlewares.fakes import UNHURRIED, exchange_of

BAD: list[tuple[Step, Outcome]] = [(RESET, "ok"), (503, "ok"), (200, "cut"), (200, "timeout")]
NEUTRAL: list[tuple[Step, Outcome]] = [
    (404, "ok"),
    (429, "ok"),
    (Refusal("queue_full", "busy"), "ok"),
    (200, "client_gone"),
    (200, "proxy_error"),
]
GOOD: list[tuple[Step, Outcome]] = [(200, "ok"), (302, "ok")]

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0, 29.0, 30.0, 100.0])),
        st.tuples(st.just("quota"), st.sampled_from([61.0, 1000.0])),
        st.tuples(st.just("ask"), st.sampled_from(["bad", "good", "neutral"]), st.integers(0, 9)),
        st.tuples(st.just("begin"), st.sampled_from(["bad", "good", "neutral"]), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9)),
    ),
    max_size=40,
)
KINDS = {"bad": BAD, "good": GOOD, "neutral": NEUTRAL}


class Expected:
    """What the contract says of one history, told by the history and not by counters."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.until: float | None = None
        self.epoch = 0
        self.probe: int | None = None

    def lets_through(self, now: float) -> bool:
        return self.until is None or (now >= self.until and self.probe is None)

    def shut(self, until: float) -> None:
        self.until = max(until, self.until or until)
        self.history, self.probe = [], None
        self.epoch += 1

    def answered(self, number: int) -> None:
        if self.probe == number:
            self.until = self.probe = None
            self.history = ["bad"] * (FAILURES - 1)

    def ended(self, number: int, epoch: int, kind: str, now: float) -> None:
        was_probe, self.probe = self.probe == number, None if self.probe == number else self.probe
        if epoch != self.epoch or kind == "neutral":
            return
        self.history.append(kind)
        row = self.history[-FAILURES:]
        if kind == "bad" and (was_probe or (len(row) == FAILURES and set(row) == {"bad"})):
            self.shut(now + COOLDOWN)


class Play:
    """Plays a history on a breaker and on what is expected of it, and compares them after each event."""

    def __init__(self) -> None:
        self.scene, self.expected = Scene(), Expected()
        self.number = 0
        self.flying: list[tuple[int, int, str, Outcome, Exchange, Reply]] = []

    async def play(self, event: tuple[Any, ...]) -> None:
        if event[0] == "wait":
            self.scene.now += event[1]
        elif event[0] == "quota":
            await self.quota(event[1])
        elif event[0] == "end":
            if self.flying:
                await self.end(event[1] % len(self.flying))
        else:
            kind, choices = event[1], KINDS[event[1]]
            await self.begin(kind, *choices[event[2] % len(choices)])
            if event[0] == "ask" and self.flying:
                await self.end(len(self.flying) - 1)

    async def quota(self, seconds: float) -> None:
        through = self.expected.lets_through(self.scene.now)
        told = await self.scene.ask(limited(headers={"Retry-After": str(seconds)}))
        assert (told == "answered") == through
        if through:
            self.expected.shut(self.scene.now + seconds)

    async def begin(self, kind: str, step: Step, outcome: Outcome) -> None:
        scene, expected = self.scene, self.expected
        self.number += 1
        number, epoch, before = self.number, expected.epoch, scene.calls
        through = expected.lets_through(scene.now)
        if through and expected.until is not None:
            expected.probe = number
        exchange = exchange_of()
        try:
            exchange, reply = await scene.begin(step, exchange)
        except Fault:
            if through:
                expected.ended(number, epoch, kind, scene.now)
        else:
            if isinstance(step, int) and step < 400:
                expected.answered(number)
                self.flying.append((number, epoch, kind, outcome, exchange, reply))
            else:
                await exchange.stack.aclose()
                expected.ended(number, epoch, kind, scene.now)
        assert scene.calls - before == through

    async def end(self, place: int) -> None:
        number, epoch, kind, outcome, exchange, reply = self.flying.pop(place)
        await self.scene.end(exchange, reply, outcome)
        self.expected.ended(number, epoch, kind, self.scene.now)

    def agree(self) -> None:
        until, now = self.expected.until, self.scene.now
        wanted = "closed" if until is None else "open" if now < until else "half_open"
        assert self.scene.state == wanted


@UNHURRIED
@given(EVENTS)
@example([("begin", "good", 0), *[("ask", "bad", 0)] * 3, ("end", 0), ("ask", "good", 0)])
@example(
    [*[("begin", "bad", 2)] * 3, *[("ask", "bad", 0)] * 3, ("wait", 10.0), *[("end", 0)] * 3, ("wait", 29.0)]
)
@example([*[("ask", "bad", 0)] * 3, ("wait", 30.0), ("begin", "good", 0), ("ask", "bad", 2)])
async def test_in_any_order_of_events_it_is_open_when_and_only_when_it_should_be(
    events: list[tuple[Any, ...]],
) -> None:
    play = Play()
    for event in events:
        await play.play(event)
        play.agree()
