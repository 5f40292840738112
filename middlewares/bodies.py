"""Bodies of replies: one held in memory, one from an iterator, and the gate that both share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from middlewares.exchange import Reply, ReplyBody, Sink
from middlewares.faults import UpstreamFault

_KEPT_AT_MOST = 64 * 1024
"""Bytes of a failure's body that are kept while another attempt is made."""
_READ_WITHIN_S = 1.0
"""For a body that does not follow its head: nobody waits for its words."""


class Gate:
    """Backpressure and halting for whoever pumps: closed while the reader is slow."""

    __slots__ = ("_opened", "halted")

    between_events = False

    def __init__(self) -> None:
        self.halted = False
        self._opened: asyncio.Event | None = None

    def halt(self) -> None:
        """Stop after the current piece."""
        self.halted = True

    def pause(self) -> None:
        """Close the gate."""
        if self._opened is None:
            self._opened = asyncio.Event()

    def resume(self) -> None:
        """Open it."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def passed(self) -> None:
        """Wait until the gate is open."""
        while (opened := self._opened) is not None:
            await opened.wait()


class FixedBody(Gate):
    """A body that is already here."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    async def pump(self, sink: Sink) -> bool:
        """Hand it over in one piece."""
        data, self._data = self._data, b""
        self.halted = False
        if data:
            sink(data)
        return not self.halted

    def close(self) -> None:
        """Nothing to let go of."""


class HeldBody(Gate):
    """What was read of a body already, and the rest of it."""

    __slots__ = ("_pieces", "_rest")

    def __init__(self, pieces: list[bytes], rest: ReplyBody) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = rest

    async def pump(self, sink: Sink) -> bool:
        """Hand over what was read, then the rest as it arrives."""
        self.halted = False
        while self._pieces:
            sink(self._pieces.pop(0))
            if self.halted:
                return False
        return await self._rest.pump(sink)

    def halt(self) -> None:
        """Stop after the current piece."""
        super().halt()
        self._rest.halt()

    def pause(self) -> None:
        """Stop asking the rest for more."""
        self._rest.pause()

    def resume(self) -> None:
        """Go on."""
        self._rest.resume()

    def close(self) -> None:
        """Let go of the rest."""
        self._rest.close()


class PiecesBody(Gate):
    """A body that a generator makes."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        self._pieces = pieces

    async def pump(self, sink: Sink) -> bool:
        """Hand over each piece as it is made."""
        self.halted = False
        while True:
            await self.passed()
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                return True
            sink(piece)
            if self.halted:
                return False

    def close(self) -> None:
        """The generator ends with its owner; it holds nothing but itself."""


async def read_up_to(limit: int, body: ReplyBody) -> tuple[list[bytes], bool]:
    """What comes of `body`, and whether that is all of it; reading stops once `limit` bytes are passed."""
    pieces: list[bytes] = []
    size = 0

    def keep(piece: bytes) -> None:
        nonlocal size
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            body.halt()

    return pieces, await body.pump(keep)


async def read_failure(reply: Reply) -> bytes | None:
    """A failure's body, which `reply` keeps; None where it is long, or long in coming, or cut.

    Raises TimeoutFault: a clock that runs out here has run out on the attempt.
    """
    body = reply.body
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            pieces, ended = await read_up_to(_KEPT_AT_MOST, body)
    except (TimeoutError, UpstreamFault):
        return None
    if not ended:
        return None
    said = b"".join(pieces)
    reply.body = FixedBody(said)
    return said
