"""The route table as frozen structs: the one description that loading and JSON Schema share.

Field types carry their notation in `Meta(extra={"reads": …})`; `config.decoding` knows how each
notation is read. What has no meaning on its own (names, globs, targets) is judged by `config.lint`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from config.addresses import Address, Listen
from config.problems import Invalid, Mark
from config.units import Duration, Size


class MiddlewareUse(Struct, frozen=True):
    """One item of a `middlewares` list, its options read as the type that its catalog entry names."""

    name: str
    options: Any
    mark: Mark


Chain = Annotated[tuple[MiddlewareUse, ...], Meta(extra={"reads": "chain"})]
"""Items are a bare name, `{name: options}`, or a list of items, which is spliced in place."""

Targets = Annotated[tuple[str, ...], Meta(extra={"reads": "targets"})]
"""One ROUTE/MODEL (an alias), or a list of them (a ladder)."""


class ClientTimeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Slow or silent clients."""

    header: Duration = 15.0
    body_idle: Duration = 30.0
    keepalive: Duration = 75.0


class ListenerTls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates for `https://` listeners."""

    cert: str
    key: str
    client_ca: str | None = None


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listeners and the limits that every client meets."""

    listen: tuple[Listen, ...] = (Address(kind="tcp", host="127.0.0.1", port=8080),)
    admin: Listen | None = Address(kind="tcp", host="127.0.0.1", port=8081)
    workers: Annotated[int, Meta(ge=1)] | Literal["auto"] = 1
    max_body: Size = 64 * 1024**2
    max_upload: Size = 2 * 1024**3
    max_connections: Annotated[int, Meta(ge=1)] = 10_000
    timeouts: ClientTimeouts = ClientTimeouts()
    drain_delay: Duration = 0.0
    drain_timeout: Duration = 900.0
    trusted_proxies: tuple[str, ...] = ()
    tls: ListenerTls | None = None


class UpstreamTls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a route's upstream is verified."""

    ca: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        """Raise what makes no sense together."""
        if self.ca is not None and not self.verify:
            raise Invalid(
                "ca says whom to trust, and verify: false to trust everybody: leave out one", "verify"
            )


class Route(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider. `list` is None when the file is silent: then `ask`, or nothing when explicit."""

    upstream: str
    middlewares: Chain = ()
    explicit_only: bool = False
    serves: tuple[str, ...] = ()
    list: tuple[str, ...] | Literal["ask"] | None = None
    proxy: str | None = None
    tls: UpstreamTls | None = None


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    version: Literal[1]
    server: Server = Server()
    middlewares: Chain = ()
    routes: dict[str, Route]
    models: dict[str, Targets] = field(default_factory=dict)
    default_route: str | None = None
