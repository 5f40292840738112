"""Many connections at once, and those that never come to stand: none waits for ever or counts twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.operation.crowd import workers_of
from tests.support.certificates import Certificate, self_signed
from tests.support.metrics import ADMIN, status_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient
from tests.support.scene import read_answer

DEMO = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return self_signed(tmp_path_factory.mktemp("tls"))


def tls_table(folder: Path, certificate: Certificate, **server: Any) -> Path:
    files = {"cert": str(certificate.cert), "key": str(certificate.key)}
    return write_table(
        folder, DEMO, server={"listen": ["https://127.0.0.1:0"], "tls": files, **ADMIN, **server}
    )


async def test_a_burst_of_connections_is_served_to_the_last_one_by_workers(tmp_path: Path) -> None:
    """More than the channels to the workers hold: the rest waits in the kernel, and not for ever."""
    number = 1500
    table = write_table(tmp_path, DEMO, server={"workers": 2})
    async with Tidegate(table) as gate:
        for pid in (gate.process.pid, *workers_of(gate.process.pid)):
            os.kill(pid, signal.SIGSTOP)
        sockets = [socket.socket() for _ in range(number)]
        for sock in sockets:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", gate.port))
        # The supervisor finds them all at once, and nobody there to take them.
        os.kill(gate.process.pid, signal.SIGCONT)
        for pid in workers_of(gate.process.pid):
            os.kill(pid, signal.SIGCONT)
        answered = await asyncio.gather(*(answers(sock) for sock in sockets))

    assert answered.count(True) == number


async def answers(sock: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    with sock:
        try:
            async with asyncio.timeout(20.0):
                await loop.sock_sendall(sock, HEALTH)
                return (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200")
        except (OSError, TimeoutError):
            return False


@WORKERS
async def test_handshakes_that_fail_use_nothing_up(
    tmp_path: Path, certificate: Certificate, workers: int
) -> None:
    table = tls_table(tmp_path, certificate, workers=workers, max_connections=5)
    async with Tidegate(table) as gate:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n") * 10:
            async with RawClient(gate.port) as knock:
                await knock.send(said or b"\x16")
                knock.close()
        async with asyncio.timeout(10.0):
            while (await status_of(gate))["connections"]:
                await asyncio.sleep(0.05)
            # What is gone is told to the supervisor a moment later.
            while (status := await healthy(gate, certificate)) is None:
                await asyncio.sleep(0.05)

    assert status == 200


async def healthy(gate: Tidegate, certificate: Certificate) -> int | None:
    try:
        async with RawClient(gate.port, tls=certificate.client_context()) as client:
            await client.send(HEALTH)
            status, _, _ = await read_answer(client)
            return status
    except ConnectionResetError:
        return None


@WORKERS
async def test_clients_that_do_not_finish_their_handshake_count_as_connections(
    tmp_path: Path, certificate: Certificate, workers: int
) -> None:
    table = tls_table(tmp_path, certificate, workers=workers, max_connections=4)
    async with Tidegate(table) as gate:
        silent = [RawClient(gate.port) for _ in range(4)]
        for client in silent:
            await client.__aenter__()
        async with asyncio.timeout(10.0):
            while (await status_of(gate))["connections"] < 4:
                await asyncio.sleep(0.05)
        async with RawClient(gate.port) as refused:
            assert await refused.read_until_closed() == b""
        for client in silent:
            await client.__aexit__(None, None, None)


@WORKERS
async def test_a_listener_with_tls_stays_one_when_an_edit_takes_its_certificate_away(
    tmp_path: Path, certificate: Certificate, workers: int
) -> None:
    table = tls_table(tmp_path, certificate, workers=workers)
    async with Tidegate(table) as gate:
        edited = json.loads(table.read_text())
        edited["server"] |= {"listen": ["127.0.0.1:0"], "tls": None}
        table.write_text(json.dumps(edited))
        await gate.wait_event("reloaded")
        await gate.wait_event("needs_restart", option="server.listen")
        if workers > 1:
            for pid in workers_of(gate.process.pid):
                os.kill(pid, signal.SIGKILL)
            await gate._until(lambda: len(gate.events("worker_died")) == 2, 5.0, "two that died")
        async with RawClient(gate.port, tls=certificate.client_context()) as client:
            await client.send(HEALTH)
            status, _, _ = await read_answer(client)
        async with RawClient(gate.port) as plain:
            await plain.send(HEALTH)
            in_the_clear = await plain.read_until_closed()

    assert status == 200 and not in_the_clear.startswith(b"HTTP/")
