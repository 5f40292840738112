"""Bodies of replies: one held in memory, one from an iterator, and the gate that both share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from middlewares.exchange import Sink


class Gate:
    """Backpressure and halting for whoever pumps: closed while the reader is slow."""

    __slots__ = ("_opened", "halted")

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


class PiecesBody(Gate):
    """A body that a generator makes."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        self._pieces = pieces

    async def pump(self, sink: Sink) -> bool:
        """Hand over each piece as it is made."""
        self.halted = False
        async for piece in self._pieces:
            sink(piece)
            if self.halted:
                return False
            await self.passed()
        return True

    def close(self) -> None:
        """The generator ends with its owner; it holds nothing but itself."""
