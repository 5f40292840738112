"""`key`: the credential that goes upstream, in place of whatever the client sent.

Each source is looked up where it says, in this order: environment, systemd credential, file. Several
sources are used in turn. A route whose key cannot be had answers 503 `key_missing`; it does not keep
the others from serving.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, get_args

from msgspec import Meta, Struct, field

from config.catalog import Scene
from config.field_names import objection
from config.problems import Finding, Invalid
from config.providers import key_fits
from config.secrets import KeySource, Secret, SecretError, SecretStore
from middlewares.exchange import Deps, Exchange, Handler, Reply
from middlewares.faults import Refusal
from middlewares.observation import Dialect

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MISFIT = "keys that begin so do not belong to this provider"


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: where it is, what it begins with (`expect`), which header carries it.

    `header: auto` is `x-api-key` on messages and `Authorization: Bearer` elsewhere. `pass: true`
    sends the client's own credential up instead.
    """

    env: str | None = None
    credential: str | None = None
    file: str | None = None
    header: str = "auto"
    expect: str | None = None
    pass_: bool = field(name="pass", default=False)

    def __post_init__(self) -> None:
        placed = self.env or self.credential or self.file
        if self.pass_ and (placed or self.expect):
            raise Invalid("pass: true sends the client's own key, so nothing else may be given", "pass")
        if not self.pass_ and not placed:
            raise Invalid("say where the key is: env, credential, file, or pass: true")
        # Without the name, since a key may have been put in its place.
        if self.env and not _VARIABLE.fullmatch(self.env):
            raise Invalid("env takes a variable's name, such as ACME_API_KEY", "env")
        if wrong := objection(self.header):
            raise Invalid(wrong, "header")

    @property
    def place(self) -> KeySource:
        """The part that the secret store understands."""
        return KeySource(env=self.env, credential=self.credential, file=self.file, expect=self.expect)

    def review(self, scene: Scene) -> Iterator[Finding]:
        """A key must fit its host; and, if keys may be looked at, be there."""
        if self.pass_:
            if "client_keys" in scene.behind:
                yield Finding(
                    "error",
                    "pass-behind-client-keys",
                    "pass: true behind client_keys would send a client's tidegate key to the provider",
                    "pass",
                )
            return
        if self.expect and (misfit := key_fits(self.expect, scene.host)):
            yield Finding("error", "key-host", f"expect: {_MISFIT}", "expect", f"expect: {misfit}")
            return
        if scene.secrets is None:
            return
        try:
            secret = scene.secrets.resolve(self.place)
        except SecretError as error:
            yield Finding("error", "key-missing", "there is no usable key", precise=str(error))
            return
        if misfit := key_fits(secret.reveal(), scene.host):
            yield Finding("error", "key-host", _MISFIT, precise=misfit)
        yield from self._doubts(scene.secrets)

    def _doubts(self, secrets: SecretStore) -> Iterator[Finding]:
        for option, place in secrets.unused(self.place):
            message = "holds another key than the place before it, which is the one that is used"
            yield Finding("warning", "key-shadowed", f"{option} {message}", option, f"{place} {message}")
        if changeable := secrets.changeable(self.place):
            message = "others than its owner can write this file"
            yield Finding("warning", "key-writable", message, "file", changeable)


Options = Source | Annotated[tuple[Source, ...], Meta(min_length=1)]


class Key:
    """Injects the key, the next one in turn for each attempt."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._sources = options if isinstance(options, tuple) else (options,)
        self._deps = deps
        self._carriers = {
            dialect: tuple({_header(source, dialect) for source in self._sources})
            for dialect in get_args(Dialect)
        }
        self._turn = 0

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Put the credential on, then pass on."""
        source, secret = self.next_key()
        self._take_off(exchange)
        if source.pass_:
            exchange.headers.extend(exchange.credentials)
        elif secret is not None:
            name = _header(source, exchange.dialect)
            bearer = name.lower() == "authorization"
            exchange.headers[name] = f"Bearer {secret.reveal()}" if bearer else secret.reveal()
        return await call_next(exchange)

    def _take_off(self, exchange: Exchange) -> None:
        """What an attempt before this one put on: it may have been another key in another header."""
        for name in (*self._carriers[exchange.dialect], *exchange.credentials):
            exchange.headers.popall(name, None)

    def available(self) -> bool:
        """Whether there is a key to send, without using up a turn."""
        turn = self._turn
        try:
            self.next_key()
        except Refusal:
            return False
        finally:
            self._turn = turn
        return True

    def next_key(self) -> tuple[Source, Secret | None]:
        """The next usable source and its key (None for `pass`); Refusal `key_missing` if none is."""
        first: str | None = None
        for _ in self._sources:
            source = self._sources[self._turn % len(self._sources)]
            self._turn += 1
            if source.pass_:
                return source, None
            try:
                secret = self._deps.secrets.resolve(source.place)
            except SecretError as error:
                first = first or str(error)
                continue
            if (misfit := key_fits(secret.reveal(), self._deps.host)) is None:
                return source, secret
            first = first or misfit
        raise Refusal(
            "key_missing",
            f"The route {self._deps.route!r} has no usable key: {(first or '').removeprefix('no key: ')}.",
        )


def _header(source: Source, dialect: Dialect) -> str:
    if source.header != "auto":
        return source.header
    return "x-api-key" if dialect == "messages" else "Authorization"
