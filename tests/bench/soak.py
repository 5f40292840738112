"""`make soak`: streams and requests for as long as TIDEGATE_SOAK_S says, and what of memory stays behind.

Exits with 1 if memory grew by 2 % or more from the end of the first tenth, when every cache and pool has
been filled, to the last. Ten million events are enough, however long it takes them.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from tests.bench import windows
from tests.bench.accounting import MIB, memory
from tests.bench.payloads import event
from tests.bench.subjects import Ground, Subject, cores, tidegate
from tests.bench.traffic import Stage

_STREAMS = 200
_STREAMS_S = 4.0
_REQUESTS_S = 1.0
_ENOUGH = 10_000_000
_MOST = 0.02
_FEWEST = 10
_SHOWN = 20


def main() -> int:
    seconds = float(os.environ.get("TIDEGATE_SOAK_S", "600"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = cores()
    places.take_load()
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as folder, closing(Stage()) as stage:
        with tidegate(Ground(stage, Path(folder), places)) as subject:
            return soak(stage, subject, seconds)


def soak(stage: Stage, subject: Subject, seconds: float) -> int:
    """The exit code."""
    held: list[int] = []
    passed = answered = 0
    until = time.monotonic() + seconds
    while (time.monotonic() < until and passed < _ENOUGH) or len(held) < _FEWEST:
        with windows.streams(stage, subject, _STREAMS) as opened:
            passed += windows.events(stage, subject, opened, min(_STREAMS_S, seconds), event()).count
        answered += windows.requests(stage, subject, min(_REQUESTS_S, seconds)).count
        subject.forget_output()
        held.append(memory(subject.pids))
    grown = growth(held)
    for moment in range(0, len(held), max(1, len(held) // _SHOWN)):
        sys.stdout.write(f"{moment:6}  {held[moment] / MIB:7.2f} MiB\n")
    sys.stdout.write(
        f"{passed:,} events, {answered:,} requests; memory grew by {grown:+.2%}, at most {_MOST:.0%}\n"
    )
    return int(grown >= _MOST)


def growth(held: Sequence[int]) -> float:
    """From the second tenth to the last, as a part of the former."""
    tenth = max(1, len(held) // 10)
    first = median(held[tenth : 2 * tenth])
    return median(held[-tenth:]) / first - 1


if __name__ == "__main__":
    sys.exit(main())
