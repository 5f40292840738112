"""Small files, read whole: never a FIFO that does not end, never a device, never more than a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Up to `limit` + 1 bytes of a regular file, and the stat of the very file that was opened.

    Raises OSError, or ValueError for what is no regular file or no file name at all.
    """
    # Without O_NONBLOCK a FIFO in the file's place would stop the program here.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        parts: list[bytes] = []
        remaining = limit + 1
        while remaining and (part := os.read(descriptor, remaining)):
            parts.append(part)
            remaining -= len(part)
        return b"".join(parts), status
    finally:
        os.close(descriptor)
