"""What a process costs, by the kernel's count."""

from __future__ import annotations

from pathlib import Path

MIB = 1024 * 1024


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def resident(pid: int) -> int:
    """Bytes of memory that it has now."""
    return _field(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it ever had, or has had since `forget_peak`."""
    return _field(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Have the peak counted from what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """Sockets included."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
