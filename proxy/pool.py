"""Connections to providers: dialled and kept by aiohttp's connector, spoken on by ourselves.

While an answer is awaited its bytes go to that `Answer`. Before that a connection belongs to aiohttp, which
asks an HTTP proxy for a tunnel on it; after a switch of protocols, to the tunnel. In the pool nothing may
come but its end: bytes that nobody asked for would be the next client's answer.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey

from proxy.answers import Answer
from proxy.kernel import LAST_BYTES_WITHIN_MS, close_with_reset, give_up_after

_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class Source(Protocol):
    """Where the bytes for a provider come from, when they come by themselves: a client's connection."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Stoppable(Protocol):
    """A request that is being sent."""

    def stop(self) -> bool:
        """Send no more of it; False if that was not all."""
        ...


class Receiver(Protocol):
    """What takes a connection's bytes once they are no HTTP any more."""

    def feed_data(self, data: bytes) -> None: ...

    def feed_eof(self) -> None: ...


class ProviderConnection(ResponseHandler):
    """One connection. `reused` and `answered` speak of the request that it carries now."""

    reused = False
    """It has carried another request before."""
    answered = False
    """A byte of the answer has come."""
    source: Source | None = None
    """Paused while the provider takes nothing."""
    sending: Stoppable | None = None
    """Its request, as long as that is on its way."""
    flushes = False
    """Whether what was written still leaves when it is closed: not half a request, but a last message."""
    spoilt = False
    """It carries no further request."""
    _used = False
    _resting = False
    _reading = True
    _answer: Answer | None = None
    _receiver: Receiver | None = None
    _switched = b""
    _speaks_otherwise = False
    _lease: aiohttp.connector.Connection | None = None

    def carry(self, lease: aiohttp.connector.Connection, route: str, *, head_only: bool) -> Answer:
        """Take a request; its answer. `lease` is let go of when that is over."""
        self.reused, self._used = self._used, True
        self.answered = self._resting = False
        self._lease = lease
        self._answer = answer = Answer(self, route, head_only=head_only)
        if self.transport is None:
            answer.lost(None)  # in the moment in which it was made
        return answer

    # ---- for the answer

    def read_no_more(self) -> None:
        """The reader of the answer is slow."""
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        """It has caught up."""
        if not self._reading:
            self._reading = True
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def spoil(self) -> None:
        """It carries no further request."""
        self.spoilt = True
        self.force_close()
        if self._resting:
            self.abort()

    def over(self) -> None:
        """The answer has come to its end, or nobody wants the rest of it."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        self._answer = None
        all_sent = self.sending is None or self.sending.stop()
        self.sending = None
        if self.spoilt or not all_sent:
            lease.close()
        else:
            self.read_on()
            lease.release()

    def switched(self, rest: bytes) -> None:
        """It speaks another protocol from here on."""
        self.spoilt = self._speaks_otherwise = True
        self._switched += rest

    # ---- for who sends

    async def drained(self) -> None:
        """Wait until the provider has taken enough. Raises ConnectionError when it is gone."""
        await self._drain_helper()

    def give_up(self) -> None:
        """Half a request was sent, and the rest will not come."""
        answer = self._answer
        self.spoil()
        if self.transport is not None:
            close_with_reset(self.transport.get_extra_info("socket"))
        self.abort()
        if answer is not None:
            answer.lost(ConnectionAbortedError())

    # ---- for the tunnel

    def hand_to(self, receiver: Receiver) -> None:
        """From here on what comes goes to `receiver`."""
        self._receiver = receiver
        rest, self._switched = self._switched, b""
        if rest:
            receiver.feed_data(rest)

    # ---- for the event loop and the connector

    def rest(self) -> None:
        """The connection waits in the pool: from here on nothing may come but its end."""
        self._resting = True

    def close(self) -> None:
        """The call is over. Half a request that the provider does not take must not keep it waiting."""
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.get_write_buffer_size():
            sock = transport.get_extra_info("socket")
            if self.flushes:
                give_up_after(sock, LAST_BYTES_WITHIN_MS)
            else:
                close_with_reset(sock)
                transport.abort()
        super().close()

    def pause_writing(self) -> None:
        """The provider takes less than is sent."""
        super().pause_writing()
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        """The provider has caught up."""
        super().resume_writing()
        if self.source is not None:
            self.source.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of the provider."""
        if self._receiver is not None:
            self._receiver.feed_data(data)
        elif self._speaks_otherwise:
            self._switched += data  # until somebody takes it
        elif self._answer is not None:
            self.answered = True
            self._answer.feed(data)
        elif self._used or self._resting:
            self.spoil()
            self.abort()
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The end; with `exc` it is no proper one, whatever the framing."""
        answer, receiver = self._answer, self._receiver
        self.spoilt = True
        super().connection_lost(exc)
        if receiver is not None:
            receiver.feed_eof()
        if answer is not None:
            answer.lost(exc)


class Destination:
    """Where the requests of one route go: what aiohttp's connector has to know to dial, made once."""

    def __init__(self, request: ClientRequest) -> None:
        self.request = request
        self.key: ConnectionKey = request.connection_key


class Pool(aiohttp.TCPConnector):
    """Dials, and keeps what can be used again.

    `keep` False makes every connection a new one. There is no limit here: how many exchanges there
    may be is decided before a connection is asked for.
    """

    def __init__(self, *, keep: bool) -> None:
        if keep:
            super().__init__(limit=0, ttl_dns_cache=120, keepalive_timeout=30)
        else:
            super().__init__(limit=0, ttl_dns_cache=120, force_close=True)
        self._factory: Any = functools.partial(ProviderConnection, loop=self._loop)

    async def lease(self, there: Destination) -> aiohttp.connector.Connection:
        """A connection, kept or new. Raises what aiohttp raises."""
        kept = await self._get(there.key, [])
        if kept is not None:
            return kept
        return await self.connect(there.request, traces=[], timeout=_NO_LIMIT)

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, ProviderConnection):
            protocol.rest()
