"""What the loader has to know of the middlewares, which live a room further up.

The loader never imports a middleware: the composition root hands it a `Catalog`, and each
middleware's options type describes itself (a msgspec struct, or a union of one and a list of it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from config.problems import Finding
from config.secrets import SecretStore
from config.wording import quoted


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
    options may be set (None: it may not stand there; empty: all of them). `top_only`: it may stand
    nowhere else.
    """

    options: Any
    top_fields: frozenset[str] | None = None
    repeatable: bool = False
    summary: str = ""
    top_only: bool = False


class Unusable(Exception):
    """A third-party middleware that cannot be found, read or made; the message says which, and why."""


@contextmanager
def foreign(name: str) -> Iterator[None]:
    """Around code that is not ours: whatever it raises becomes `Unusable`."""
    try:
        yield
    except Unusable:
        raise
    except (Exception, SystemExit) as error:
        # Nobody can know what somebody else's module raises, and a table that names it must not end us.
        raise Unusable(f"middleware {quoted(name)}: {type(error).__name__}: {error}") from error


def _nobody(_name: str) -> Entry | None:
    return None


def _none() -> tuple[str, ...]:
    return ()


class Catalog(Struct, frozen=True):
    """`entries` exist; `planned` are in the contract and not in this version.

    `third_party` finds what others have made, by name, and raises `Unusable`; `registered` are the
    names of those that are installed.
    """

    entries: Mapping[str, Entry]
    planned: frozenset[str] = frozenset()
    third_party: Callable[[str], Entry | None] = _nobody
    registered: Callable[[], tuple[str, ...]] = _none

    def find(self, name: str) -> Entry | None:
        """The middleware of that name, None if there is none. Raises `Unusable`."""
        return self.entries[name] if name in self.entries else self.third_party(name)
