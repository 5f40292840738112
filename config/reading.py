"""The text of a file that an operator writes, or the problem that keeps it from being one."""

from __future__ import annotations

from pathlib import Path

from config.files import Files
from config.problems import Mark
from config.report import Report

MAX_BYTES = 1024 * 1024


def read_bytes(path: Path, files: Files) -> bytes:
    """What is in it. Raises OSError, and ValueError for what is no small regular file."""
    data = files.read(path, MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return data


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def decoded(data: bytes, report: Report) -> str | None:
    """`data` as text; None with the problem reported."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8 text, from line {line} on: save it as UTF-8"
        before = error.object[error.object.rfind(b"\n", 0, error.start) + 1 : error.start]
        report.error(Mark(line, len(before.decode("utf-8", "replace")) + 1), "unreadable", message)
    return None
