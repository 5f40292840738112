"""A catalog of made-up middlewares, so that these tests stand on their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from config.catalog import Catalog, Entry, Scene
from config.problems import Finding, Invalid
from config.providers import key_fits
from config.secrets import KeySource, SecretError
from config.units import Duration, RateText, Size


class Plain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct of defaults only."""

    include_usage: bool = True


class Rewrite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Free-form text, and a field whose name in the file is another one."""

    strip: str | None = None
    map: dict[str, str] = field(default_factory=dict)
    pass_: bool = field(default=False, name="pass")

    def __post_init__(self) -> None:
        if self.pass_ and self.strip:
            raise Invalid("pass goes without strip", "pass_")


class Floor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A required number, a union of text and number, and values that must fit each other."""

    min: Annotated[int, Meta(ge=1)]
    when_absent: Literal["leave"] | Annotated[int, Meta(ge=1)] = "leave"
    cap: int | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < self.min:
            raise Invalid("cap is below min", "cap")


class Clocks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations and sizes."""

    connect: Duration = 10.0
    total: Duration | None = None
    hold: Size = 8 * 1024**2


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate, and whom it counts for."""

    requests: RateText | None = None
    per: Literal["client", "route", "address"] = "client"


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values of any type."""

    set: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


class Clients(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file."""

    file: str


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that judges itself in its place."""

    env: str | None = None
    file: str | None = None
    expect: str | None = None
    pass_: bool = field(default=False, name="pass")

    def review(self, scene: Scene) -> Iterable[Finding]:
        if self.pass_ and "client_keys" in scene.behind:
            yield Finding("error", "pass-behind-clients", "pass: true behind client_keys", "pass")
        if self.expect and (wrong := key_fits(self.expect, scene.host)):
            yield Finding("error", "key-host", "expect does not fit the host", "expect", wrong)
        if scene.secrets is not None and not self.pass_:
            try:
                scene.secrets.resolve(KeySource(env=self.env, file=self.file, expect=self.expect))
            except SecretError as error:
                yield Finding("warning", "secret", "there is no key", precise=str(error))


CATALOG = Catalog(
    entries={
        "usage": Entry(Plain),
        "rewrite": Entry(Rewrite),
        "floor": Entry(Floor),
        "timeout": Entry(Clocks, top_fields=frozenset({"total"})),
        "rate_limit": Entry(Limits, top_fields=frozenset(), repeatable=True),
        "params": Entry(Params, repeatable=True),
        "client_keys": Entry(Clients, top_fields=frozenset()),
        "key": Entry(Key | list[Key]),
    },
    planned=frozenset({"retry", "breaker"}),
)
