"""The end: streams in flight finish, new requests are refused with a word, a second signal ends at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.operation.crowd import Provider, streaming, whole, workers_of
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT, read_answer

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def table_to(folder: Path, upstream: Provider, **server: Any) -> Path:
    return write_table(
        folder, {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}, server=server
    )


@WORKERS
async def test_two_hundred_streams_outlive_sigterm(tmp_path: Path, workers: int) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream, workers=workers)) as gate:
            async with streaming(gate.port, 200) as crowd, RawClient(gate.port) as other:
                gate.process.send_signal(signal.SIGTERM)
                await gate.wait_event("draining")
                await other.send(post(CHAT, {"model": "up/x", "messages": []}))
                status, headers, _ = await read_answer(other)
                upstream.release.set()
                ends = await crowd.ends()
            code = await gate.wait()

    assert [whole(said) for said in ends] == [True] * 200
    assert (code, status, header(headers, "x-tidegate-error")) == (0, 503, "draining")
    assert int(header(headers, "retry-after") or 0) > 0


@WORKERS
async def test_a_second_signal_ends_at_once(tmp_path: Path, workers: int) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream, workers=workers)) as gate:
            async with streaming(gate.port, 20) as crowd:
                gate.process.send_signal(signal.SIGTERM)
                await gate.wait_event("draining")
                gate.process.send_signal(signal.SIGINT)
                ends = await crowd.ends()
            code = await gate.wait(within=5.0)

    assert not any(whole(said) for said in ends)
    assert code == 1 and gate.events("stopped")[0]["clean"] is False


async def test_ctrl_c_to_the_whole_group_of_processes_counts_once(tmp_path: Path) -> None:
    async with Provider() as upstream:
        async with Tidegate(table_to(tmp_path, upstream, workers=2), own_group=True) as gate:
            async with streaming(gate.port, 50) as crowd:
                os.killpg(gate.process.pid, signal.SIGINT)
                for pid in workers_of(gate.process.pid):  # what a supervisor of containers does
                    os.kill(pid, signal.SIGINT)
                await gate.wait_event("draining")
                upstream.release.set()
                ends = await crowd.ends()
            code = await gate.wait()

    assert [whole(said) for said in ends] == [True] * 50
    assert code == 0


@WORKERS
async def test_the_admin_listener_answers_until_the_end(tmp_path: Path, workers: int) -> None:
    async with Provider() as upstream:
        table = table_to(tmp_path, upstream, workers=workers, admin="127.0.0.1:0", drain_delay="1m")
        async with Tidegate(table) as gate:
            listening = await gate.wait_event("listening", role="admin")
            admin = int(listening["address"].rpartition(":")[2])
            async with streaming(gate.port, 2) as crowd:
                before = await readiness(admin)
                gate.process.send_signal(signal.SIGTERM)
                await gate.wait_event("draining")
                during = [await readiness(admin), await readiness(gate.port)]
                upstream.release.set()
                await crowd.ends()
                gate.process.send_signal(signal.SIGTERM)
            code = await gate.wait()

    assert (before, during, code) == (200, [503, 503], 0)


async def readiness(port: int) -> int:
    async with RawClient(port) as client:
        await client.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        status, _, _ = await read_answer(client)
        return status
