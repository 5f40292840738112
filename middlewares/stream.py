"""`stream`: when an answer's head is sent, and what keeps the client patient until then.

It only declares them. What is held back is held where the answer arrives (`middlewares.commit`), and
the comments are written where the client's connection is, so it does not matter where in the list
`stream` stands.
"""

from __future__ import annotations

from msgspec import Struct

from config.units import Duration, Size
from middlewares.exchange import Commit, CommitAt, Deps, Exchange, Handler, Reply


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`commit` is the moment of the first byte; `keepalive` in seconds; `hold` in bytes."""

    commit: CommitAt = "first_event"
    keepalive: Duration | None = None
    hold: Size = 8 * 1024**2


class Stream:
    """Carries the declaration; a link in the chain only for the sake of its place in the list."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self.commit = Commit(at=options.commit, hold=options.hold, keepalive=options.keepalive)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Pass on."""
        return await call_next(exchange)
