"""`client_keys`: only clients whose key is known, and for each only what it may use.

The middleware only declares; what it declares is asked before there is an exchange. A `Gate` says from a
request's credentials alone who the client is, before anything else about the request is looked at: every
stranger gets the same answer. `Allowance` is asked last, where the model is the one that the upstream sees.

Known, unknown and malformed keys run the same code: one SHA-256, one look-up by digest, one comparison in
constant time. The text of a key is never compared, and nothing here keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from hmac import compare_digest

from msgspec import Struct

from config.clients import Client
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import ClientFault

_NOBODY = Client(name="", digest=bytes(32), ends=0.0)
_STRANGER = (
    "A client key of this server is needed, and one alone: send it as Authorization: Bearer, or as x-api-key."
)


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`file` has the clients and the hashes of their keys; `tidegate keys` writes it."""

    file: str


class ClientKeys:
    """Says that there is a gate; a link in the chain only for the sake of its place in the list."""

    def __init__(self, options: Options, _deps: Deps) -> None:
        self.file = options.file

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Pass on."""
        return await call_next(exchange)


class Gate:
    """Knows the clients of one table.

    Keys expire by the wall clock, and by how long the gate stands: a clock that is set back lets no
    expired key in again, as long as the table is not loaded anew.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = {client.digest: client for client in clients}
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    @property
    def names(self) -> list[str]:
        """Who is known."""
        return [client.name for client in self._clients.values()]

    def find(self, presented: Sequence[str]) -> Client | None:
        """Whose key it is, of the keys that a request brings; several are one if they are the same."""
        first = presented[0] if presented else ""
        text = first if len(presented) < 2 or all(other == first for other in presented) else ""
        digest = sha256(text.encode("utf-8", "surrogateescape")).digest()
        client = self._clients.get(digest, _NOBODY)
        known = compare_digest(client.digest, digest)
        return client if known and (client.ends is None or self._now() < client.ends) else None

    def admit(self, presented: Sequence[str]) -> Client:
        """As `find`. Raises ClientFault `invalid_client_key`, the same for every stranger."""
        client = self.find(presented)
        if client is None:
            raise ClientFault("invalid_client_key", _STRANGER)
        return client

    def _now(self) -> float:
        return max(self._wall(), self._steady() + self._ahead)


class Allowance:
    """The innermost link of a route's chain: what goes up must be what the client may use."""

    def __init__(self, innermost: Handler) -> None:
        self._innermost = innermost

    async def __call__(self, exchange: Exchange) -> Reply:
        """Raises ClientFault `not_allowed`."""
        client = exchange.client
        if (
            client is not None
            and not exchange.by_name
            and not client.may_use(exchange.route, _model(exchange))
        ):
            raise ClientFault(
                "not_allowed",
                f"This client key is not allowed this model on the route {exchange.route!r}."
                if _model(exchange) is not None
                else f"This client key is not allowed all of the route {exchange.route!r}, "
                "and this request names no model.",
                param="model",
            )
        return await self._innermost(exchange)


def refuse_name(client: Client, name: str) -> None:
    """Raises ClientFault `not_allowed` unless the client may use the alias or the ladder `name`."""
    if not client.may_name(name):
        raise ClientFault("not_allowed", f"This client key is not allowed {name!r}.", param="model")


def _model(exchange: Exchange) -> str | None:
    """The model as the upstream sees it; None also for a body that nobody here can read."""
    try:
        return exchange.model
    except ClientFault:
        return None
