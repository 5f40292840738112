"""What outlives a table: breakers, slots and turns, kept by the route that they belong to.

A table that is loaded anew makes its middlewares anew; what they have learned is not in the file, so they
find it here again. Nothing is forgotten while the process lives: a route that is taken out and put back
finds its own slots, of which some may still be held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class States:
    """Of one process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[type, str], Any] = {}

    def keep(self, kind: type[T], route: str, make: Callable[[], T]) -> T:
        """The route's state of that kind, made if there is none yet."""
        if (kind, route) not in self._kept:
            self._kept[kind, route] = make()
        state: T = self._kept[kind, route]
        return state
