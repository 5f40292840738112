"""A new program on the same sockets: started by the old one, which serves until the new one does.

The sockets stay open all the while, in one process or the other, so no connection is refused. The new one is
told of them in its environment; when it serves it says so through a pipe.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from config.addresses import Address
from proxy.listeners import Listener, Role

_VARIABLE = "TIDEGATE_INHERITED"
_READY = b"ready"
_READY_WITHIN_S = 60.0


class CannotUpgrade(Exception):
    """The new program does not serve; the message says why. The old one goes on."""


class _Passed(Struct):
    address: str
    role: Role
    descriptor: int


class _Inheritance(Struct):
    sockets: list[_Passed]
    ready: int


class Inherited:
    """What this process was started with by the program that it replaces; nothing, usually."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        text = environ.pop(_VARIABLE, None)
        given = _Inheritance([], -1) if text is None else msgspec.json.decode(text, type=_Inheritance)
        self._ready = given.ready
        self.served = False
        """Whether this program serves, so that what it inherited is its own."""
        self._sockets = [(one, socket.socket(fileno=one.descriptor)) for one in given.sockets]
        for _, sock in self._sockets:
            sock.set_inheritable(False)
        if self._ready >= 0:
            os.set_inheritable(self._ready, False)

    def take(self, address: Address, role: Role) -> list[Listener]:
        """The listeners at that address, if the old program had any."""
        found = [
            entry for entry in self._sockets if entry[0].address == str(address) and entry[0].role == role
        ]
        self._sockets = [entry for entry in self._sockets if entry not in found]
        owned = Path(address.path) if address.kind == "unix" else None
        # Its file is the old program's until this one serves.
        return [Listener(address, role, sock, owned, inherited=True) for _, sock in found]

    def serve(self) -> bool:
        """Tell the old program that we do. True if there is one."""
        for _, sock in self._sockets:
            sock.close()
        self._sockets = []
        self.served = True
        if self._ready < 0:
            return False
        os.write(self._ready, _READY)
        os.close(self._ready)
        self._ready = -1
        return True


def descriptors(environ: Mapping[str, str]) -> set[int] | None:
    """Those that this process was started with on purpose, if another program started it."""
    text = environ.get(_VARIABLE)
    if text is None:
        return None
    given = msgspec.json.decode(text, type=_Inheritance)
    return {given.ready, *(one.descriptor for one in given.sockets)}


async def start_anew(listeners: Iterable[Listener], environ: Mapping[str, str]) -> int:
    """Start the installed program as we were started, and wait until it serves; its process id.

    Raises CannotUpgrade. Cancelled, it takes the new program back.
    """
    if os.getpid() == 1:
        raise CannotUpgrade("this is process 1, and with it the container would end")
    passed = [_Passed(str(one.address), one.role, one.sock.fileno()) for one in listeners]
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise CannotUpgrade(f"it cannot be started: {error.strerror}") from None
    with ExitStack() as undo:
        undo.callback(os.close, reading)
        with ExitStack() as ours:
            # Its end of the pipe is its alone: when the process ends, so does the pipe.
            ours.callback(os.close, writing)
            process = await _start(_Inheritance(passed, writing), environ)
        taken_back = undo.enter_context(ExitStack())
        taken_back.callback(_kill, process)
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                said = await _read(reading)
        except TimeoutError:
            raise CannotUpgrade(f"it did not serve within {_READY_WITHIN_S:g} s") from None
        if said == _READY:
            taken_back.pop_all()
            return process.pid
        code = await process.wait()
    raise CannotUpgrade(f"it ended with exit code {code} before it served; see what it wrote")


async def _start(inheritance: _Inheritance, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:]),
            env={**environ, _VARIABLE: msgspec.json.encode(inheritance).decode()},
            pass_fds=(*(one.descriptor for one in inheritance.sockets), inheritance.ready),
        )
    except OSError as error:
        raise CannotUpgrade(f"it cannot be started: {error.strerror}") from None


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        process.kill()


async def _read(descriptor: int) -> bytes:
    """What is said there, empty at its end."""
    loop = asyncio.get_running_loop()
    here = asyncio.Event()
    loop.add_reader(descriptor, here.set)
    try:
        await here.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, len(_READY))
