"""How long a coroutine really ran: every step of it on the event loop, and none of its waits.

It measures by driving. Whatever the coroutine waits for, the provider, the client, a slot, a back-off, is
left out without having to be named, so that no wait can be forgotten; a step is timed whole, whoever's
code runs in it. What others do on the coroutine's behalf, callbacks and other tasks, is not in it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")


class Stopwatch(Generator[Any, Any, T]):
    """To be awaited once, in the coroutine's place."""

    __slots__ = ("_began", "_coroutine", "_ran")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._began = 0.0
        self._ran = 0.0

    @property
    def seconds(self) -> float:
        """What it took so far; to be asked from inside of it."""
        return self._ran + perf_counter() - self._began

    def __await__(self) -> Generator[Any, Any, T]:
        """Step by step."""
        return self

    def __next__(self) -> Any:
        """One step; asyncio sends nothing into a coroutine."""
        began = self._began = perf_counter()
        try:
            return self._coroutine.send(None)
        finally:
            self._ran += perf_counter() - began

    def send(self, value: Any, /) -> Any:
        """One step, with an answer to what it waited for."""
        began = self._began = perf_counter()
        try:
            return self._coroutine.send(value)
        finally:
            self._ran += perf_counter() - began

    def throw(self, *problem: Any) -> Any:
        """One step, with what its wait ended with: a cancellation, most of the time."""
        began = self._began = perf_counter()
        try:
            return self._coroutine.throw(*problem)
        finally:
            self._ran += perf_counter() - began

    def close(self) -> None:
        """Nobody waits for it any more."""
        self._coroutine.close()
