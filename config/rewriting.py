"""A file replaced whole: whoever reads it sees what it was or what it is, never half of it.

Its owner and its mode stay. Those who rewrite files of one folder wait for each other, so that no change is
lost; a reader waits for nobody.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from config.files import read_regular
from config.reading import MAX_BYTES

_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.02


def rewrite(path: Path, change: Callable[[bytes | None], bytes]) -> None:
    """Replace the file by what `change` makes of it, which is given None where there is no file.

    A new file has mode 0600 and, made by root, the folder's owner. Raises OSError, ValueError for what is no
    small regular file, and what `change` raises; then the file is as it was.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    with _alone(path.parent):
        data, status = _read(path)
        written = change(data)
        if written != data:
            _replace(path, written, status)


def _read(path: Path) -> tuple[bytes | None, os.stat_result | None]:
    try:
        data, status = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        return None, None
    if len(data) > MAX_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return data, status


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The file itself cannot be what is locked: it is another one afterwards."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("somebody else has had the folder locked for 10 s") from None
                time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes, before: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            _be_like(descriptor, before, path.parent)
            os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105  # one call of the system, and no more
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _be_like(descriptor: int, before: os.stat_result | None, folder: Path) -> None:
    owner = before
    if owner is None and os.geteuid() == 0:
        owner = folder.stat()  # what root makes for a service, the service has to read
    mine = os.fstat(descriptor)
    if owner is not None and (owner.st_uid, owner.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    if before is not None:
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
