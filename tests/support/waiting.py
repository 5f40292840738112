"""Waiting for a condition with a deadline, woken by events and never by polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Rung whenever something happened; wakes everybody who waits for a condition to hold."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def until(self, holds: Callable[[], bool], within: float, found: Callable[[], str]) -> None:
        """Return as soon as `holds()`; after `within` seconds raise TimeoutError telling what was `found`."""
        try:
            async with asyncio.timeout(within):
                while not holds():
                    await self._next.wait()
        except TimeoutError:
            raise TimeoutError(f"{found()} after {within} s") from None
