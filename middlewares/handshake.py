"""A WebSocket's opening request: it has no body, and its model stands in the query.

Only the value of `model=` may be replaced; the rest of the query goes up as it came. What could be
read in two ways, two models, is refused.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from middlewares.envelope import shown
from middlewares.faults import ClientFault

_SEPARATOR = re.compile(r"([&;])")
_PLAIN = "/:@,~"
"""Characters of models' names that may stand in a query as they are (RFC 3986, section 3.4)."""


class Handshake:
    """`model` is the name that the query asks for now, None if it names none; `query` has no `?`."""

    __slots__ = ("_parts", "_place", "changes", "model")

    def __init__(self, parts: list[str], place: int | None, model: str | None) -> None:
        self._parts = parts
        self._place = place
        self.model = model
        self.changes: dict[str, tuple[str, str]] = {}

    @classmethod
    def parse(cls, query: str) -> Handshake:
        """Find the model. Raises ClientFault `invalid_request` if two are named."""
        # Pairs at even places, the separators between them at odd ones.
        parts = _SEPARATOR.split(query)
        places = [i for i in range(0, len(parts), 2) if _name(parts[i]) == "model"]
        if len(places) > 1:
            raise ClientFault("invalid_request", "The query names two models.", param="model")
        if not places:
            return cls(parts, None, None)
        return cls(parts, places[0], unquote_plus(parts[places[0]].partition("=")[2]))

    @property
    def query(self) -> str:
        """The query to send."""
        return "".join(self._parts)

    @property
    def stream(self) -> bool:
        """It is no event stream."""
        return False

    def copy(self) -> Handshake:
        """One of the same query that can be changed without changing this one."""
        twin = Handshake(list(self._parts), self._place, self.model)
        twin.changes = dict(self.changes)
        return twin

    def rename(self, model: str) -> None:
        """Have it ask for another model; where none is named there is nothing to rename."""
        if self._place is None or self.model is None:
            return
        first = self.changes["model"][0] if "model" in self.changes else shown(self.model)
        self.changes["model"] = (first, shown(model))
        self.model = model
        name = self._parts[self._place].partition("=")[0]
        self._parts[self._place] = f"{name}={quote(model, safe=_PLAIN)}"


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])
