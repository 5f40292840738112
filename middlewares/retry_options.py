"""What a table says of `retry`; apart from it, so that a table is read without an HTTP library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.catalog import Scene
from config.problems import Finding
from config.units import Duration
from middlewares.waits import RETRY_AFTER_MAX_S

When = Literal["connect", "reset", "rate_limited", "server_error"]


class Backoff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds."""

    initial: Duration = 0.5
    max: Duration = 8.0


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`attempts` counts the first call; `retry_after_max` in seconds."""

    attempts: Annotated[int, Meta(ge=1)] = 3
    when: tuple[When, ...] = ("connect", "reset", "rate_limited", "server_error")
    backoff: Backoff = Backoff()
    retry_after_max: Duration = RETRY_AFTER_MAX_S

    def review(self, _scene: Scene) -> Iterator[Finding]:
        """Say when nothing is ever tried again."""
        if self.attempts == 1:
            message = (
                "attempts counts the first call, so 1 never tries again: write 2 or more, or leave retry out"
            )
            yield Finding("warning", "retry-without-effect", message, "attempts")
        elif not self.when:
            message = "when is empty, so nothing is tried again: name causes, or leave it out for all of them"
            yield Finding("warning", "retry-without-effect", message, "when")
