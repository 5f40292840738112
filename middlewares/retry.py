"""`retry`: the same route again, when that may help and nothing has reached the client yet.

aiohttp-retry counts the calls and waits between them; what is worth another call, and how long to
wait for it, is decided here. It is given no session and no response of aiohttp's: a call is the rest of
the chain, an answer is a `Reply` that leaves the chain only when it may be committed. So "before
commit" needs no rule of its own.

A clock that ran out is never tried again, and a wait that `total` would not see the end of is not begun.
A breaker among the rest of the chain that opens between two calls ends them with what the provider said last.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

from aiohttp_retry import RetryClient, RetryOptionsBase

from middlewares.bodies import read_failure
from middlewares.exchange import Deps, Exchange, Handler, Reply, Snapshot, Upload
from middlewares.faults import Refusal, UpstreamFault
from middlewares.observation import blames_request, decode
from middlewares.retry_options import Options, When
from middlewares.waits import asked_to_wait

_CAUSES: dict[str, When] = {
    "upstream_connect": "connect",
    "upstream_reset": "reset",
    "upstream_cut": "reset",
}
_NEVER = frozenset({501, 505})
"""The server says that it cannot, and would say so again."""


class Retry:
    """Calls the rest of the chain until its answer is good, final, or the last that is allowed."""

    def __init__(self, options: Options, _deps: Deps, *, chance: Callable[[], float] = random.random) -> None:
        self._options = options
        self._chance = chance

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """The last reply, or raises the last fault."""
        policy = _Policy(self._options, exchange, self._chance)
        calls = _Calls(exchange, call_next, policy)
        client = RetryClient(
            client_session=cast("Any", calls),
            logger=cast("Any", _Nobody()),
            retry_options=policy,
        )
        try:
            answered = cast("_Answered", await client.request(exchange.inbound.method, ""))
        except _Again as last:
            last.fault.spent = calls.made > 1
            raise last.fault from last.fault.__cause__
        reply = answered.reply
        if answered.spent:
            reply.headers["x-should-retry"] = "false"
        return reply


class _Again(Exception):
    """A fault that is worth another call."""

    def __init__(self, fault: UpstreamFault) -> None:
        super().__init__(fault.code)
        self.fault = fault


@dataclass(slots=True)
class _Answered:
    """A reply, as far as aiohttp-retry looks at it.

    `spent`: it may be tried again, but was often enough. `kept`: its body is here, whole. `last`: no
    call after it was made.
    """

    reply: Reply
    method: str
    stack: AsyncExitStack
    spent: bool = False
    kept: bool = False
    last: bool = False

    @property
    def status(self) -> int:
        return self.reply.status


class _Calls:
    """What aiohttp-retry takes for a session: each request is one run of the rest of the chain."""

    def __init__(self, exchange: Exchange, call_next: Handler, policy: _Policy) -> None:
        self._exchange = exchange
        self._call_next = call_next
        self._policy = policy
        self._before = exchange.snapshot()
        self._failure: _Answered | UpstreamFault | None = None
        self.made = 0

    async def request(self, method: str, _url: str, **_options: object) -> _Answered:
        exchange, outer = self._exchange, self._exchange.stack
        sent = Snapshot(exchange.headers, exchange.body, exchange.query)
        if self.made:
            exchange.restore(self._before)
        self.made += 1
        # What an attempt holds, it holds to the end of the exchange or until the next one begins.
        stack = AsyncExitStack()
        outer.push_async_callback(stack.aclose)
        exchange.stack = stack
        try:
            reply = await self._call_next(exchange)
        except Refusal as refusal:
            if refusal.code != "breaker_open":
                raise
            await stack.aclose()
            # What is told of the exchange is told of the call that was made.
            exchange.restore(sent)
            return self._told_before(refusal)
        except UpstreamFault as fault:
            await stack.aclose()
            self._failure = fault
            if self._policy.may_repeat(fault, self.made):
                raise _Again(fault) from fault
            raise
        finally:
            exchange.stack = outer
        answered = _Answered(reply, method, stack)
        answered.spent = self.made > 1 and self._policy.is_cause(reply)
        self._failure = answered
        return answered

    def _told_before(self, refusal: Refusal) -> _Answered:
        """What the provider said last, where it was asked and a breaker forbids to ask again.

        Raises the fault that it was, or `refusal` where nothing is known.
        """
        failure = self._failure
        if isinstance(failure, UpstreamFault):
            failure.spent = True
            raise failure from failure.__cause__
        if failure is None or not failure.kept:
            raise refusal
        failure.spent = failure.last = True
        return failure


class _Policy(RetryOptionsBase):
    """Whether and when, for one exchange; `attempts` is aiohttp-retry's word for calls in all."""

    def __init__(self, options: Options, exchange: Exchange, chance: Callable[[], float]) -> None:
        # An upload was sent and is gone: there is nothing to send again.
        attempts = 1 if isinstance(exchange.body, Upload) else options.attempts
        super().__init__(
            attempts=attempts,
            statuses=(),
            exceptions={_Again},
            methods={exchange.inbound.method.upper()},
            retry_all_server_errors=False,
            evaluate_response_callback=cast("Any", self._is_final),
        )
        self._options = options
        self._exchange = exchange
        self._chance = chance
        self._calls = 0
        self._wait = 0.0

    def is_cause(self, reply: Reply) -> bool:
        """Whether an answer like this may be tried again."""
        status = reply.status
        if reply.blames_request:
            return False
        if status == 429:
            return "rate_limited" in self._options.when
        return status >= 500 and status not in _NEVER and "server_error" in self._options.when

    def may_repeat(self, fault: UpstreamFault, made: int) -> bool:
        """Whether a fault may be, after so many calls, and there is time for it."""
        self._calls = made
        self._wait = self._backoff(made)
        return _CAUSES.get(fault.code) in self._options.when and self._has_time()

    async def _is_final(self, answered: _Answered) -> bool:
        """aiohttp-retry's question about an answer; False has it ask again after `get_timeout`."""
        self._calls += 1
        reply = answered.reply
        if answered.last or not self.is_cause(reply):
            return True
        asked = asked_to_wait(reply.headers)
        self._wait = self._backoff(self._calls) if asked is None else asked
        too_long = asked is not None and asked > self._options.retry_after_max
        # Another route is better than a long wait for this one.
        better = self._exchange.more_rungs and self._wait > self._options.backoff.max
        if too_long or better or not self._has_time():
            answered.spent = False  # it may be tried again, though not by us
            return True
        source = reply.body
        said = await read_failure(reply)
        if said is not None and blames_request(decode(said)):
            answered.spent = False
            return True
        answered.kept = said is not None
        source.close()
        await answered.stack.aclose()
        return False

    def get_timeout(self, attempt: int, response: object = None) -> float:  # noqa: ARG002  # its signature
        """Seconds to wait before the next call. No clock but `total` runs meanwhile."""
        self._exchange.watch.stop("connect", "first_byte", "first_token", "idle")
        return self._wait

    def _backoff(self, made: int) -> float:
        """Full jitter: anything from nothing to twice as much for each call, bounded."""
        limits = self._options.backoff
        return self._chance() * float(min(limits.max, limits.initial * 2 ** (made - 1)))

    def _has_time(self) -> bool:
        left = self._exchange.watch.left("total")
        return left is None or self._wait < left


class _Nobody:
    """aiohttp-retry's log: attempts are told in ours."""

    def debug(self, *_said: object) -> None: ...

    def warning(self, *_said: object) -> None: ...

    def exception(self, *_said: object) -> None: ...
