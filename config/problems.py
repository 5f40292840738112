"""What is wrong with a table, and where.

A problem is a value, not an exception: loading goes on and reports all of them at once. Nothing
here prints, and no message ever repeats a secret (see `config.secrets.redact`).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Level = Literal["error", "warning"]
"""With an error nothing is served; a warning is what an operator may not have meant."""


class Mark(Struct, frozen=True):
    """A place in a file; line and column count from 1."""

    line: int = 1
    column: int = 1


class Problem(Struct, frozen=True):
    """One finding: `FILE:LINE:COL: LEVEL: MESSAGE`; `code` is stable and kebab-case."""

    file: str
    line: int
    column: int
    level: Level
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.level}: {self.message}"


class Finding(Struct, frozen=True):
    """What a middleware's options say about themselves, before it has a place in a file.

    `field` names the option that it is about; None means the middleware as a whole. `message` holds no
    value. `precise` may, and stands in its place unless an option or the upstream is interpolated.
    """

    level: Level
    code: str
    message: str
    field: str | None = None
    precise: str | None = None


class Invalid(ValueError):
    """Raised by an options struct's `__post_init__`: the values do not fit each other.

    The message holds no value: it may have come from the environment. `field` names the option to
    point at, None the whole; `inside` leads on to a key or an index in it.
    """

    def __init__(self, message: str, field: str | None = None, *inside: str | int) -> None:
        super().__init__(message)
        self.field = field
        self.inside = inside
