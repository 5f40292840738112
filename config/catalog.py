"""What the loader has to know of the middlewares, which live a room further up.

The loader never imports a middleware: the composition root hands it a `Catalog`, and each
middleware's options type describes itself (a msgspec struct, or a union of one and a list of it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from config.problems import Finding
from config.secrets import SecretStore


class Scene(Struct, frozen=True):
    """Where a middleware stands: what its options are judged against.

    `route` and `host` are empty at the top level, `host` also for the embedded demo.
    `behind` names what stands before it for the same request, the top level's included.
    `secrets` is None when keys are not to be looked at.
    """

    route: str
    host: str
    behind: tuple[str, ...]
    secrets: SecretStore | None = None


@runtime_checkable
class Reviewed(Protocol):
    """Options that can judge themselves in their place."""

    def review(self, scene: Scene) -> Iterable[Finding]: ...


class Entry(Struct, frozen=True):
    """One middleware as the loader sees it.

    `options` is the type that its options are read as. `top_fields`: at the top level only these
    options may be set (None: it may not stand there; empty: all of them).
    """

    options: Any
    top_fields: frozenset[str] | None = None
    repeatable: bool = False
    summary: str = ""


class Catalog(Struct, frozen=True):
    """`entries` exist; `planned` are in the contract and not in this version."""

    entries: Mapping[str, Entry]
    planned: frozenset[str] = frozenset()
