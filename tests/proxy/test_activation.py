"""Sockets passed as systemd passes them: to a process of its own, from descriptor 3 on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ROOT

NEEDED = "the socket unit needs ListenStream=, and no Accept=yes"

_PASSES = """
import os, sys
numbers = [int(number) for number in sys.argv[2:]]
high = [os.dup2(number, 100 + place) for place, number in enumerate(numbers)]
for number in numbers:
    os.close(number)
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
    os.close(number)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
"""systemd's part: descriptors in order, and the process id of the program that is to take them."""

_TAKES = """
import json, os, subprocess, sys
from proxy.activation import UnusableSocket, require, take_sockets

told, passed = {}, []
try:
    passed = take_sockets(os.environ)
    told["passed"] = [[name, sock.fileno(), sock.family.name] for name, sock in passed]
    told["blocking"] = [sock.getblocking() for _, sock in passed]
    require(passed)
except UnusableSocket as error:
    told["error"] = str(error)
    kept = error  # and with it all that its traceback refers to: what is closed now, was closed on purpose
told["again"] = len(take_sockets(os.environ))
told["variables"] = sorted(name for name in os.environ if name.startswith("LISTEN_"))
told["open"] = [number for number in range(3, 9) if os.path.exists(f"/proc/self/fd/{number}")]
look = "import os; print([number for number in range(3, 9) if os.path.exists(f'/proc/self/fd/{number}')])"
child = subprocess.run([sys.executable, "-c", look], close_fds=False, capture_output=True, text=True)
told["of_a_child"] = json.loads(child.stdout)
for name, sock in passed if "ACCEPTS" in os.environ else []:
    sock.setblocking(True)
    connection, _ = sock.accept()
    with connection:
        connection.sendall(name.encode())
print(json.dumps(told))
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def listening(stack: ExitStack, family: int, place: Any) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    sock.bind(place)
    sock.listen()
    return sock


def start(passed: list[socket.socket] | list[int], **environ: str) -> subprocess.Popen[str]:
    """A process that takes over what is passed. Without `LISTEN_…` its variables are as systemd sets them."""
    numbers = [one if isinstance(one, int) else one.fileno() for one in passed]
    own = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LISTEN_FDS": str(len(numbers))}
    return subprocess.Popen(
        [sys.executable, "-c", _PASSES, _TAKES, *map(str, numbers)],
        env=own | environ,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=numbers,
    )


def told_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(out)
    return told


def heard_from(sock: socket.socket) -> str:
    """What a client is sent that connects where `sock` listens."""
    with socket.socket(sock.family, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(sock.getsockname())
        return client.recv(100).decode()


def test_what_was_passed_is_there_by_name_and_in_order_and_takes_connections(
    stack: ExitStack, tmp_path: Path
) -> None:
    one = listening(stack, socket.AF_INET, ("127.0.0.1", 0))
    two = listening(stack, socket.AF_UNIX, str(tmp_path / "sock"))
    process = start([one, two], LISTEN_FDNAMES="front:back", ACCEPTS="yes")
    with ThreadPoolExecutor() as pool:
        heard = pool.map(heard_from, [one, two])
        told = told_by(process)

    assert list(heard) == ["front", "back"]
    assert told["passed"] == [["front", 3, "AF_INET"], ["back", 4, "AF_UNIX"]]
    assert told["blocking"] == [False, False]
    assert "error" not in told


def test_nobody_inherits_them_and_nobody_is_told_of_them(stack: ExitStack) -> None:
    told = told_by(start([listening(stack, socket.AF_INET6, ("::1", 0))], LISTEN_FDNAMES="tidegate.socket"))

    assert (told["passed"], told["open"]) == ([["tidegate.socket", 3, "AF_INET6"]], [3])
    assert (told["of_a_child"], told["variables"], told["again"]) == ([], [], 0)


def test_a_socket_without_a_name_is_unknown(stack: ExitStack) -> None:
    told = told_by(start([listening(stack, socket.AF_INET, ("127.0.0.1", 0)) for _ in range(2)]))

    assert [name for name, _, _ in told["passed"]] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    "environ", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_PID": "0x3"}, {"LISTEN_FDS": "0"}], ids=str
)
def test_where_nothing_was_passed_to_us_a_table_that_needs_it_says_what_to_do(
    stack: ExitStack, environ: dict[str, str]
) -> None:
    passed = [listening(stack, socket.AF_INET, ("127.0.0.1", 0))] if "LISTEN_PID" in environ else []
    told = told_by(start(passed, **environ))

    assert told["passed"] == []
    assert told["error"] == (
        "listen has systemd, and systemd passed no socket: enable and start tidegate.socket, and start the "
        'service by systemctl, or write listen: ["127.0.0.1:8080"]'
    )
    assert told["variables"] == []
    assert told["open"] == ([3] if passed else []), "it is not ours to close"


def connection(stack: ExitStack) -> socket.socket:
    return stack.enter_context(
        socket.create_connection(listening(stack, socket.AF_INET, ("127.0.0.1", 0)).getsockname())
    )


def datagrams(stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock


def packets(stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    sock.bind("")
    sock.listen()
    return sock


def a_file(stack: ExitStack) -> int:
    number = os.open(os.devnull, os.O_RDONLY)
    stack.callback(os.close, number)
    return number


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (connection, "which does not listen"),
        (datagrams, "which is no stream socket"),
        (packets, "which is no stream socket"),
        (a_file, "which is no socket"),
    ],
)
def test_what_nobody_can_connect_to_is_named_and_everything_closed(
    stack: ExitStack, made: Any, why: str
) -> None:
    passed = [listening(stack, socket.AF_INET, ("127.0.0.1", 0)), made(stack)]
    told = told_by(start(passed, LISTEN_FDNAMES="good:odd"))

    assert told["error"] == (f"systemd passed descriptor 4 (odd), {why}: {NEEDED}")
    assert told["open"] == ([4] if made is a_file else [])
    assert told["variables"] == []


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"LISTEN_FDS": "one"}, "LISTEN_FDS is no number: it is for systemd to set"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is no number: it is for systemd to set"),
        ({"LISTEN_FDS": "9" * 5000}, "LISTEN_FDS is no number: it is for systemd to set"),
        ({"LISTEN_FDS": ""}, "LISTEN_FDS is no number: it is for systemd to set"),
        ({"LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS is 1, and LISTEN_FDNAMES has 2 names"),
        (
            {"LISTEN_FDS": "2"},
            f"systemd passed descriptor 4 (unknown), which is no socket: {NEEDED}",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_variables_that_make_no_sense_are_told(stack: ExitStack, environ: dict[str, str], error: str) -> None:
    told = told_by(start([listening(stack, socket.AF_INET, ("127.0.0.1", 0))], **environ))

    assert (told["error"], told["variables"]) == (error, [])
