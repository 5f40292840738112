"""One exchange, from its first byte to its last.

Takes the request in, has it routed, runs the chain, relays the reply, and writes one log line, however
it ends. The only last resort for errors nobody foresaw is here.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Protocol

from aiohttp import web

from middlewares.clocks import Timer, Watch
from middlewares.envelope import Envelope
from middlewares.exchange import Body, Exchange, Inbound, Reply, Unreadable
from middlewares.faults import ClientFault, ClientGone, Fault, Outcome, Refusal, TimeoutFault, UpstreamFault
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from middlewares.observation import dialect_of
from proxy import listing
from proxy.intake import take_body
from proxy.logs import Journal, Record, where
from proxy.relay import Downstream, Headers, error_answer
from proxy.router import Choice, Named
from proxy.server import ClientConnection
from proxy.table import RouteTable
from proxy.tunnel import Tunnel
from proxy.wire import Target, client_address, read_target, split_target, upward

_DRAIN_RETRY_S = 5
_UNREAD_ANSWERS_S = 30.0
_LONGEST_CHANGES = 2000


class Service(Protocol):
    """What the handler needs of the program around it. `serving` holds the exchanges in flight."""

    table: RouteTable
    journal: Journal
    timer: Timer
    draining: bool
    leaving: bool
    models: listing.ModelList

    def begin(self, serving: Serving) -> None: ...

    def end(self, serving: Serving) -> None: ...


class Handler:
    """Answers the requests of one listener; the admin listener has our own pages only."""

    def __init__(self, service: Service, *, admin: bool) -> None:
        self._service = service
        self._admin = admin

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        down = Downstream(request, connection)
        if connection.writing_paused and not await _takes_its_answers(connection):
            down.break_off()
            return down.result
        if self._answer_ourselves(request, down):
            return down.result
        serving = Serving(self._service, request, down)
        self._service.begin(serving)
        try:
            await serving.run()
        finally:
            self._service.end(serving)
        return down.result

    def _answer_ourselves(self, request: web.BaseRequest, down: Downstream) -> bool:
        """Whether it was a request for a page of our own; one whose client has left is over, too."""
        try:
            if request.method in ("GET", "HEAD") and self._answer_probe(request.raw_path, down):
                return True
            if self._admin:
                fault = ClientFault("not_found", "The admin listener serves /healthz and /readyz.")
                error_answer(down, fault, "other", ())
        except ClientGone:
            return True
        return self._admin

    def _answer_probe(self, target: str, down: Downstream) -> bool:
        path, _ = split_target(target)
        if path == "/healthz":
            _probe(down, 200, "ok")
        elif path == "/readyz":
            draining = self._service.draining
            _probe(down, 503 if draining else 200, "draining" if draining else "ready")
        else:
            return False
        return True


async def _takes_its_answers(connection: ClientConnection) -> bool:
    """Give a client that asks on without reading time to read: its answers are held in memory here."""
    try:
        async with asyncio.timeout(_UNREAD_ANSWERS_S):
            await connection.emptied()
    except TimeoutError:
        return False
    return True


def _probe(down: Downstream, status: int, word: str) -> None:
    body = f'{{"status": "{word}"}}\n'.encode()
    down.answer(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body)


class Serving:
    """The state of one exchange."""

    def __init__(self, service: Service, request: web.BaseRequest, down: Downstream) -> None:
        self._service = service
        self._table = service.table
        self._request = request
        self._down = down
        self._began = perf_counter()
        self._watch = Watch(self._table.clocks, service.timer)
        self._task: asyncio.Task[object] | None = None
        self._cut = False
        self._exchange: Exchange | None = None
        self._reply: Reply | None = None
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
        self._path = "/" + self.record.path.partition("/v1/")[2]
        """Of the endpoint, good enough for the shape of an error until the path is judged."""

    def cut(self) -> None:
        """End it now, whatever it is doing: the time to drain is over."""
        self._cut = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Serve, and write the log line."""
        self._task = asyncio.current_task()
        try:
            await self._run()
        except Fault as fault:
            self._end_with(fault)
        except ClientGone:
            self._note("client_gone", 499, "client_gone")
        except asyncio.CancelledError:
            if self._said_goodbye():
                self._down.break_off()
            elif self._cut:
                self._end_with(Refusal("draining", "This server stopped.", retry_after=_DRAIN_RETRY_S))
            else:
                self._note("client_gone", 499, "client_gone")
                self._down.break_off()
            raise
        except Exception as error:
            # The last resort: whatever this is, it must not take the connection's other requests along.
            self._report(error)
            self._end_with(Refusal("internal_error", "Something went wrong here; see the log."))
        finally:
            self._task = None
            self._down.rest()
            self._finish()

    def _said_goodbye(self) -> bool:
        """Whether it is a WebSocket that was being closed: whoever ends it then, it is a proper end."""
        body = self._reply.body if self._reply is not None else None
        return isinstance(body, Tunnel) and body.closing

    async def _run(self) -> None:
        self._watch.start("total")
        async with AsyncExitStack() as stack:
            stack.callback(self._watch.close)
            async with self._watch.guard():
                await self._serve(stack)

    async def _serve(self, stack: AsyncExitStack) -> None:
        service, request = self._service, self._request
        if service.draining:
            self._down.close_after()
            raise Refusal("draining", "This server is shutting down.", retry_after=_DRAIN_RETRY_S)
        if service.leaving:
            self._down.close_after()
        target = read_target(request.method, request.raw_path)
        self._path = target.path
        headers, credentials = upward(request.headers, request.raw_headers)
        provider = self._provider()
        if request.method in ("GET", "HEAD") and target.route is None and provider is None:
            wanted = listing.asked_for(target.path)
            if wanted is not None:
                await self._list_models(wanted)
                return
        body, encoded = await take_body(request, target.path, self._table.server, self._count)
        inbound = Inbound(request.method, target.path, target.query, request.headers, self.record.remote)
        exchange = Exchange(
            inbound, "", headers, credentials, body, target.query, self._watch, stack, encoded=encoded
        )
        self._exchange = exchange
        exchange.rungs = self._choose(target, provider, body).rungs
        exchange.patience = self._keep_patient
        self.record.stream = exchange.streaming
        self._reply = reply = await self._table.chain(exchange)
        run = exchange.told or exchange
        lines = self._reply_headers(reply)
        if isinstance(reply.body, Tunnel):
            await self._down.tunnel(reply, reply.body, lines, run.watch, self._count)
        else:
            await self._down.relay(reply, lines, run.watch, dialect_of(self._path))

    def _keep_patient(self, every: float) -> None:
        self._down.keep_patient(every, [("x-tidegate-id", self.record.id)], self._service.timer)

    def _provider(self) -> str | None:
        named = self._request.headers.getall("x-tidegate-provider", ())
        if len(named) > 1:
            raise ClientFault(
                "invalid_request", "Two x-tidegate-provider headers were sent.", param="x-tidegate-provider"
            )
        return str(named[0]) if named else None

    def _count(self, size: int) -> None:
        self.record.bytes_in += size

    def _choose(self, target: Target, provider: str | None, body: Body) -> Choice:
        """Route by what the request names. The body is read only as far as that needs."""
        model = asked = None
        if isinstance(body, Envelope):
            model, asked = self._named_in(body)
        elif isinstance(body, Form | Handshake):
            model = body.model if body.model is None else self._checked(body.model)
        elif isinstance(body, Unreadable) and target.route is None and provider is None:
            raise body.fault
        return self._table.router.choose(Named(target.route, provider, asked, model))

    def _named_in(self, body: Envelope) -> tuple[str | None, str | None]:
        # An object under that name is somebody else's, and none of our business.
        provider = body.value("provider") if body.holds_text("provider") else None
        if provider is not None:
            body.drop("provider")
        if "model" not in body:
            return None, provider
        return self._checked(body.value("model")), provider

    def _checked(self, model: object) -> str:
        if not isinstance(model, str) or not model:
            raise ClientFault("invalid_request", "model must be a text that is not empty.", param="model")
        self.record.model = model
        return model

    async def _list_models(self, wanted: str) -> None:
        status, body = await self._service.models.answer(self._table, wanted)
        self._down.answer(status, [("Content-Type", "application/json"), *self._our_headers()], body)

    def _reply_headers(self, reply: Reply) -> Headers:
        lines = [(name, value) for name, value in reply.headers.items()]
        if reply.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
            lines = [line for line in lines if line[0].lower() != "x-accel-buffering"]
            lines.append(("X-Accel-Buffering", "no"))
        return [*lines, *self._our_headers()]

    def _our_headers(self) -> list[tuple[str, str]]:
        lines = [("x-tidegate-id", self.record.id)]
        if (run := self._told_run()) is not None:
            lines.append(("x-tidegate-route", run.route))
            if changes := _told(run.changes):
                lines.append(("x-tidegate-changed", changes))
        lines.append(("x-tidegate-attempts", str(self._attempts())))
        return lines

    def _attempts(self) -> int:
        runs = self._exchange.runs if self._exchange is not None else []
        return sum(run.attempts for run in runs)

    def _end_with(self, fault: Fault) -> None:
        """Tell the client, in the way that is still open."""
        self._note(fault.outcome, fault.status, fault.code)
        if (run := self._told_run()) is not None and isinstance(fault, TimeoutFault):
            run.client_stalled = fault.clock == "idle" and self._down.stalled
        if not isinstance(fault, ClientFault):
            self._explain(fault)
        try:
            if self._down.started:
                self._down.fail(fault, dialect_of(self._path))
            else:
                error_answer(self._down, fault, dialect_of(self._path), self._our_headers())
        except ClientGone:
            self._note("client_gone", 499, "client_gone")

    def _told_run(self) -> Exchange | None:
        return self._exchange.told if self._exchange is not None else None

    def _explain_rungs(self) -> None:
        """What became of the routes that were tried before, or besides, the one that the answer is about."""
        for run in self._exchange.runs if self._exchange is not None else ():
            if run.failure is not None:
                self._service.journal.warning(
                    "rung_failed",
                    id=self.record.id,
                    route=run.route,
                    failure=run.failure,
                    attempts=run.attempts,
                )

    def _explain(self, fault: Fault) -> None:
        """What the operator may know and the client may not: what the network said."""
        cause = fault.__cause__ if isinstance(fault, UpstreamFault) else None
        said = None if cause is None else type(cause).__name__
        if isinstance(cause, OSError):
            # The operating system's words. A parser's would quote the answer, and with it, maybe, a key.
            said = f"{said}: {cause}"
        self._service.journal.warning(
            "fault", id=self.record.id, code=fault.code, message=fault.message, cause=said
        )

    def _report(self, error: Exception) -> None:
        name = type(error).__name__
        self._service.journal.error("unforeseen", id=self.record.id, exception=name, where=where(error))

    def _note(self, outcome: Outcome, status: int, error: str) -> None:
        self.record.outcome, self.record.status, self.record.error = outcome, status, error

    def _finish(self) -> None:
        self._explain_rungs()
        record, began, reply = self.record, self._began, self._reply
        record.duration_ms = (perf_counter() - began) * 1000
        record.bytes_out = self._down.bytes_out
        record.attempts = self._attempts()
        if (run := self._told_run()) is not None:
            record.route = run.route
            record.upstream_model = _model(run)
            record.ttfb_ms = (run.head_at - began) * 1000 if run.head_at is not None else None
            record.ttft_ms = (run.content_at - began) * 1000 if run.content_at is not None else None
        if reply is not None and record.outcome == "ok":
            told = reply.seen is not None and reply.seen.error is not None
            record.outcome = "upstream_error" if told or reply.status >= 400 else "ok"
        record.empty_answer = reply is not None and reply.seen is not None and reply.seen.empty_answer
        if run is not None and run.counts_usage and reply is not None and reply.seen is not None:
            record.note(reply.seen.tokens)
        if self._down.started and record.outcome != "client_gone":
            record.status = self._down.status
        for tap in reply.taps if reply is not None else ():
            try:
                tap.finish(record.outcome)
            except Exception as error:
                # The answer is out: an observer that fails now has nobody else to tell.
                self._report(error)
        self._service.journal.exchange(record)


def _model(run: Exchange) -> str | None:
    try:
        return run.model
    except ClientFault:
        return None


def _told(changes: dict[str, tuple[str, str]]) -> str:
    """`x-tidegate-changed`: `max_tokens=800->1500`, an added or removed field with one side empty."""
    told = ", ".join(f"{name}={old}->{new}" for name, (old, new) in changes.items() if _plain(name))
    return told[:_LONGEST_CHANGES]


def _plain(name: str) -> bool:
    return name.isascii() and name.isprintable()
