"""SIGUSR2: the installed program started anew on the same sockets, and nobody refused."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.operation.crowd import Asker, Provider, streaming, whole
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.scene import CHAT, read_answer

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def table_to(folder: Path, upstream: Provider, **server: Any) -> Path:
    return write_table(
        folder, {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}, server=server
    )


@asynccontextmanager
async def upgrading(table: Path) -> AsyncIterator[Tidegate]:
    """A process whose successor, if there is one, is stopped at the end as well."""
    async with Tidegate(table) as gate:
        yield gate
        for event in gate.events("upgraded"):
            os.kill(event["pid"], signal.SIGTERM)


@WORKERS
async def test_an_upgrade_under_load_refuses_nobody_and_a_hundred_streams_finish_where_they_are(
    tmp_path: Path, workers: int
) -> None:
    async with Provider() as upstream:
        async with upgrading(table_to(tmp_path, upstream, workers=workers)) as gate:
            async with streaming(gate.port, 100) as crowd, RawClient(gate.port) as kept:
                async with Asker(gate.port) as asker:
                    gate.process.send_signal(signal.SIGUSR2)
                    new = await gate.wait_event("upgraded", within=20.0)
                    asked = len(asker.statuses)
                    await gate.wait_event("draining")
                    await kept.send(post(CHAT, {"model": "up/x", "messages": []}))
                    on_old, headers, _ = await read_answer(kept)
                    while len(asker.statuses) < asked + 20:
                        await gate.wait_log(len(gate.stdout) + 1)
                upstream.release.set()
                ends = await crowd.ends()
                statuses = asker.statuses
            os.kill(new["pid"], signal.SIGTERM)
            code = await gate.wait()

    assert [whole(said) for said in ends] == [True] * 100
    assert set(statuses) == {200}
    assert (on_old, ("Connection", "close") in headers) == (200, True)
    assert code == 0
    assert [event["took_over"] for event in gate.events("ready")] == [False, True]
    assert [event["clean"] for event in gate.events("stopped")] == [True, True]


async def test_a_new_program_that_cannot_serve_changes_nothing(tmp_path: Path) -> None:
    async with Provider() as upstream:
        table = table_to(tmp_path, upstream)
        async with upgrading(table) as gate:
            table.write_text("routes: [")
            gate.process.send_signal(signal.SIGUSR2)
            failed = await gate.wait_event("upgrade_failed", within=20.0)
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "up/x", "messages": []}))
                status, _, _ = await read_answer(client)

    assert status == 200 and "exit code 1" in failed["reason"]


async def test_the_file_of_a_unix_socket_stays_with_the_new_program(tmp_path: Path) -> None:
    place = tmp_path / "gate.sock"
    async with Provider() as upstream:
        async with upgrading(table_to(tmp_path, upstream, listen=[f"unix:{place}"])) as gate:
            gate.process.send_signal(signal.SIGUSR2)
            new = await gate.wait_event("upgraded", within=20.0)
            await gate.wait_event("stopped")
            there = place.is_socket()
            os.kill(new["pid"], signal.SIGTERM)
            await gate.wait()

    assert there and not place.exists()
