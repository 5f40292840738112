"""What processes cost, by the operating system's count: Linux only.

Time of the processor and not of the clock wherever that is possible: other programs on the same machine
change it by a few percent, and the clock's by as much as they like.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
_SCHEDULED = 2
"""CPUCLOCK_SCHED, in a clock id made from a process id (clock_getcpuclockid(3)): what it ran, in ns."""


def family(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from family(int(child))


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """User and system time of these processes, all their threads, so far."""
    return sum(time.clock_gettime_ns((~pid << 3) | _SCHEDULED) for pid in pids) / 1e9


def cpu_ticks(pid: int) -> float:
    """Seconds of one process by /proc, which counts in hundredths: what `cpu_seconds` is checked by."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pids: tuple[int, ...]) -> int:
    """Bytes of memory that are these processes' own: of what they share, their share (PSS)."""
    return sum(_rollup(pid, "Pss") for pid in pids)


def resident(pids: tuple[int, ...]) -> int:
    """Bytes of memory that they have, what is shared counted for each."""
    return sum(_rollup(pid, "Rss") for pid in pids)


def _rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    raise LookupError(name)


def load_average() -> float:
    """Of the last minute: with nothing else running it is about 2 here, load and what is measured."""
    return os.getloadavg()[0]
