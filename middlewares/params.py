"""`params`: edits of a JSON body's top-level fields, for providers that refuse what others take.

In this order: `drop`, `rename`, `default` (only where the field is absent), `set`. Every other field keeps
its exact bytes and its place.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from config.problems import Invalid
from middlewares.exchange import Deps, Exchange, Handler, Reply


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`default` and `set` take any value that JSON has."""

    drop: tuple[str, ...] = ()
    rename: dict[str, str] = field(default_factory=dict)
    default: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.drop or self.rename or self.default or self.set):
            raise Invalid("params does nothing: give it a 'drop', a 'rename', a 'default' or a 'set'")
        twice = {name for name in self.drop if name in self.rename}
        if twice:
            raise Invalid("a field is both dropped and renamed: choose one", "rename")


class Params:
    """Edits that were read once, applied to each JSON body; other bodies pass as they are."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self._options = options

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Edit, then pass on."""
        options = self._options
        if (fields := exchange.fields) is not None:
            for name in options.drop:
                fields.drop(name)
            for old, new in options.rename.items():
                fields.rename(old, new)
            for name, value in options.default.items():
                if name not in fields:
                    fields.set(name, value)
            for name, value in options.set.items():
                fields.set(name, value)
        return await call_next(exchange)
