"""Connections to providers: aiohttp's, kept on a shorter lead.

What aiohttp's own do not do: tell a reader whose answer's framing broke, take a reset for a reset when
only the end of the connection delimits the answer, and drop a pooled connection on which bytes arrive
that nobody asked for. Those would be the next client's answer.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler

from proxy.kernel import LAST_BYTES_WITHIN_MS, close_with_reset, give_up_after


class Source(Protocol):
    """Where the bytes for a provider come from, when they come by themselves: a client's connection."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class ProviderConnection(ResponseHandler):
    """One connection. `reused` and `answered` speak of the request that it carries now."""

    reused = False
    """It has carried another request before."""
    answered = False
    """A byte of the answer has come."""
    source: Source | None = None
    """Paused while the provider takes nothing."""
    flushes = False
    """Whether what was written still leaves when it is closed: not half a request, but a last message."""
    _used = False
    _resting = False

    def set_response_params(self, **params: Any) -> None:
        """Called when a request takes the connection."""
        self.reused, self._used = self._used, True
        self.answered = self._resting = False
        super().set_response_params(**params)

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
        if data:
            if self._resting:
                self.force_close()
                self.abort()
                return
            self.answered = True
        super().data_received(data)
        if self._resting and self._buffer:
            # The answer ended within these bytes, which gave the connection back; what follows is unasked.
            self.force_close()
            self.abort()
        elif self._exception is not None:
            self._break_body(self._exception)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """The request failed; where its answer has begun already, the reader of that has to know."""
        super().set_exception(exc, *cause)
        self._break_body(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The end; with `exc` it is no proper one, whatever the framing."""
        if exc is not None:
            self._break_body(exc)
        super().connection_lost(exc)

    def _break_body(self, cause: BaseException) -> None:
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the answer broke off"), cause)


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

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, ProviderConnection):
            protocol.rest()
