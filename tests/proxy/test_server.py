"""A client's connection, turn by turn of the loop."""

from __future__ import annotations

import asyncio
import io

from aiohttp import web

from config.schema import ClientTimeouts
from proxy.departures import Departures
from proxy.logs import Journal
from proxy.metrics import Metrics
from proxy.server import ClientConnection, Connections, Server, Shared

HEAD = b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Takes what is written, and says of itself only that it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered here."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=await request.read())


def connection() -> tuple[ClientConnection, FakeTransport]:
    journal = Journal(io.StringIO(), io.StringIO())
    connections = Connections(None)
    server = Server(
        answer, Shared(journal, connections, Departures(), Metrics()), ClientTimeouts(header=0.05)
    )
    made = server()
    assert isinstance(made, ClientConnection)
    transport = FakeTransport()
    made.connection_made(transport)
    return made, transport


async def test_body_bytes_that_come_before_the_handler_runs_are_not_a_late_head() -> None:
    """aiohttp takes a request off its queue one turn of the loop before it says that it serves it."""
    made, transport = connection()
    made.data_received(HEAD)
    await asyncio.sleep(0)
    made.data_received(b"{}")
    await asyncio.sleep(0.1)

    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert b"408" not in transport.written and not transport.closed
    made.connection_lost(None)


async def test_half_a_head_is_given_up_on_in_time() -> None:
    made, transport = connection()
    made.data_received(HEAD[:30])
    await asyncio.sleep(0.1)

    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert transport.closed
    made.connection_lost(None)


def test_connections_are_counted_over_all_listeners() -> None:
    count = Connections(2)

    assert [count.enter(), count.enter(), count.enter()] == [True, True, False]
    count.leave()
    count.leave()
    assert count.enter()
    assert all(Connections(None).enter() for _ in range(3))
