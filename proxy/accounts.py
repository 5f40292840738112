"""What is known of one exchange, kept while it runs and told when it is over: log line, faults, metrics.

Nothing here decides anything about the exchange; however it ends, it is told once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from time import perf_counter
from typing import Any

from middlewares.bodies import FixedBody
from middlewares.exchange import Exchange, Reply
from middlewares.faults import ClientFault, Fault, Outcome, TimeoutFault, UpstreamFault
from middlewares.handshake import Handshake
from proxy.logs import Journal, Record, where
from proxy.metrics import Metrics
from proxy.relay import Downstream
from proxy.stopwatch import Stopwatch

_LONGEST_CHANGES = 2000


class Account:
    """Of one exchange. `exchange` is the top level's, `reply` what its chain answered; None until then."""

    def __init__(self, journal: Journal, metrics: Metrics, record: Record, down: Downstream) -> None:
        self.record = record
        self.exchange: Exchange | None = None
        self.reply: Reply | None = None
        self._journal = journal
        self._metrics = metrics
        self._down = down
        self._began = perf_counter()
        self._stopwatch: Stopwatch[None] | None = None

    def timed(self, serving: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """What serves the exchange, to be awaited; the time for which it runs is our own."""
        self._stopwatch = Stopwatch(serving)
        return self._stopwatch

    @property
    def told(self) -> Exchange | None:
        """The run of the route that the answer is about."""
        return self.exchange.told if self.exchange is not None else None

    @property
    def route(self) -> str:
        """Its route; empty before one was tried."""
        told = self.told
        return "" if told is None else told.route

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for, or a WebSocket."""
        exchange = self.exchange
        return exchange is not None and (exchange.streaming or isinstance(exchange.body, Handshake))

    @property
    def attempts(self) -> int:
        """How many calls were made, on all routes."""
        return sum(run.attempts for run in self._runs)

    @property
    def _runs(self) -> list[Exchange]:
        return self.exchange.runs if self.exchange is not None else []

    def headers(self) -> list[tuple[str, str]]:
        """What every answer says of the exchange."""
        lines = [("x-tidegate-id", self.record.id)]
        if (run := self.told) is not None:
            lines.append(("x-tidegate-route", run.route))
            if changes := _shown(run.changes):
                lines.append(("x-tidegate-changed", changes))
        lines.append(("x-tidegate-attempts", str(self.attempts)))
        return lines

    def note(self, outcome: Outcome, status: int, error: str) -> None:
        """It ends otherwise than well."""
        self.record.outcome, self.record.status, self.record.error = outcome, status, error

    def note_fault(self, fault: Fault) -> None:
        """It ends with a fault that the client is told."""
        self.note(fault.outcome, fault.status, fault.code)
        if (run := self.told) is not None and isinstance(fault, TimeoutFault):
            run.client_stalled = fault.clock == "idle" and self._down.stalled
        if not isinstance(fault, ClientFault):
            self._explain(fault)

    def _explain(self, fault: Fault) -> None:
        """What the operator may know and the client may not: what the network said."""
        cause = fault.__cause__ if isinstance(fault, UpstreamFault) else None
        said = None if cause is None else type(cause).__name__
        if isinstance(cause, OSError):
            # The operating system's words. A parser's would quote the answer, and with it, maybe, a key.
            said = f"{said}: {cause}"
        self._journal.warning("fault", id=self.record.id, code=fault.code, message=fault.message, cause=said)

    def report(self, error: Exception) -> None:
        """It met what nobody foresaw."""
        name = type(error).__name__
        self._journal.error("unforeseen", id=self.record.id, exception=name, where=where(error))

    def close(self) -> None:
        """It is over: count it, and write its line."""
        overhead = self._stopwatch.seconds if self._stopwatch is not None else 0.0
        self._explain_rungs()
        self._complete()
        self._end_attempt()
        self._finish_taps()
        unobserved = self.reply is not None and self.reply.unobserved
        self._metrics.exchange(self.record, overhead, unobserved=unobserved)
        self._journal.exchange(self.record)
        self._let_go()

    def _let_go(self) -> None:
        """Cut the circles that its parts make: bodies may be large, and are not to wait for the collector."""
        for run in (self.exchange, *self._runs):
            if run is not None:
                run.body = run.encoded = run.patience = run.on_attempt = run.told = None
                run.watch.moved = None
                run.runs = []
        if self.reply is not None:
            self.reply.body = FixedBody(b"")
            self.reply.taps.clear()
        self.exchange = self.reply = None

    def _explain_rungs(self) -> None:
        """What became of the routes that were tried before, or besides, the one that the answer is about."""
        for run in self._runs:
            if run.failure is not None:
                self._journal.warning(
                    "rung_failed",
                    id=self.record.id,
                    route=run.route,
                    failure=run.failure,
                    attempts=run.attempts,
                )

    def _complete(self) -> None:
        """Fill in the record."""
        record, began, reply = self.record, self._began, self.reply
        record.duration_ms = (perf_counter() - began) * 1000
        record.bytes_out = self._down.bytes_out
        record.attempts = self.attempts
        if (run := self.told) is not None:
            record.route = run.route
            record.upstream_model = _model(run)
            record.ttfb_ms = (run.head_at - began) * 1000 if run.head_at is not None else None
            record.ttft_ms = (run.content_at - began) * 1000 if run.content_at is not None else None
        if reply is not None and record.outcome == "ok":
            record.outcome = "upstream_error" if self._told_of_error or reply.status >= 400 else "ok"
        record.empty_answer = reply is not None and reply.seen is not None and reply.seen.empty_answer
        if run is not None and run.counts_usage and reply is not None and reply.seen is not None:
            record.note(reply.seen.tokens)
        if self._down.started and record.outcome != "client_gone":
            record.status = self._down.status

    @property
    def _told_of_error(self) -> bool:
        """Whether the provider told of an error inside of its stream."""
        seen = self.reply.seen if self.reply is not None else None
        return seen is not None and seen.error is not None

    def _end_attempt(self) -> None:
        """The call whose answer was sent, or that was still under way, ends with the exchange."""
        result = self.record.error or ("error_event" if self._told_of_error else "ok")
        for run in self._runs:
            run.end_attempt(f"{result}_client" if run.client_stalled else result)

    def _finish_taps(self) -> None:
        for tap in self.reply.taps if self.reply is not None else ():
            try:
                tap.finish(self.record.outcome)
            except Exception as error:
                # The answer is out: an observer that fails now has nobody else to tell.
                self.report(error)


def _model(run: Exchange) -> str | None:
    try:
        return run.model
    except ClientFault:
        return None


def _shown(changes: dict[str, tuple[str, str]]) -> str:
    """`x-tidegate-changed`: `max_tokens=800->1500`, an added or removed field with one side empty."""
    told = ", ".join(f"{name}={old}->{new}" for name, (old, new) in changes.items() if _plain(name))
    return told[:_LONGEST_CHANGES]


def _plain(name: str) -> bool:
    return name.isascii() and name.isprintable()
