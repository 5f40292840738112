"""Sockets to listen on: TCP over IPv4 and IPv6, for TLS too, and unix sockets with mode and group."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.addresses import Address

Role = Literal["client", "admin"]

BACKLOG = 2048
"""Connections waiting to be accepted; the kernel bounds it by `net.core.somaxconn`."""


class CannotListen(Exception):
    """An address that cannot be listened on; the message says which and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A listening socket, and for whom it is. `owned` is a unix socket's file that goes with it."""

    address: Address
    role: Role
    sock: socket.socket
    owned: Path | None = None
    inherited: bool = False
    """Whether another program had it before."""

    @property
    def name(self) -> str:
        """The address that it really has."""
        return name_of(self.sock, tls=self.tls)

    @property
    def tls(self) -> bool:
        """Whether its clients speak TLS."""
        return self.address.kind == "tls"

    def close(self, *, leave_file: bool = False) -> None:
        """Connections are refused from now on, unless another process has the socket as well."""
        self.sock.close()
        if self.owned is not None and not leave_file:
            self.owned.unlink(missing_ok=True)


def open_listener(address: Address, role: Role) -> Listener:
    """Listen there. Raises CannotListen."""
    owned = Path(address.path) if address.kind == "unix" else None
    return Listener(address, role, open_socket(address), owned)


def open_socket(address: Address) -> socket.socket:
    """A bound, listening socket. Raises CannotListen."""
    try:
        return _unix(address) if address.kind == "unix" else _tcp(address)
    except (OSError, LookupError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        hint = (
            "; is another tidegate running? --listen and --admin choose other addresses"
            if _is_taken(error)
            else ""
        )
        raise CannotListen(f"cannot listen on {address}: {reason}{hint}") from error


def name_of(sock: socket.socket, *, tls: bool = False) -> str:
    """The address that a socket really has, as the table writes it."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    place = f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
    return f"https://{place}" if tls else place


def _is_taken(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


def _tcp(address: Address) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        return _listening(sock, undo)


def _unix(address: Address) -> socket.socket:
    _remove_stale(address.path)
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # Nobody may connect before mode and group are as the table says.
        before = os.umask(0o177)
        try:
            sock.bind(address.path)
        finally:
            os.umask(before)
        if address.group is not None:
            shutil.chown(address.path, group=address.group)
        if address.mode is not None:
            Path(address.path).chmod(address.mode)
        return _listening(sock, undo)


def _listening(sock: socket.socket, undo: ExitStack) -> socket.socket:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    undo.pop_all()
    return sock


def _remove_stale(path: str) -> None:
    """A socket file outlives its server; remove it unless somebody answers there."""
    if not Path(path).exists():
        return
    if not Path(path).is_socket():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
