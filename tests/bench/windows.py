"""One measurement each: a stretch of load on one subject, and what it cost.

Every function opens its own connections, warms them up before it looks at the accounts, and closes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

from tests.bench.accounting import cpu_seconds
from tests.bench.figures import percentile
from tests.bench.payloads import STREAM_HEAD, answer, ending, event, request, stream_number
from tests.bench.subjects import Target
from tests.bench.traffic import Call, Client, Stage

_OPENING_AT_ONCE = 64
_PACE = 1000
_SPIN_S = 5.0


@dataclass(frozen=True)
class Cost:
    """`count` requests or events in `seconds`, for which the subject's processes ran `cpu` seconds."""

    count: int
    seconds: float
    cpu: float

    @property
    def each_us(self) -> float:
        """Microseconds of the processor for one."""
        return self.cpu / self.count * 1e6

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.count / self.seconds


@dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        return Latency(percentile(seconds, 0.5) * 1e3, percentile(seconds, 0.99) * 1e3)


@contextmanager
def clients(stage: Stage, subject: Target, number: int) -> Iterator[list[Client]]:
    """Connections that are open for a while."""
    opened = [Client(stage, subject.port) for _ in range(number)]
    try:
        yield opened
    finally:
        for client in opened:
            client.close()


def requests(
    stage: Stage,
    subject: Target,
    seconds: float,
    *,
    connections: int = 32,
    size: int = 1024,
    warm: float = 0.15,
) -> Cost:
    """Each connection asks again as soon as it has its answer: the subject is never without work."""
    reply, ask = answer(), request(subject.path, subject.model, size)
    stage.answer = lambda call, _last: call.send(reply)
    repeat = Repeat(stage, lambda client: client.ask(ask))
    with clients(stage, subject, connections) as opened:
        for client in opened:
            client.done = repeat.again
        repeat.cost(subject, opened, warm)
        return repeat.cost(subject, opened, seconds)


class Repeat:
    """Each client is given its next piece of work as soon as it says `again`, until time is up.

    It begins and ends with nobody at work, so what was counted and what it cost are of the same pieces.
    """

    def __init__(self, stage: Stage, give: Callable[[Client], None]) -> None:
        self._stage = stage
        self._give = give
        self._running = False
        self._at_work = self._done = 0

    def again(self, client: Client) -> None:
        """Its piece of work is done."""
        self._done += 1
        if self._running:
            self._give(client)
        else:
            self._at_work -= 1

    def cost(self, subject: Target, opened: Sequence[Client], seconds: float) -> Cost:
        """What it cost to have them work for so long."""
        began, ran = time.perf_counter(), cpu_seconds(subject.pids)
        self._at_work, self._done, self._running = len(opened), 0, True
        for client in opened:
            self._give(client)
        turn_for(self._stage, seconds)
        self._running = False
        self._stage.until(lambda: self._at_work == 0, "end of what was under way")
        return Cost(self._done, time.perf_counter() - began, cpu_seconds(subject.pids) - ran)


def turn_for(stage: Stage, seconds: float) -> None:
    """Serve what happens for so long."""
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        stage.turn(left)


def one_by_one(stage: Stage, subject: Target, number: int) -> Latency:
    """How long a request takes when there is no other; the provider answers at once."""
    reply, ask = answer(), request(subject.path, subject.model)
    stage.answer = lambda call, _last: call.send(reply)
    times: list[float] = []
    with clients(stage, subject, 1) as (client,):
        client.done = lambda asking: times.append(time.perf_counter() - asking.sent)
        for wanted in range(1, number + 1):
            client.ask(ask)
            _spin(stage, times, wanted)
    return Latency.of(times[number // 10 :])


def first_tokens(stage: Stage, subject: Target, number: int) -> Latency:
    """From the request of a stream to its first event, when there is no other stream."""
    ask = request(subject.path, subject.model, stream=True)
    opening, last = STREAM_HEAD + event(), ending()

    def begin(call: Call, _last: bytes) -> None:
        call.send(opening)
        called.append(call)

    called: list[Call] = []
    stage.answer = begin
    times: list[float] = []
    with clients(stage, subject, 1) as (client,):
        client.moved = lambda asking: times.append(time.perf_counter() - asking.sent)
        for wanted in range(1, number + 1):
            client.ask(ask)
            _spin(stage, times, wanted)
            called.pop().send(last)
            stage.until(lambda: client.answers == len(times), "end of a stream")
    return Latency.of(times[number // 10 :])


def _spin(stage: Stage, times: list[float], wanted: int) -> None:
    """Wait for one more time without sleeping: to be woken would take a part of what is measured."""
    by = time.perf_counter() + _SPIN_S
    while len(times) < wanted and time.perf_counter() < by:
        stage.turn(0)
    stage.until(lambda: len(times) >= wanted, "answer")


@contextmanager
def streams(stage: Stage, subject: Target, number: int) -> Iterator[list[Client]]:
    """Open streams, each with its first event; they are ended properly at the end of the context."""
    opening, last = STREAM_HEAD + event(), ending()
    opened: list[Client] = []

    def begin(call: Call, request_end: bytes) -> None:
        opened[stream_number(request_end)].call = call
        call.send(opening)

    stage.answer = begin
    try:
        while len(opened) < number:
            upto = min(number, len(opened) + _OPENING_AT_ONCE)
            for each in range(len(opened), upto):
                opened.append(Client(stage, subject.port))
                opened[each].ask(request(subject.path, subject.model, stream=True, number=each))
            stage.until(lambda: all(client.events for client in opened[-_OPENING_AT_ONCE:]), "first event")
        yield opened
        for client in opened:
            _tell(client, last)
        stage.until(lambda: all(client.answers for client in opened), "end of all streams")
    finally:
        for client in opened:
            client.close()


def events(stage: Stage, subject: Target, opened: Sequence[Client], seconds: float, frame: bytes) -> Cost:
    """Each stream gets its next event as soon as the one before is through: each is read by itself."""
    repeat = Repeat(stage, lambda client: _tell(client, frame))
    for client in opened:
        client.moved = repeat.again
    repeat.cost(subject, opened, seconds / 8)
    return repeat.cost(subject, opened, seconds)


def _tell(client: Client, frame: bytes) -> None:
    """Write to the stream that this client reads."""
    assert client.call is not None
    client.call.send(frame)


def paced(
    stage: Stage, subject: Target, opened: Sequence[Client], seconds: float, frame: bytes
) -> tuple[Latency, Cost]:
    """Events at a steady rate over all streams, and how long each takes from the provider to its client.

    They are sent when they are due, whatever became of those before: a subject that stands still is not
    spared. Most of the time it sleeps, as in production.
    """
    times: list[float] = []

    def moved(client: Client) -> None:
        times.append(time.perf_counter() - client.due.popleft())

    for client in opened:
        client.moved = moved
    turns, count = cycle(opened), int(seconds * _PACE)
    began, ran = time.perf_counter(), cpu_seconds(subject.pids)
    for number in range(count):
        due = began + number / _PACE
        stage.turn(0)
        while time.perf_counter() < due:
            stage.turn(0)
        client = next(turns)
        client.due.append(time.perf_counter())
        _tell(client, frame)
    stage.until(lambda: not any(client.due for client in opened), "the last events")
    cost = Cost(count, time.perf_counter() - began, cpu_seconds(subject.pids) - ran)
    return Latency.of(times), cost


def wake(stage: Stage, subject: Target, opened: Sequence[Client], frame: bytes) -> tuple[Latency, float]:
    """All streams get an event at once: how long until each client has it, and its cost in µs for each."""
    times: list[float] = []
    began = 0.0
    for client in opened:
        client.moved = lambda _client: times.append(time.perf_counter() - began)
    began, ran = time.perf_counter(), cpu_seconds(subject.pids)
    for client in opened:
        _tell(client, frame)
    stage.until(lambda: len(times) >= len(opened), "event of every stream")
    return Latency.of(times), (cpu_seconds(subject.pids) - ran) / len(opened) * 1e6


def large(stage: Stage, subject: Target, size: int) -> None:
    """One request of that size, and its answer."""
    reply = answer()
    stage.answer = lambda call, _last: call.send(reply)
    with clients(stage, subject, 1) as (client,):
        client.ask(request(subject.path, subject.model, size))
        stage.until(lambda: client.answers == 1, "answer to a large request")


def each_once(stage: Stage, subject: Target, opened: Sequence[Client]) -> None:
    """One request on each connection."""
    reply, ask = answer(), request(subject.path, subject.model)
    stage.answer = lambda call, _last: call.send(reply)
    for client in opened:
        client.ask(ask)
    stage.until(lambda: all(client.answers for client in opened), "answer on every connection")
