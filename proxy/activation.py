"""Sockets that the service manager opened for us: descriptors from 3 on, counted in $LISTEN_FDS.

Only their taking over is here; what is served on them is the app's. No program that this one starts gets
them by accident: the variables are removed, and the descriptors close when another program is executed.
Source: sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket that has no name."""
_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
_WRITE = "the socket unit needs ListenStream=, and no Accept=yes"


class UnusableSocket(Exception):
    """Sockets that were to be passed to us and were not, or that nobody can connect to. A whole sentence."""


class Passed(NamedTuple):
    """A listening socket, and the name of its `FileDescriptorName=`, by default that of its unit."""

    name: str
    socket: socket.socket


def take_sockets(environ: MutableMapping[str, str]) -> list[Passed]:
    """The sockets that were passed to this process, in their unit's order; none where none were.

    Removes the variables that tell of them from `environ`: a second call finds nothing. Raises
    UnusableSocket, and then has closed every socket.
    """
    told = {name: environ.pop(name, "") for name in _VARIABLES}
    if told["LISTEN_PID"] != str(os.getpid()):
        return []  # whoever started us was meant
    count = told["LISTEN_FDS"]
    if not (count.isascii() and count.isdigit() and len(count) < 6):
        raise UnusableSocket("LISTEN_FDS is no number: it is for systemd to set")
    names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else [_UNNAMED] * int(count)
    if len(names) != int(count):
        raise UnusableSocket(f"LISTEN_FDS is {count}, and LISTEN_FDNAMES has {len(names)} names")
    with ExitStack() as undo:
        # All are taken before any is judged, so that none is left open.
        taken = [(name, number, _taken(number, undo)) for number, name in enumerate(names, _FIRST)]
        passed = [Passed(name, _judged(sock, f"{number} ({name})")) for name, number, sock in taken]
        undo.pop_all()
    return passed


def require(passed: Sequence[Passed]) -> None:
    """For a table that listens on `systemd`. Raises UnusableSocket where nothing was passed."""
    if not passed:
        raise UnusableSocket(
            "listen has systemd, and systemd passed no socket: enable and start tidegate.socket, and start "
            'the service by systemctl, or write listen: ["127.0.0.1:8080"]'
        )


def _taken(number: int, undo: ExitStack) -> socket.socket | None:
    """The socket with that descriptor; None where it is something else, or nothing."""
    try:
        sock = socket.socket(fileno=number)
    except OSError:
        return None
    undo.callback(sock.close)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _judged(sock: socket.socket | None, what: str) -> socket.socket:
    if sock is None:
        raise UnusableSocket(f"systemd passed descriptor {what}, which is no socket: {_WRITE}")
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        raise UnusableSocket(f"systemd passed descriptor {what}, which is no stream socket: {_WRITE}")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UnusableSocket(f"systemd passed descriptor {what}, which does not listen: {_WRITE}")
    return sock
