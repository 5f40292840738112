"""`timeout`: the limits of a route's five clocks.

It only declares them. The clocks are run where time passes (`middlewares.clocks`), from the moment
a request enters the chain, so it does not matter where in the list `timeout` stands.
"""

from __future__ import annotations

from msgspec import Struct

from config.units import Duration
from middlewares.clocks import Clocks
from middlewares.exchange import Deps, Exchange, Handler, Reply


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each may last.

    `connect`: until the connection stands. `first_byte`: from the request's last byte to the answer's
    head. `first_token`: from the same moment to a stream's first content. `idle`: between two bytes.
    `total`: everything, from entering the route to the last byte.
    """

    connect: Duration | None = 10.0
    first_byte: Duration | None = None
    first_token: Duration | None = None
    idle: Duration | None = None
    total: Duration | None = None


class Timeout:
    """Carries the limits; a link in the chain only for the sake of its place in the list."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self.clocks = Clocks(
            connect=options.connect,
            first_byte=options.first_byte,
            first_token=options.first_token,
            idle=options.idle,
            total=options.total,
        )

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Pass on."""
        return await call_next(exchange)
