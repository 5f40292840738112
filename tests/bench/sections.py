"""What `make bench` measures, a section each: subjects side by side, round after round.

Within a round the subjects follow each other at once, so that a busy moment of the machine is one of all
of them, and each round has its own ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from tests.bench import windows
from tests.bench.accounting import KIB, MIB, memory, resident
from tests.bench.figures import Figure, Findings
from tests.bench.payloads import event
from tests.bench.subjects import FULL, Ground, Subject, Target, installed_peers, minimal, tidegate
from tests.faithful.memory import forget_peak, peak
from tests.operation.crowd import sockets_of

S = TypeVar("S")
M = TypeVar("M")
_US = "µs CPU"
_TIDEGATE, _MINIMAL = "tidegate", "minimal relay"


@dataclass(frozen=True)
class Plan:
    """How much of it: so many rounds, fewer for each point of a series, windows of so many seconds."""

    rounds: int = 15
    points: int = 7
    seconds: float = 0.5
    idle_streams: int = 8000
    counts: tuple[int, ...] = (1, 8, 64, 512, 4000)
    bodies: tuple[int, ...] = (KIB, 16 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)
    chunks: tuple[int, ...] = (256, KIB, 4 * KIB, 16 * KIB, 64 * KIB)
    chains: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    answers: int = 400
    paced: float = 1.0

    @property
    def open_files(self) -> int:
        """Of load and provider: both ends of each stream, and what subjects keep of those before."""
        return max(2 * self.idle_streams, 4 * max(self.counts)) + 1000


QUICK = Plan(
    rounds=5,
    points=3,
    seconds=0.3,
    idle_streams=1000,
    counts=(1, 64, 1000),
    bodies=(KIB, MIB, 16 * MIB),
    chunks=(256, 16 * KIB),
    chains=(0, 6),
    answers=150,
    paced=1.0,
)


@dataclass
class Bench:
    """A run: where it stands, how much it does, what it found, and whether the peers take part."""

    ground: Ground
    plan: Plan
    findings: Findings = field(default_factory=Findings)
    peers: bool = False

    def subjects(self, stack: ExitStack, *, peers: bool = True, **more: object) -> list[Subject]:
        """tidegate, the minimal relay and, where wanted, the peers, all running."""
        made = [tidegate(self.ground), minimal(self.ground)]
        if self.peers and peers:
            made += installed_peers(self.ground)
        return [stack.enter_context(subject) for subject in made]

    def rounds(
        self, subjects: Sequence[S], measure: Callable[[S], M], number: int | None = None
    ) -> list[list[M]]:
        """For each subject its measurements; who is first changes from round to round."""
        found: list[list[M]] = [[] for _ in subjects]
        for turn in range(self.plan.rounds if number is None else number):
            for place in range(len(subjects)):
                which = (turn + place) % len(subjects)
                found[which].append(measure(subjects[which]))
        return found


def startup(bench: Bench) -> None:
    """From the beginning of the process to the first answer, and what it holds at rest."""
    add = bench.findings.add
    for name, make in ((_TIDEGATE, tidegate), (_MINIMAL, minimal)):
        times, held = [], []
        for _ in range(bench.plan.points):
            with make(bench.ground) as subject:
                windows.one_by_one(bench.ground.stage, subject, 20)
                times.append(subject.started)
                held.append(resident(subject.pids) / MIB)
        took = add("start", "seconds to the first answer", name, "s", times)
        rests = add("start", "memory at rest, after 20 requests", name, "MiB", held)
        if make is tidegate:
            bench.findings.aim("start to ready, seconds", took, 0.7)
            bench.findings.aim("resident at rest, MiB", rests, 60)


def requests(bench: Bench) -> None:
    """1 KiB up and 1 KiB down, 32 at a time."""
    stage, findings = bench.ground.stage, bench.findings
    with ExitStack() as stack:
        subjects = bench.subjects(stack)
        found = bench.rounds(subjects, lambda one: windows.requests(stage, one, bench.plan.seconds))
    what = "processor for each request, 32 at a time"
    costs = [_costs(bench, "requests", what, *pair) for pair in zip(subjects, found, strict=True)]
    for subject, cost in zip(subjects, found, strict=True):
        findings.add("requests", "requests a second", subject.name, "/s", [one.rate for one in cost])
    _ratios(bench, costs)
    gain = findings.ratio(costs[1], costs[0])
    findings.aim("requests: the minimal relay's processor time, in ours", gain, 2.5, at_least=True)


def _costs(
    bench: Bench,
    section: str,
    what: str,
    subject: Target,
    costs: Iterable[windows.Cost],
    at: float | None = None,
) -> Figure:
    return bench.findings.add(section, what, subject.name, _US, [one.each_us for one in costs], at)


def _ratios(bench: Bench, costs: Sequence[Figure]) -> Figure:
    """Each as a part of the minimal relay's, which is the second; ours is given back."""
    ours, relay, *others = costs
    for figure in others:
        bench.findings.ratio(figure, relay)
    return bench.findings.ratio(ours, relay)


def chain(bench: Bench) -> None:
    """What each middleware adds: routes of one process, with none of them to all."""
    stage = bench.ground.stage
    whole = [*FULL, {"usage": {"include_usage": False}}]
    routes = {f"c{number}": whole[:number] for number in bench.plan.chains}
    with tidegate(bench.ground, routes=routes) as subject:
        targets = [
            Target(f"{number} middlewares", subject.port, f"c{number}/m", subject.path, subject.pids)
            for number in bench.plan.chains
        ]
        found = bench.rounds(targets, lambda one: windows.requests(stage, one, bench.plan.seconds))
    what = "processor for each request"
    costs = [_costs(bench, "chain", what, *pair) for pair in zip(targets, found, strict=True)]
    share = bench.findings.ratio(costs[-1], costs[0])
    bench.findings.aim("the whole chain against none", share, 1.08)


def bodies(bench: Bench) -> None:
    """Requests of all sizes, 4 at a time; the answer has 1 KiB."""
    stage = bench.ground.stage
    with ExitStack() as stack:
        subjects = bench.subjects(stack, peers=False)
        for size in bench.plan.bodies:
            _one_size(bench, subjects, size)
    with tidegate(bench.ground) as subject:
        windows.one_by_one(stage, subject, 20)
        _copies(bench, subject)


def _one_size(bench: Bench, subjects: Sequence[Subject], size: int) -> None:
    def measure(one: Subject) -> windows.Cost:
        return windows.requests(bench.ground.stage, one, bench.plan.seconds, connections=4, size=size)

    found = bench.rounds(subjects, measure, bench.plan.points)
    for pair in zip(subjects, found, strict=True):
        _costs(bench, "bodies", "processor for each request, by the size of its body", *pair, at=size)


def _copies(bench: Bench, subject: Subject) -> None:
    """The most memory that one large request takes, above what the process has at rest, in so many of it."""
    size, most = bench.plan.bodies[-1], 0.0
    rest = resident(subject.pids)
    forget_peak(subject.pids[0])
    for _ in range(bench.plan.points):
        windows.large(bench.ground.stage, subject, size)
        most = max(most, (peak(subject.pids[0]) - rest) / size)
    what = "peak of memory above rest, one at a time, as so many copies of the body"
    figure = bench.findings.add("bodies", what, subject.name, "copies", [most], at=size)
    bench.findings.aim("copies of a 16 MiB body", figure, 2)


def streams(bench: Bench) -> None:
    """Events of 256 bytes: each is read, sent and taken by itself."""
    plan = bench.plan
    with ExitStack() as stack:
        subjects = bench.subjects(stack)
        found = bench.rounds(subjects, lambda one: _events(bench, one, 64, 256))
        what = "processor for each event, 64 streams"
        costs = [_costs(bench, "streams", what, *pair) for pair in zip(subjects, found, strict=True)]
        share = _ratios(bench, costs)
        bench.findings.aim("streams: our processor time, in the minimal relay's", share, 0.65)
        for count in plan.counts:
            found = bench.rounds(subjects[:2], partial(_events, bench, count=count, size=256), plan.points)
            for pair in zip(subjects, found, strict=False):
                _costs(bench, "streams", "processor for each event, by how many streams", *pair, at=count)
        for size in plan.chunks:
            found = bench.rounds(subjects[:2], partial(_events, bench, count=64, size=size), plan.points)
            for pair in zip(subjects, found, strict=False):
                _costs(bench, "streams", "processor for each event, by its size, 64 streams", *pair, at=size)


def _events(bench: Bench, subject: Subject, count: int, size: int) -> windows.Cost:
    with windows.streams(bench.ground.stage, subject, count) as opened:
        return windows.events(bench.ground.stage, subject, opened, bench.plan.seconds, event(size))


def latency(bench: Bench) -> None:
    """What is added to the way without a proxy, at a load that leaves everybody time."""
    stage, plan = bench.ground.stage, bench.plan
    kinds: dict[str, Callable[[Target], windows.Latency]] = {
        "a request, one at a time": lambda one: windows.one_by_one(stage, one, plan.answers),
        "the first event of a stream, one at a time": lambda one: windows.first_tokens(
            stage, one, plan.answers
        ),
    }
    with ExitStack() as stack:
        subjects = [Target("direct", stage.port), *bench.subjects(stack)]
        for kind, measure in kinds.items():
            _added(bench, kind, subjects, bench.rounds(subjects, measure, plan.points))
        found = bench.rounds(subjects, lambda one: _paced(bench, one))
    times = [[latency for latency, _ in measured] for measured in found]
    p99 = _added(bench, "an event, 1,000 a second on 100 streams", subjects, times)
    what = "processor for each event, 1,000 a second on 100 streams"
    costs = [
        _costs(bench, "latency", what, subject, [cost for _, cost in measured])
        for subject, measured in list(zip(subjects, found, strict=True))[1:]
    ]
    _ratios(bench, costs)
    if "nginx" in p99:
        share = bench.findings.ratio(p99[_TIDEGATE], p99["nginx"])
        bench.findings.aim("p99 of what is added to an event, in nginx's", share, 1.5)


def _paced(bench: Bench, subject: Target) -> tuple[windows.Latency, windows.Cost]:
    with windows.streams(bench.ground.stage, subject, 100) as opened:
        return windows.paced(bench.ground.stage, subject, opened, bench.plan.paced, event())


def _added(
    bench: Bench, kind: str, subjects: Sequence[Target], found: Sequence[Sequence[windows.Latency]]
) -> dict[str, Figure]:
    """The p99 of each subject; the first subject is no proxy, and is taken off the others."""
    without, p99 = found[0], {}
    for subject, measured in zip(subjects[1:], found[1:], strict=True):
        pairs = list(zip(measured, without, strict=True))
        what, name, add = f"added to {kind}", subject.name, bench.findings.add
        add("latency", f"{what}: p50", name, "ms", [one.p50 - none.p50 for one, none in pairs])
        p99[name] = add("latency", f"{what}: p99", name, "ms", [one.p99 - none.p99 for one, none in pairs])
    return p99


def idle(bench: Bench) -> None:
    """Streams on which nothing happens, and then something on all of them at once."""
    findings, count = bench.findings, bench.plan.idle_streams
    held: dict[str, list[float]] = {}
    woken: dict[str, list[float]] = {}
    for _ in range((bench.plan.points + 1) // 2):
        for make in (tidegate, minimal):
            with make(bench.ground) as subject:
                windows.one_by_one(bench.ground.stage, subject, 20)
                before = memory(subject.pids)
                with windows.streams(bench.ground.stage, subject, count) as opened:
                    held.setdefault(subject.name, []).append((memory(subject.pids) - before) / count / KIB)
                    for _ in range(3):
                        latency, _cpu = windows.wake(bench.ground.stage, subject, opened, event())
                        woken.setdefault(subject.name, []).append(latency.p99)
    for name, sizes in held.items():
        findings.add("idle", "memory for each idle stream", name, "KiB", sizes, at=count)
    for name in held:
        findings.add(
            "idle", "p99 until a client has its event when all wake", name, "ms", woken[name], at=count
        )
    (size,) = findings.find("idle", "memory for each idle stream", _TIDEGATE)
    ours, theirs = (
        findings.find("idle", "p99 until a client has its event when all wake", name)[0]
        for name in (_TIDEGATE, _MINIMAL)
    )
    findings.aim(f"memory for each of {count:,} idle streams, KiB", size, 25)
    findings.aim(f"p99 when {count:,} streams wake at once, ms", ours, 500)
    findings.aim("the same, in the minimal relay's", findings.ratio(ours, theirs), 1)


def workers(bench: Bench) -> None:
    """Two workers on the same core as one: what it costs that there are two."""
    stage = bench.ground.stage
    with (
        tidegate(bench.ground, name="1 worker") as one,
        tidegate(bench.ground, name="2 workers", workers=2) as two,
    ):
        found = bench.rounds([one, two], lambda each: windows.requests(stage, each, bench.plan.seconds))
        with windows.clients(stage, two, 400) as opened:
            windows.each_once(stage, two, opened)
            held = [sockets_of(pid, two.port) for pid in two.pids]
    costs = [
        _costs(bench, "workers", "processor for each request", *pair)
        for pair in zip((one, two), found, strict=True)
    ]
    share = bench.findings.ratio(costs[1], costs[0])
    most = bench.findings.add(
        "workers",
        "of 400 connections, the worker with the most has",
        two.name,
        "%",
        [max(held) / sum(held) * 100],
    )
    bench.findings.aim("processor for each request with 2 workers, in that with 1", share, 1.1)
    bench.findings.aim("of 400 connections the worker with the most has, %", most, 60)


def ceiling(bench: Bench) -> None:
    """Load and provider by themselves: no subject can be seen to be faster than this."""
    stage = bench.ground.stage
    direct = Target("no proxy", stage.port)
    rounds = range(bench.plan.rounds)
    rates = [windows.requests(stage, direct, bench.plan.seconds).rate for _ in rounds]
    bench.findings.add("ceiling", "requests a second", direct.name, "/s", rates)
    rates = []
    for _ in rounds:
        with windows.streams(stage, direct, 64) as opened:
            rates.append(windows.events(stage, direct, opened, bench.plan.seconds, event()).rate)
    bench.findings.add("ceiling", "events a second, 64 streams", direct.name, "/s", rates)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "ceiling": ceiling,
    "start": startup,
    "requests": requests,
    "chain": chain,
    "bodies": bodies,
    "streams": streams,
    "latency": latency,
    "idle": idle,
    "workers": workers,
}
