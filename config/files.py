"""Small files, read whole: never a FIFO that does not end, never a device, never more than a limit.

A table and the files that it names are read once and remembered together (`Files`), so that what was judged
is what is served, in every process that serves it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

Signature = tuple[int, ...] | None
"""What tells one content of a file from another without reading it; None where there is no file."""


def signature(path: Path) -> Signature:
    """Of the file that is there, through every symlink."""
    try:
        return signature_of(path.stat())
    except (OSError, ValueError):
        return None


def signature_of(status: os.stat_result) -> Signature:
    """Of a file whose stat is known. Renaming and swapping change it as well as writing does."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
    )


class Files:
    """What was read, each file once. `base` is the folder that relative names start from: the table's.

    `contents` given: those are all the files that there are, by their absolute names.

    `seen` has the signature of each file that was asked for, as it was before it was read, also of those that
    could not be read.
    """

    def __init__(self, base: Path, contents: Mapping[str, bytes] | None = None) -> None:
        self.base = base
        self.contents: dict[str, bytes] = dict(contents or {})
        self.seen: dict[Path, Signature] = {}
        self._sealed = contents is not None

    def read(self, path: Path | str, limit: int) -> bytes:
        """Up to `limit` + 1 bytes of it. Raises OSError or ValueError, as `read_regular` does."""
        path = (self.base / path).absolute()
        known = self.contents.get(str(path))
        if known is not None:
            return known
        if self._sealed:
            raise FileNotFoundError(2, os.strerror(2))
        self.seen.setdefault(path, signature(path))
        data, _ = read_regular(path, limit)
        self.contents[str(path)] = data
        return data


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
