"""`prefix_rewrite`: the model name that the upstream sees."""

from __future__ import annotations

from msgspec import Struct, field

from middlewares.exchange import Deps, Exchange, Handler, Reply


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`strip` comes off the front of the name; what is left is looked up in `map`, or gets `add`.

    `strip` defaults to the route's name and a slash.
    """

    strip: str | None = None
    add: str = ""
    map: dict[str, str] = field(default_factory=dict)


class PrefixRewrite:
    """Renames the model; a request without one passes as it is."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._strip = f"{deps.route}/" if options.strip is None else options.strip
        self._add = options.add
        self._map = options.map

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Rewrite, then pass on."""
        if (model := exchange.model) is not None:
            name = self.rewrite(model)
            if name != model:
                exchange.rename_model(name)
        return await call_next(exchange)

    def rewrite(self, model: str) -> str:
        """The upstream's name for `model`. A mapped name is final: `add` is for the others."""
        bare = model.removeprefix(self._strip)
        mapped = self._map.get(bare)
        return self._add + bare if mapped is None else mapped
