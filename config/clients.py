"""Who may ask: one client of the clients file, and what it may use.

The list of models and the refusal of a request ask the same two questions here, so that they cannot
differ. An entry of `allow` is a name or a glob: of an alias or a ladder, of a whole route, or ROUTE/MODEL.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from config.globs import LONGEST, matches
from config.units import RateText

EVERYTHING = ("*",)
"""What a client may use where the file says nothing."""


class ClientLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may use up: requests and tokens in a time, exchanges at one time."""

    requests: RateText | None = None
    tokens: RateText | None = None
    concurrent: Annotated[int, Meta(ge=1)] | None = None


class Client(Struct, frozen=True, kw_only=True):
    """One who may ask. `digest` is the SHA-256 of the key; `ends` in Unix seconds, None for never."""

    name: str
    digest: bytes
    allow: tuple[str, ...] = EVERYTHING
    limits: ClientLimits = ClientLimits()
    ends: float | None = None

    def may_name(self, name: str) -> bool:
        """Whether it may use an alias or a ladder, or all of a route, by its name."""
        return any(entry == name or matches(entry, name) for entry in self.allow)

    def may_use(self, route: str, model: str | None) -> bool:
        """Whether it may use a model, as the upstream sees it; None where a request has none."""
        if self.may_name(route):
            return True
        if model is None or len(model) > LONGEST:
            return False
        return self.may_name(f"{route}/{model}")
