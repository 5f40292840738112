"""What the loader has found out about a file so far: problems, and where every value stands.

A place is a path of keys and indices from the root. A problem about a value is put at the value
when that is a scalar, else at its key, which is where a reader looks for a block.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

from config.problems import Mark, Problem
from config.secrets import redact

Place = tuple[str | int, ...]


class Report:
    """Collected while loading; single use."""

    def __init__(self, file: str) -> None:
        self.file = file
        # A dict for its order: a node that aliases use twice has its problems once.
        self._problems: dict[Problem, None] = {}
        self.marks: dict[Place, Mark] = {}
        self.keys: dict[Place, Mark] = {}
        # The source text of every interpolated value: what messages may show of it.
        self.sources: dict[Place, str] = {}
        self._values: dict[Place, str] = {}
        # Where the options of each middleware of a chain stand, in the chain's order.
        self.uses: dict[Place, list[Place]] = {}
        # Where a value could not be read: the rules keep silent about it.
        self.broken: set[Place] = set()
        # Places that the command line has taken over, and the option that did.
        self.overridden: dict[Place, str] = {}

    @property
    def problems(self) -> list[Problem]:
        """Every problem so far, in the order of the file."""
        return sorted(self._problems, key=lambda problem: (problem.line, problem.column))

    def error(self, mark: Mark, code: str, message: str) -> None:
        """Add an error at a mark of this file."""
        self.add(mark, "error", code, message)

    def add(self, mark: Mark, level: Literal["error", "warning"], code: str, message: str) -> None:
        """Add a problem at a mark of this file; no message leaves with a literal secret in it."""
        self._problems[Problem(self.file, mark.line, mark.column, level, code, redact(message))] = None

    def error_at(self, place: Place, code: str, message: str) -> None:
        """Add an error at a value's place, or at the command-line option that replaced it."""
        option = next(
            (option for start, option in self.overridden.items() if place[: len(start)] == start), None
        )
        if option is not None:
            self._problems[Problem(option, 1, 1, "error", code, redact(message))] = None
        else:
            self.error(self.mark(place), code, message)

    def error_at_key(self, place: Place, code: str, message: str) -> None:
        """Add an error at the key of a place."""
        self.error(self.keys.get(place) or self.mark(place), code, message)

    def mark(self, place: Place) -> Mark:
        """The mark of a place, or of the nearest one around it that the file has."""
        for n in range(len(place), -1, -1):
            if place[:n] in self.marks:
                return self.marks[place[:n]]
        return Mark()

    def shown(self, place: Place, value: str) -> str:
        """`value` in quotes for a message; what came from the environment is shown as its source."""
        return repr(self.sources.get(place, value))

    def interpolated(self, place: Place, source: str, value: str) -> None:
        """Note that the value at a place came from the environment."""
        self.sources[place] = source
        self._values[place] = value

    def scrubbed(self, message: str, place: Place) -> str:
        """A middleware's own message, with the interpolated values at and below a place as their source."""
        for other, value in self._values.items():
            if value and other[: len(place)] == place:
                # A function, since a replacement text would have its backslashes read.
                source = partial(_constant, self.sources[other])
                message = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", source, message)
        return message


def _constant(text: str, _: re.Match[str]) -> str:
    return text
