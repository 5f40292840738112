"""Sockets that systemd opened, through its own systemd-socket-activate; and a table that waits in vain."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.support.process import SERVE, Tidegate, write_table
from tests.support.raw import RawClient
from tests.support.scene import read_answer

DEMO = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def asked(port: int, path: str) -> tuple[int, bytes]:
    async with RawClient(port) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, _, body = await read_answer(client)
        return status, body


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
@pytest.mark.parametrize("workers", [1, 2])
async def test_sockets_of_systemd_are_served_the_one_named_admin_as_the_admin_listener(
    tmp_path: Path, workers: int
) -> None:
    table = write_table(
        tmp_path, DEMO, server={"listen": ["systemd"], "admin": "systemd", "workers": workers}
    )
    client, admin = free_port(), free_port()
    command = (
        shutil.which("systemd-socket-activate") or "",
        *("-l", f"127.0.0.1:{client}", "-l", f"127.0.0.1:{admin}", "--fdname=web:admin"),
        # It starts its program at the first connection, and with nothing of its own environment.
        *(f"--setenv=PATH={Path(sys.executable).parent}",),
        *SERVE,
    )
    # What it says comes first, and is no line of ours.
    gate = Tidegate(table, command=command)
    knocking = asyncio.create_task(knock(client))
    async with gate:
        await gate.wait_event("ready")
        await knocking
        listed, _ = await asked(client, "/v1/models")
        refused, body = await asked(admin, "/v1/models")

    assert (listed, refused) == (200, 404) and b"admin listener" in body


async def knock(port: int) -> None:
    """Be the first connection, as soon as somebody listens."""
    while True:
        try:
            async with RawClient(port) as client:
                await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await read_answer(client)
                return
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)


async def test_a_table_that_listens_on_systemd_where_nothing_was_passed_is_not_served(tmp_path: Path) -> None:
    table = write_table(tmp_path, DEMO, server={"listen": ["systemd"]})
    with pytest.raises(RuntimeError, match="systemd passed no socket: enable and start"):
        async with Tidegate(table):
            pass
