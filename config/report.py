"""What the loader has found out about a file so far: problems, and where every value stands.

A place is a path of keys and indices from the root. A problem about a value is put at the value
when that is a scalar, else at its key, which is where a reader looks for a block.
"""

from __future__ import annotations

from collections.abc import Collection

from config.problems import Level, Mark, Problem
from config.secrets import redact
from config.suggestions import hint
from config.wording import quoted, visible

Place = tuple[str | int, ...]

# Past so many problems nobody reads hints; and a name costs its letters times those it is compared with.
_HINTED_PROBLEMS = 100
_HINTED_LETTERS = 4_000_000


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
        # Where the options of each middleware of a chain stand, in the chain's order.
        self.uses: dict[Place, list[Place]] = {}
        # Where a value could not be read: the rules keep silent about it.
        self.broken: set[Place] = set()
        # Places that the command line has taken over, and the option that did.
        self.overridden: dict[Place, str] = {}
        self._letters = _HINTED_LETTERS

    @property
    def problems(self) -> list[Problem]:
        """Every problem so far, in the order of the file."""
        return sorted(self._problems, key=lambda problem: (problem.line, problem.column))

    def error(self, mark: Mark, code: str, message: str) -> None:
        """Add an error at a mark of this file."""
        self.add(mark, "error", code, message)

    def add(self, mark: Mark, level: Level, code: str, message: str) -> None:
        """Add a problem at a mark of this file; no message leaves with a literal secret in it."""
        self._problems[Problem(self.file, mark.line, mark.column, level, code, visible(redact(message)))] = (
            None
        )

    def error_at(self, place: Place, code: str, message: str) -> None:
        """Add an error at a value's place, or at the command-line option that replaced it."""
        self._add_at(place, "error", code, message)

    def warn_at(self, place: Place, code: str, message: str) -> None:
        """Add a warning, as `error_at` does an error."""
        self._add_at(place, "warning", code, message)

    def error_at_key(self, place: Place, code: str, message: str) -> None:
        """Add an error at the key of a place."""
        self.error(self.keys.get(place) or self.mark(place), code, message)

    def warn_at_key(self, place: Place, code: str, message: str) -> None:
        """Add a warning at the key of a place."""
        self.add(self.keys.get(place) or self.mark(place), "warning", code, message)

    def _add_at(self, place: Place, level: Level, code: str, message: str) -> None:
        option = next(
            (option for start, option in self.overridden.items() if place[: len(start)] == start), None
        )
        if option is not None:
            self._problems[Problem(option, 1, 1, level, code, visible(redact(message)))] = None
        else:
            self.add(self.mark(place), level, code, message)

    def mark(self, place: Place) -> Mark:
        """The mark of a place, or of the nearest one around it that the file has."""
        for n in range(len(place), -1, -1):
            if place[:n] in self.marks:
                return self.marks[place[:n]]
        return Mark()

    def shown(self, place: Place, value: str) -> str:
        """`value` in quotes for a message; what came from the environment is shown as its source."""
        return quoted(self.sources.get(place, value))

    def said(self, place: Place, written: str) -> str:
        """As `shown`, of what needs no quotes: a number, a duration."""
        return quoted(self.sources[place]) if place in self.sources else written

    def usable(self, place: Place) -> bool:
        """Could the value at a place be read, or has the command line given it?"""
        around = any(place[:n] in self.broken for n in range(len(place)))
        return place not in self.broken and (place in self.overridden or not around)

    def hint(self, name: str, candidates: Collection[str]) -> str:
        """`config.suggestions.hint`, but no work for hints that nobody would come to read."""
        self._letters -= len(name) ** 2 * len(candidates)
        if len(self._problems) > _HINTED_PROBLEMS or self._letters < 0:
            return ""
        return hint(name, candidates)
