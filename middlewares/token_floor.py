"""`token_floor`: a reasoning model's hidden reasoning counts against `max_tokens`.

A ceiling that is too low gives an empty answer, billed in full; this raises it, and can cap it. A
value that the API itself would refuse (null, a fraction, nothing above zero) is left for it to refuse.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.problems import Invalid
from middlewares.exchange import Deps, Exchange, Handler, Reply

_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_OWN_FIELD = {
    "/chat/completions": "max_tokens",
    "/completions": "max_tokens",
    "/messages": "max_tokens",
    "/responses": "max_output_tokens",
}
Positive = Annotated[int, Meta(ge=1)]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens. `when_absent` is what to send for a request that names no ceiling."""

    min: Positive | None = None
    when_absent: Positive | Literal["leave"] = "leave"
    cap: Positive | None = None

    def __post_init__(self) -> None:
        low, high, absent = self.min, self.cap, self.when_absent
        if low is None and high is None and absent == "leave":
            raise Invalid("token_floor does nothing: give it a 'min', a 'cap' or a 'when_absent'")
        if low is not None and high is not None and high < low:
            raise Invalid("cap is below min: no value could satisfy both", "cap")
        if isinstance(absent, int) and not (low or 1) <= absent <= (high or absent):
            raise Invalid("when_absent lies outside of min and cap", "when_absent")


class TokenFloor:
    """Edits the ceiling fields of chat, completions, messages and responses, and of nothing else."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self._min = options.min
        self._cap = options.cap
        self._when_absent = options.when_absent

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Raise, lower or add, then pass on."""
        own_field = _OWN_FIELD.get(exchange.inbound.path)
        fields = exchange.fields if own_field is not None else None
        if fields is not None and own_field is not None:
            present = [name for name in _FIELDS if name in fields]
            for name in present:
                asked = fields.value(name)
                granted = self.clamp(asked) if type(asked) is int else asked
                if granted != asked:
                    fields.set(name, granted)
            if not present and self._when_absent != "leave":
                fields.set(own_field, self._when_absent)
        return await call_next(exchange)

    def clamp(self, asked: int) -> int:
        """`asked` within the limits; zero and below stay."""
        if asked <= 0:
            return asked
        if self._min is not None and asked < self._min:
            return self._min
        if self._cap is not None and asked > self._cap:
            return self._cap
        return asked
