"""What passes through costs nothing to speak of, however much it is and however slowly it is taken."""

from __future__ import annotations

import asyncio
import socket
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.faithful.bulk import Sink, Upload
from tests.faithful.memory import MIB, forget_peak, open_files, peak, resident
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import PeerGone, ScriptedUpstream, Seen, Wire, answer, chat, sse_event

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")

BODY = {"model": "up/x", "messages": [], "stream": True}
_FORM_START = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'


def upload(kind: str, size: int, *, chunked: bool) -> Upload:
    head = b"POST /up/v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\n" % kind.encode()
    if kind.startswith("multipart"):
        return Upload(head, size, chunked=chunked, before=_FORM_START, after=b"\r\n--b--\r\n")
    return Upload(head, size, chunked=chunked)


def table(folder: Path, upstream: ScriptedUpstream, **clocks: str) -> Path:
    chain: list[Any] = ["prefix_rewrite", "usage", {"timeout": clocks}]
    return write_table(folder, {"up": {"upstream": upstream.url, "middlewares": chain}})


async def at_rest(gate: Tidegate, upstream: ScriptedUpstream) -> tuple[int, int]:
    """Memory and open files of a process that has served its first streams."""
    upstream.behaviour = chat("word " * 2000)
    for _ in range(4):
        async with RawClient(gate.port) as client:
            await client.send(post("/v1/chat/completions", BODY))
            await client.read_head()
            await client.read_body()
    await gate.wait_log(4)
    forget_peak(gate.process.pid)
    return resident(gate.process.pid), open_files(gate.process.pid)


async def wait_files(gate: Tidegate, count: int) -> int:
    """Wait until the process has no more open files than that; how many it has."""
    for _ in range(100):
        if open_files(gate.process.pid) <= count:
            break
        await asyncio.sleep(0.1)
    return open_files(gate.process.pid)


@pytest.mark.parametrize(
    ("kind", "chunked"),
    [("application/octet-stream", True), ("multipart/form-data; boundary=b", False)],
    ids=["a file in chunks", "a form with a length"],
)
async def test_a_gibibyte_goes_up_in_less_than_40_mib(tmp_path: Path, kind: str, chunked: bool) -> None:
    sending = upload(kind, 1024 * MIB, chunked=chunked)
    sink = Sink(sending.length)
    sink.go.set()
    async with Tidegate(write_table(tmp_path, {"up": {"upstream": sink.url}})) as gate:
        before = resident(gate.process.pid)
        await asyncio.gather(asyncio.to_thread(sink.serve), asyncio.to_thread(sending.run, gate.port))
        grown = peak(gate.process.pid) - before
    sink.close()

    assert sending.status.startswith(b"HTTP/1.1 200 ")
    assert sink.digest == sending.digest
    assert grown < 40 * MIB, f"{grown / MIB:.1f} MiB"


async def test_an_upload_waits_for_an_upstream_that_does_not_read(tmp_path: Path) -> None:
    sending = upload("application/octet-stream", 128 * MIB, chunked=False)
    sink = Sink(sending.length)
    async with Tidegate(write_table(tmp_path, {"up": {"upstream": sink.url}})) as gate:
        before = resident(gate.process.pid)
        serving = asyncio.create_task(asyncio.to_thread(sink.serve))
        client = asyncio.create_task(asyncio.to_thread(sending.run, gate.port))
        assert await asyncio.to_thread(sink.asked.wait, 10)
        sent = -1
        while sending.sent > sent:  # until it stands still
            sent = sending.sent
            await asyncio.sleep(1)
        stalled = peak(gate.process.pid) - before
        sink.go.set()
        await asyncio.gather(serving, client)
        grown = peak(gate.process.pid) - before
    sink.close()

    assert sent < 64 * MIB, f"{sent / MIB:.1f} MiB were taken of the client"
    assert sink.digest == sending.digest
    assert stalled < 8 * MIB, f"{stalled / MIB:.1f} MiB"
    assert grown < 40 * MIB, f"{grown / MIB:.1f} MiB"


class Flood:
    """An upstream that sends as much as anybody takes, of these kinds in turn."""

    def __init__(self, *kinds: str) -> None:
        self._kinds = cycle(kinds)
        self._event = sse_event({"choices": [{"index": 0, "delta": {"content": "x" * 1000}}]}) * 64
        self.written = 0
        self.gone = 0

    async def __call__(self, _seen: Seen, wire: Wire) -> None:
        try:
            await wire.head(200, {"Content-Type": next(self._kinds)})
            while True:
                await wire.chunk(self._event)
                self.written += len(self._event)
        except ConnectionError:
            self.gone += 1
            raise PeerGone from None


class Sipper:
    """A client whose kernel holds next to nothing for it, and which reads when it is told to."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(post("/v1/chat/completions", BODY))
        self._socket.setblocking(False)

    async def sip(self, size: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, size)

    def close(self) -> None:
        self._socket.close()


async def test_four_clients_of_1_kb_a_second_cost_less_than_4_mib_and_hold_the_upstream_back(
    tmp_path: Path,
) -> None:
    flood = Flood("text/event-stream", "application/octet-stream")
    async with ScriptedUpstream() as upstream, Tidegate(table(tmp_path, upstream)) as gate:
        before, files = await at_rest(gate, upstream)
        upstream.behaviour = flood
        clients = [Sipper(gate.port) for _ in range(4)]
        took, written = 0, []
        for _ in range(5):
            took += sum([len(await client.sip(1024)) for client in clients])
            await asyncio.sleep(1)
            written.append(flood.written)
        grown = peak(gate.process.pid) - before
        for client in clients:
            client.close()
        entries = (await gate.wait_log(8))[4:]
        open_at_last = await wait_files(gate, files)

    assert took <= 4 * 5 * 1024
    # The kernel holds some megabytes for each; from then on nothing is sent that is not taken.
    assert 0 < written[-1] - MIB < written[-2], written
    assert grown < 4 * MIB, f"{grown / MIB:.1f} MiB"
    assert open_at_last <= files
    assert [entry["outcome"] for entry in entries] == ["client_gone"] * 4
    assert flood.gone == 4


async def test_clients_that_stop_reading_are_cut_by_idle_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Twice: what the allocator keeps after the first time is there for the second."""
    flood = Flood("text/event-stream")
    async with ScriptedUpstream() as upstream:
        async with Tidegate(table(tmp_path, upstream, idle="1500ms")) as gate:
            before, files = await at_rest(gate, upstream)
            upstream.behaviour = flood
            left = []
            for count in (4, 8):
                clients = [Sipper(gate.port) for _ in range(4)]
                for client in clients:
                    assert (await client.sip(64)).startswith(b"HTTP/1.1 200 ")
                await gate.wait_log(4 + count, within=20)
                await upstream.wait_gone(count)
                for client in clients:
                    client.close()
                assert await wait_files(gate, files) <= files
                left.append(resident(gate.process.pid))
            grown = peak(gate.process.pid) - before

    ends = {(entry["outcome"], entry["error"]) for entry in gate.log[4:]}
    assert ends == {("timeout", "timeout_idle")}
    assert flood.gone == 8
    assert grown < 4 * MIB, f"{grown / MIB:.1f} MiB"
    assert left[1] - left[0] < MIB, f"{(left[1] - left[0]) / MIB:.1f} MiB"


async def test_a_large_body_is_let_go_of_with_its_exchange(tmp_path: Path) -> None:
    """And does not wait for the collector, which looks for circles only now and then."""
    words = "x" * (16 * MIB)
    async with ScriptedUpstream(answer(200, {"choices": []})) as upstream:
        async with Tidegate(table(tmp_path, upstream)) as gate:
            begun, _ = await at_rest(gate, upstream)
            upstream.behaviour = answer(200, {"choices": []})
            for _ in range(20):
                async with RawClient(gate.port) as client:
                    body = {"model": "up/x", "messages": [{"role": "user", "content": words}]}
                    await client.send(post("/v1/chat/completions", body))
                    await client.read_head()
                    await client.read_body()
                upstream.seen.clear()
            ended = resident(gate.process.pid)

    # With what aiohttp still holds of the last one, and what the allocator keeps.
    assert ended - begun < 96 * MIB
