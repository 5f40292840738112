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
from middlewares.faults import ClientFault, Fault, Outcome, Refusal, UpstreamFault
from middlewares.observation import dialect_of
from proxy import listing
from proxy.intake import take_body
from proxy.logs import Journal, Record
from proxy.relay import ClientGone, Downstream, Headers, error_answer
from proxy.router import Choice, Named
from proxy.server import ClientConnection
from proxy.table import RouteTable
from proxy.wire import Target, read_target, upward

_DRAIN_RETRY = 5
_LONGEST_CHANGES = 2000


class Service(Protocol):
    """What the handler needs of the program around it."""

    table: RouteTable
    journal: Journal
    timer: Timer
    draining: bool
    models: listing.ModelList

    def enter(self) -> None: ...

    def leave(self) -> None: ...


class Handler:
    """Serves the requests of one listener; `admin` says which of our own pages it has."""

    def __init__(self, service: Service, *, admin: bool) -> None:
        self._service = service
        self._admin = admin

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        down = Downstream(request, connection)
        if request.method in ("GET", "HEAD") and self._answer_probe(request.raw_path, down):
            return down.result
        if self._admin:
            fault = ClientFault("not_found", "The admin listener serves /healthz and /readyz.")
            error_answer(down, fault, "other", ())
            return down.result
        self._service.enter()
        try:
            await _Run(self._service, request, down).serve()
        finally:
            self._service.leave()
        return down.result

    def _answer_probe(self, path: str, down: Downstream) -> bool:
        if path == "/healthz":
            _probe(down, 200, "ok")
        elif path == "/readyz":
            draining = self._service.draining
            _probe(down, 503 if draining else 200, "draining" if draining else "ready")
        else:
            return False
        return True


def _probe(down: Downstream, status: int, word: str) -> None:
    body = f'{{"status": "{word}"}}\n'.encode()
    down.answer(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body)


class _Run:
    """The state of one exchange."""

    def __init__(self, service: Service, request: web.BaseRequest, down: Downstream) -> None:
        self._service = service
        self._table = service.table
        self._request = request
        self._down = down
        self._began = perf_counter()
        self._watch = Watch(self._table.clocks, service.timer)
        self._exchange: Exchange | None = None
        self._path = ""
        self._reply: Reply | None = None
        self.record = Record(
            id=secrets.token_hex(8),
            remote=request.remote or "",
            method=request.method,
            path=request.raw_path.partition("?")[0],
        )

    async def serve(self) -> None:
        """Serve, and write the log line."""
        record = self.record
        try:
            async with AsyncExitStack() as stack:
                stack.callback(self._watch.close)
                await self._serve(stack)
        except Fault as fault:
            self._end_with(fault)
        except (ClientGone, ConnectionError):
            self._note("client_gone", 499, "client_gone")
        except asyncio.CancelledError:
            gone = self._request.transport is None
            self._note(*(("client_gone", 499, "client_gone") if gone else ("cut", 503, "draining")))
            self._down.break_off()
            raise
        except Exception as error:
            # The last resort: whatever this is, it must not take the connection's other requests along.
            self._service.journal.error(
                "unforeseen", id=record.id, exception=type(error).__name__, where=_where(error)
            )
            self._end_with(Refusal("internal_error", "Something went wrong here; see the log."))
        finally:
            self._finish()

    async def _serve(self, stack: AsyncExitStack) -> None:
        service, request = self._service, self._request
        if service.draining:
            self._down.close_after()
            raise Refusal("draining", "This server is shutting down.", retry_after=_DRAIN_RETRY)
        target = read_target(request.method, request.raw_path)
        self._path = target.path
        headers, credentials = upward(request.headers)
        provider = request.headers.get("x-tidegate-provider")
        if request.method == "GET" and target.route is None and provider is None:
            wanted = listing.asked_for(target.path)
            if wanted is not None:
                await self._list_models(wanted)
                return
        body, encoded, size = await take_body(request, target.path, self._table.server)
        self.record.bytes_in = size
        inbound = Inbound(request.method, target.path, target.query, request.headers, request.remote or "")
        exchange = Exchange(
            inbound, "", headers, credentials, body, target.query, self._watch, stack, encoded=encoded
        )
        self._exchange = exchange
        choice = self._choose(target, provider, body)
        exchange.rungs = choice.rungs
        self.record.stream = exchange.streaming
        self._watch.start("total")
        async with self._watch.guard():
            self._reply = reply = await self._table.chain(exchange)
            await self._down.relay(reply, self._reply_headers(reply))

    def _choose(self, target: Target, provider: str | None, body: Body) -> Choice:
        """Route by what the request names. The body is read only as far as that needs."""
        model = asked = None
        if isinstance(body, Envelope):
            model, asked = self._named_in(body)
        elif isinstance(body, Unreadable) and target.route is None and provider is None:
            raise body.fault
        return self._table.router.choose(Named(target.route, provider, asked, model))

    def _named_in(self, body: Envelope) -> tuple[str | None, str | None]:
        provider = body.value("provider")
        if isinstance(provider, str):
            body.drop("provider")
        else:
            provider = None
        if "model" not in body:
            return None, provider
        model = body.value("model")
        if not isinstance(model, str) or not model:
            raise ClientFault("invalid_request", "model must be a text that is not empty.", param="model")
        self.record.model = model
        return model, provider

    async def _list_models(self, wanted: str) -> None:
        status, body = await self._service.models.answer(self._table, wanted)
        self._down.answer(status, [("Content-Type", "application/json"), *self._our_headers()], body)
        self.record.status = status

    def _reply_headers(self, reply: Reply) -> Headers:
        lines = [(name, value) for name, value in reply.headers.items()]
        streams = reply.headers.get("Content-Type", "").lower().startswith("text/event-stream")
        if streams and "X-Accel-Buffering" not in reply.headers:
            lines.append(("X-Accel-Buffering", "no"))
        return [*lines, *self._our_headers()]

    def _our_headers(self) -> list[tuple[str, str]]:
        lines = [("x-tidegate-id", self.record.id)]
        run = self._run()
        if run is not None:
            lines.append(("x-tidegate-route", run.route))
            if changes := _told(run.changes):
                lines.append(("x-tidegate-changed", changes))
        lines.append(("x-tidegate-attempts", str(self._attempts())))
        return lines

    def _run(self) -> Exchange | None:
        """The run of a route's chain that the answer is about: the one that gave it, or the first."""
        if self._reply is not None and self._reply.origin is not None:
            return self._reply.origin
        runs = self._exchange.runs if self._exchange is not None else []
        return runs[0] if runs else None

    def _attempts(self) -> int:
        runs = self._exchange.runs if self._exchange is not None else []
        return sum(run.attempts for run in runs)

    def _end_with(self, fault: Fault) -> None:
        """Tell the client, in the way that is still open."""
        self._note(fault.outcome, fault.status, fault.code)
        cause = fault.__cause__
        if not isinstance(fault, ClientFault):
            self._service.journal.warning(
                "fault",
                id=self.record.id,
                code=fault.code,
                message=fault.message,
                cause=f"{type(cause).__name__}: {cause}"
                if isinstance(fault, UpstreamFault) and cause
                else None,
            )
        try:
            if self._down.started:
                self._down.fail(fault)
            else:
                error_answer(self._down, fault, dialect_of(self._path), self._our_headers())
        except ClientGone:
            self._note("client_gone", 499, "client_gone")

    def _note(self, outcome: Outcome, status: int, error: str) -> None:
        self.record.outcome, self.record.status, self.record.error = outcome, status, error

    def _finish(self) -> None:
        record, began, reply = self.record, self._began, self._reply
        record.duration_ms = (perf_counter() - began) * 1000
        record.bytes_out = self._down.bytes_out
        record.attempts = self._attempts()
        if (run := self._run()) is not None:
            record.route = run.route
            record.upstream_model = _model(run)
            record.ttfb_ms = (run.head_at - began) * 1000 if run.head_at is not None else None
            record.ttft_ms = (run.content_at - began) * 1000 if run.content_at is not None else None
        if reply is not None:
            if record.outcome == "ok" and (reply.status >= 400 or (reply.seen and reply.seen.error)):
                record.outcome = "upstream_error"
            record.empty_answer = reply.seen is not None and reply.seen.empty_answer
        if record.error is None or (self._down.started and record.outcome != "client_gone"):
            record.status = self._down.status
        for tap in reply.taps if reply is not None else ():
            tap.finish(record.outcome)
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


def _where(error: BaseException) -> str:
    """File and line of an unforeseen error; its text may quote what must not be logged."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} in {code.co_name}"
