"""What processes tell each other of providers: breakers that opened or closed, and keys that rest.

No request waits for it. Four times a second each process sends what is new and hears how things are; in
between it decides by what it knows. A circuit is compared with what was sent of it last, so that it need
not know that it is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from middlewares.resting import Resting

_SAME_S = 0.5
"""Two processes that tell of one opening differ by the way that it took."""


class Shareable(Protocol):
    """A circuit, as far as others are told of it."""

    @property
    def openings(self) -> int: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def left(self) -> float: ...

    @property
    def probing(self) -> bool: ...

    def follow(self, seconds: float) -> None: ...

    def heal(self) -> None: ...


class News(Struct, frozen=True):
    """What one process tells the others; times in seconds to go."""

    opened: dict[str, float]
    closed: list[str]
    probing: list[str]
    left: list[str]
    resting: dict[str, float]


class Heard(Struct, frozen=True):
    """How things are. A circuit that stands there with a time that is over waits for a probe."""

    circuits: dict[str, float]
    resting: dict[str, float]


@dataclass(slots=True)
class _Known:
    """Of one circuit: the opening that the others know of, None if it is closed to them; our probe."""

    opening: int | None = None
    probe: bool = False


class Sharing:
    """One process's part in it."""

    def __init__(self, resting: Resting) -> None:
        self.resting = resting
        self._circuits: dict[str, Shareable] = {}
        self._known: dict[str, _Known] = {}

    def share(self, circuits: Mapping[str, Shareable]) -> None:
        """Of these routes, by their names, and of no others."""
        self._circuits = dict(circuits)
        self._known = {name: self._known.get(name, _Known()) for name in circuits}

    def again(self) -> None:
        """The store may have forgotten everything."""
        for known in self._known.values():
            known.opening = None
        self.resting.again()

    def claimed(self, route: str) -> None:
        """The one probe of all processes is ours."""
        if route in self._known:
            self._known[route].probe = True

    def news(self) -> News:
        """What is to be told; it counts as told."""
        opened: dict[str, float] = {}
        closed: list[str] = []
        probing: list[str] = []
        left: list[str] = []
        for name, circuit in self._circuits.items():
            known = self._known[name]
            if circuit.is_open and circuit.openings != known.opening:
                opened[name] = circuit.left
                known.opening = circuit.openings
            elif not circuit.is_open and known.opening is not None:
                closed.append(name)
                known.opening = None
            if known.probe:
                (probing if circuit.probing else left).append(name)
                known.probe = circuit.probing
        return News(opened, closed, probing, left, self.resting.news())

    def hear(self, heard: Heard) -> None:
        """Follow the others, in what has not changed here since it was asked for."""
        self.resting.hear(heard.resting)
        for name, circuit in self._circuits.items():
            known, seconds = self._known[name], heard.circuits.get(name)
            if circuit.openings != known.opening if circuit.is_open else known.opening is not None:
                continue  # news, to be told the next time
            if seconds is None:
                if circuit.is_open:
                    circuit.heal()
                    known.opening = None
            elif not circuit.is_open or seconds > circuit.left + _SAME_S:
                circuit.follow(max(0.0, seconds))
                known.opening = circuit.openings
