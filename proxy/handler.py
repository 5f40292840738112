"""One exchange, from its first byte to its last.

Takes the request in, has it routed, runs the chain, relays the reply, and closes its account, however it
ends. The only last resort for errors nobody foresaw is here.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, suppress
from typing import Protocol

from aiohttp import web

from config.clients import Client
from middlewares.client_keys import refuse_name
from middlewares.clocks import Timer, Watch
from middlewares.exchange import Exchange, Reply
from middlewares.faults import ClientFault, ClientGone, Fault, Refusal
from middlewares.observation import dialect_of
from proxy import listing
from proxy.accounts import Account
from proxy.admin import Pages
from proxy.intake import take_body
from proxy.logs import Journal, Record
from proxy.opening import begin, names_of, read_head
from proxy.relay import Downstream, Headers, error_answer
from proxy.router import Choice
from proxy.server import ClientConnection
from proxy.status import Observed
from proxy.tunnel import Tunnel
from proxy.wire import client_address, presented, split_target

_DRAIN_RETRY_S = 5
_UNREAD_ANSWERS_S = 30.0


class Service(Observed, Protocol):
    """What the handler needs of the program around it. `serving` holds the exchanges in flight."""

    journal: Journal
    timer: Timer
    leaving: bool
    models: listing.ModelList

    def begin(self, serving: Serving) -> None: ...

    def end(self, serving: Serving) -> None: ...


class Handler:
    """Answers the requests of one listener; the admin listener has our own pages only."""

    def __init__(self, service: Service, *, admin: bool) -> None:
        self._service = service
        self._pages = Pages(service, admin=admin)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        down = Downstream(request, connection)
        if connection.writing_paused and not await _takes_its_answers(connection):
            down.break_off()
            return down.result
        if (page := self._pages.find(request)) is not None:
            with suppress(ClientGone):
                await page(down)
            return down.result
        serving = Serving(self._service, request, down)
        self._service.begin(serving)
        try:
            await serving.run()
        finally:
            self._service.end(serving)
        return down.result


async def _takes_its_answers(connection: ClientConnection) -> bool:
    """Give a client that asks on without reading time to read: its answers are held in memory here."""
    try:
        async with asyncio.timeout(_UNREAD_ANSWERS_S):
            await connection.emptied()
    except TimeoutError:
        return False
    return True


class Serving:
    """The state of one exchange."""

    def __init__(self, service: Service, request: web.BaseRequest, down: Downstream) -> None:
        self._service = service
        self._table = service.table
        self._request = request
        self._down = down
        self._watch = Watch(self._table.clocks, service.timer)
        self._task: asyncio.Task[object] | None = None
        self._cut = False
        self.record = Record(
            id=secrets.token_hex(8),
            remote=client_address(
                request.remote or "unix",
                request.headers.getall("X-Forwarded-For", ()),
                self._table.is_trusted,
            ),
            method=request.method,
            path=split_target(request.raw_path)[0],
        )
        self._account = Account(service.journal, service.metrics, self.record, down)
        self._path = "/" + self.record.path.partition("/v1/")[2]
        """Of the endpoint, good enough for the shape of an error until the path is judged."""

    def cut(self) -> None:
        """End it now, whatever it is doing: the time to drain is over."""
        self._cut = True
        if self._task is not None:
            self._task.cancel()

    @property
    def route(self) -> str:
        """The route that serves it; empty before one was tried."""
        return self._account.route

    @property
    def client(self) -> str | None:
        """Who asks, where clients have keys."""
        return self.record.client

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for, or a WebSocket."""
        return self._account.streams

    async def run(self) -> None:
        """Serve, and have it accounted for."""
        await self._account.timed(self._run_to_its_end())

    async def _run_to_its_end(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._run()
        except Fault as fault:
            self._end_with(fault)
        except ClientGone:
            self._account.note("client_gone", 499, "client_gone")
        except asyncio.CancelledError:
            if self._said_goodbye():
                self._down.break_off()
            elif self._cut:
                self._end_with(Refusal("draining", "This server stopped.", retry_after=_DRAIN_RETRY_S))
            else:
                self._account.note("client_gone", 499, "client_gone")
                self._down.break_off()
            raise
        except Exception as error:
            # The last resort: whatever this is, it must not take the connection's other requests along.
            self._account.report(error)
            self._end_with(Refusal("internal_error", "Something went wrong here; see the log."))
        finally:
            self._task = None
            self._down.rest()
            self._account.close()

    def _said_goodbye(self) -> bool:
        """Whether it is a WebSocket that was being closed: whoever ends it then, it is a proper end."""
        reply = self._account.reply
        body = reply.body if reply is not None else None
        return isinstance(body, Tunnel) and body.closing

    async def _run(self) -> None:
        self._watch.start("total")
        async with AsyncExitStack() as stack:
            stack.callback(self._watch.close)
            async with self._watch.guard():
                await self._serve(stack)

    async def _serve(self, stack: AsyncExitStack) -> None:
        service, request = self._service, self._request
        client = self._admitted()
        if service.draining:
            self._down.close_after()
            raise Refusal("draining", "This server is shutting down.", retry_after=_DRAIN_RETRY_S)
        if service.leaving:
            self._down.close_after()
        head = read_head(request)
        self._path = head.target.path
        if head.listing is not None:
            await self._list_models(head.listing, client)
            return
        taken = await take_body(request, head.target.path, self._table.server, self._count)
        self._account.exchange = exchange = begin(
            request, head, taken, self.record.remote, self._watch, stack
        )
        named = names_of(head, taken.body)
        self.record.model = named.model
        choice = self._table.router.choose(named)
        exchange.rungs = choice.rungs
        if client is not None:
            _hold_to(client, exchange, choice)
        exchange.patience = self._keep_patient
        exchange.on_attempt = service.metrics.attempt
        self.record.stream = exchange.streaming
        self._account.reply = reply = await self._table.chain(exchange)
        run = exchange.told or exchange
        lines = self._reply_headers(reply)
        if isinstance(reply.body, Tunnel):
            await self._down.tunnel(reply, reply.body, lines, run.watch, self._count)
        else:
            await self._down.relay(reply, lines, run.watch, dialect_of(self._path))

    def _admitted(self) -> Client | None:
        """Who asks, where clients need a key; nothing is said to a stranger but that. Raises ClientFault."""
        gate = self._table.gate
        if gate is None:
            return None
        query = split_target(self._request.raw_path)[1]
        try:
            client = gate.admit(presented(self._request.headers, query))
        except ClientFault:
            # Nothing of the body is read, and what shows whether any of it came is not told either.
            self._down.close_after()
            raise
        self.record.client = client.name
        return client

    def _keep_patient(self, every: float) -> None:
        self._down.keep_patient(every, [("x-tidegate-id", self.record.id)], self._service.timer)

    def _count(self, size: int) -> None:
        self.record.bytes_in += size

    async def _list_models(self, wanted: str, client: Client | None) -> None:
        status, body = await self._service.models.answer(self._table, wanted, client)
        self._down.answer(status, [("Content-Type", "application/json"), *self._account.headers()], body)

    def _reply_headers(self, reply: Reply) -> Headers:
        lines = [(name, value) for name, value in reply.headers.items()]
        if reply.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
            lines = [line for line in lines if line[0].lower() != "x-accel-buffering"]
            lines.append(("X-Accel-Buffering", "no"))
        return [*lines, *self._account.headers()]

    def _end_with(self, fault: Fault) -> None:
        """Tell the client, in the way that is still open."""
        self._account.note_fault(fault)
        try:
            if self._down.started:
                self._down.fail(fault, dialect_of(self._path))
            else:
                error_answer(self._down, fault, dialect_of(self._path), self._account.headers())
        except ClientGone:
            self._account.note("client_gone", 499, "client_gone")


def _hold_to(client: Client, exchange: Exchange, choice: Choice) -> None:
    """Have `exchange` be this client's. Raises ClientFault `not_allowed`."""
    exchange.client = client
    # A key of our own is nobody else's business, whatever a chain would do with it.
    exchange.credentials.clear()
    if choice.name is not None:
        exchange.by_name = True
        refuse_name(client, choice.name)
