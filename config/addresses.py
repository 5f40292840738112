"""Listener addresses: `host:port`, `[::1]:8080`, `https://…`, `unix:/path?mode=0660&group=g`, `systemd`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Address(Struct, frozen=True, kw_only=True):
    """Where to listen. `path`, `mode` and `group` belong to `unix`, `host` and `port` to the others."""

    kind: Literal["tcp", "tls", "unix", "systemd"]
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int | None = None
    group: str | None = None


Listen = Annotated[
    Address,
    Meta(
        extra={"reads": "address"},
        extra_json_schema={
            "examples": ["127.0.0.1:8080", "[::1]:8080", "unix:/run/tidegate.sock?mode=0660"]
        },
    ),
]
