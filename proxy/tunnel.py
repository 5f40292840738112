"""A WebSocket after its handshake: bytes pass both ways as they come, close codes and all.

The two ends have agreed with each other, on extensions too, so nothing here takes part in the
conversation: a frame is never opened, a ping is answered by whom it was meant for, and an end that
nobody announced stays one (code 1006 at the client). Each side's backpressure reaches the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from middlewares.exchange import Exchange, Sink
from middlewares.faults import ClientGone, UpstreamFault
from middlewares.frames import Frames
from proxy.answers import Answer
from proxy.kernel import bytes_taken
from proxy.pool import ProviderConnection, Source


class Tunnel:
    """The provider's side of one WebSocket; to the relay it is a body that also takes bytes.

    `between_events` is False: nothing of ours is ever put between its frames.
    """

    between_events = False

    def __init__(self, answer: Answer, connection: ProviderConnection, exchange: Exchange) -> None:
        self._answer = answer
        self._connection = connection
        self._watch = exchange.watch
        self._up, self._down = Frames(), Frames()
        self._held: list[bytes] = []
        self._sink: Sink | None = None
        self._halted = False
        self._ended = False
        self._gone: ClientGone | None = None
        self._turn = asyncio.Event()
        connection.flushes = True
        connection.hand_to(self)
        # Whoever has to wait before the answer may go on, nothing piles up meanwhile.
        connection.read_no_more()
        self._taken = 0

    @property
    def closing(self) -> bool:
        """Whether either side has said good-bye: an end after that is a proper one."""
        return self._up.closed or self._down.closed

    def listen_to(self, source: Source) -> None:
        """Have `source` paused while the provider takes nothing."""
        self._connection.source = source

    def took_bytes(self) -> bool:
        """Whether the provider took anything since this was asked last."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return False
        before = self._taken
        self._taken = bytes_taken(transport.get_extra_info("socket"), transport.get_write_buffer_size())
        return self._connection.writing_paused and self._taken > before

    def send(self, data: bytes) -> None:
        """Bytes of the client."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return  # its end is on the way to the pump
        self._watch.start("idle")
        self._up.feed(data)
        transport.write(data)

    def feed_data(self, data: bytes) -> None:
        """Bytes of the provider, as its connection hands them on."""
        self._watch.start("idle")
        self._down.feed(data)
        if self._sink is None or self._halted:
            self._held.append(data)
            return
        try:
            self._sink(data)
        except ClientGone as gone:
            # Here nobody could catch it; the pump can tell.
            self._gone = gone
            self._turn.set()

    def feed_eof(self) -> None:
        """The provider's end."""
        self._ended = True
        self._turn.set()

    async def pump(self, sink: Sink) -> bool:
        """Hand over what comes until the provider ends it. Raises `upstream_cut`."""
        self._sink, self._halted = sink, False
        while self._held and not self._halted:
            sink(self._held.pop(0))
        self._connection.read_on()
        async with self._watch.guard():
            while not (self._ended or self._halted or self._gone):
                self._turn.clear()
                await self._turn.wait()
        self._sink = None
        if self._gone is not None:
            raise self._gone
        if self._halted:
            return False
        self._watch.stop("idle")
        if not self.closing:
            raise UpstreamFault("upstream_cut", "The provider broke off the WebSocket.")
        return True

    def halt(self) -> None:
        """Stop after this piece."""
        self._halted = True
        self._turn.set()

    def pause(self) -> None:
        """The client takes less than comes."""
        self._connection.read_no_more()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._watch.start("idle")
        self._connection.read_on()

    def close(self) -> None:
        """Close the connection to the provider; what was written to it still leaves."""
        self._connection.source = None
        self._answer.close()


class FromClient:
    """What the client's connection hands its bytes to; what aiohttp calls of a parser."""

    def __init__(self, tunnel: Tunnel, count: Callable[[int], None]) -> None:
        """`count` is told the size of each piece."""
        self._tunnel = tunnel
        self._count = count

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes of the client."""
        self._count(len(data))
        self._tunnel.send(data)
        return False, b""

    def feed_eof(self) -> None:
        """The client's end; whoever serves it is cancelled for that."""
