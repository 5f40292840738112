"""What an exchange costs in tokens: guessed when it begins, known when its answer says so.

The guess is a quarter of the body's bytes and the ceiling that the client sets for the answer. It holds its
place in the bucket until the end. Data within the body, such as a picture, is no text and is left out.
"""

from __future__ import annotations

import asyncio

from middlewares.envelope import Envelope
from middlewares.exchange import Exchange, Reply
from middlewares.faults import ClientFault, Fault
from middlewares.store import Grant

_BYTES_A_TOKEN = 4
_CEILINGS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_PLAUSIBLE = 10**9
"""For one answer. A provider that says more has made a mistake, and nobody is to pay it off."""
_MAY_HOLD_DATA = 16 * 1024
_LONG_WORD = 2048
"""Bytes between two quotes without a blank: no language has such words."""


def guess(exchange: Exchange) -> int:
    """Tokens. Of a body that is no JSON nothing is guessed."""
    body = exchange.body
    if not isinstance(body, Envelope):
        return 0
    return _prompt(body) + _ceiling(body)


def _prompt(body: Envelope) -> int:
    raw = body.raw
    size = len(raw)
    if size > _MAY_HOLD_DATA:
        size -= sum(len(part) for part in raw.split(b'"') if len(part) > _LONG_WORD and b" " not in part)
    return size // _BYTES_A_TOKEN


def _ceiling(body: Envelope) -> int:
    for name in _CEILINGS:
        try:
            value = body.value(name)
        except ClientFault:
            continue  # for the API to refuse
        if type(value) is int and 0 < value < _PLAUSIBLE:
            return value
    return 0


class Charge:
    """One exchange's. Enter it around the rest of the chain, and `close` it when the exchange is over."""

    __slots__ = ("_exchange", "_given_back", "_grant", "_held", "reply")

    def __init__(self, exchange: Exchange, grant: Grant, held: int) -> None:
        self._exchange = exchange
        self._grant = grant
        self._held = held
        self._given_back = False
        self.reply: Reply | None = None

    def failed(self, error: BaseException) -> None:
        """No answer came. Whoever leaves while the provider works has used it all the same."""
        left = isinstance(error, asyncio.CancelledError) and not self._exchange.watch.fired
        self._given_back = isinstance(error, Fault) or not (left and self._was_asked)

    @property
    def _was_asked(self) -> bool:
        exchange = self._exchange
        return bool(exchange.attempts or any(run.attempts for run in exchange.runs))

    def close(self) -> None:
        """Charge what it cost, as far as that is known."""
        self._grant.end(self._cost())

    def _cost(self) -> int | None:
        reply = self.reply
        if self._given_back or (reply is not None and reply.status >= 400):
            return 0
        if reply is None or reply.seen is None:
            return None
        tokens = reply.seen.tokens
        told = [number for number in (tokens.prompt, tokens.completion) if number is not None]
        if told and all(0 <= number < _PLAUSIBLE for number in told):
            return sum(told)
        # A stream that does not say: most have a token an event.
        body, events = self._exchange.body, reply.events
        prompt = _prompt(body) if isinstance(body, Envelope) else 0
        return max(self._held, prompt + (0 if events is None else events.events))
