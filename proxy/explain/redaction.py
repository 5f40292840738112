"""What an explanation does not show: keys, credentials, and what came from the environment.

A value that the environment gave stands there as the table writes it, `${NAME}`; a default of the table's
own is no secret. Keys are not even at hand: the dry run is given stand-ins for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, inspect

from config.interpolation import interpolate
from config.loader import Loaded
from config.providers import PROVIDERS, key_fits
from config.report import Place
from config.schema import MiddlewareUse
from config.secrets import REDACTED, KeySource, Secret, SecretError, SecretStore
from config.shapes import bare, marker_of
from config.stores import Store
from config.units import Rate, written_duration, written_rate, written_size

MISSING = "[missing]"
"""Where a key would stand that is not there."""

# The key of a WebSocket's handshake is a number that proves nothing (RFC 6455, section 1.3).
_SENSITIVE_HEADER = re.compile(
    r"auth|cookie|credential|(?<!^sec-websocket-)key|passw|secret|session|token", re.IGNORECASE
)
_SENSITIVE_OPTION = re.compile(r"authorization|cookie|key$|passw|secret|token$", re.IGNORECASE)
_SCHEME = re.compile(r"((?:basic|bearer)\s+)?.*", re.IGNORECASE | re.DOTALL)
_SHORTEST_PART = 4
"""A shorter text is hidden where it stands alone: as a part it may stand anywhere by chance."""
_PREFIXES = tuple(provider.prefix for provider in PROVIDERS if provider.prefix)


class StandIns(SecretStore):
    """Finds keys as the real store does, and hands out something else in their place.

    What it hands out begins as the key does, since that decides whether it fits its host. `excused` are
    the sources that have none for their host: they get one all the same, to see what would be sent.
    """

    def __init__(self, real: SecretStore, excused: Mapping[KeySource, str]) -> None:
        super().__init__({}, real.base)
        self._real = real
        self._excused = {source: prefix_for(host) + MISSING for source, host in excused.items()}

    def find(self, source: KeySource) -> tuple[str, Secret]:
        """The place, and what stands in for the key. Raises SecretError."""
        if source in self._excused:
            return "", Secret(self._excused[source])
        place, secret = self._real.find(source)
        return place, Secret(_prefix_of(secret.reveal()) + REDACTED)


def _prefix_of(key: str) -> str:
    return next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")


def prefix_for(host: str) -> str:
    """What a key for that host may begin with."""
    return next((prefix for prefix in ("", *_PREFIXES) if key_fits(prefix + MISSING, host) is None), "")


class Redactor:
    """Knows what a table has from the environment, and the keys that an explanation is about."""

    def __init__(self, loaded: Loaded, environ: Mapping[str, str]) -> None:
        self._sources = {place: text for place, text in loaded.sources.items() if _is_from(environ, text)}
        self._environ = environ
        self.written = loaded.marks.keys()
        """The places that the file has."""
        self._hidden: dict[str, str] = {}

    def hide(self, *starts: Place) -> None:
        """Look for what stands under these places wherever it may have got to."""
        for place, source in self._sources.items():
            if any(place[: len(start)] == start for start in starts):
                self._hidden.setdefault(interpolate(source, self._environ).text, source)

    def hide_keys(self, sources: Iterable[KeySource], secrets: SecretStore) -> None:
        """The same for keys, though nothing here is given one: a middleware may have found it by itself."""
        for source in sources:
            try:
                self._hidden[secrets.resolve(source).reveal()] = REDACTED
            except SecretError:
                continue

    def source(self, place: Place) -> str | None:
        """What the table says where the environment gave the value; None where it did not."""
        return self._sources.get(place)

    def text(self, text: str) -> str:
        """`text` without anything hidden."""
        if text and text in self._hidden:
            return self._hidden[text]
        longest_first = sorted(self._hidden, key=len, reverse=True)
        parts = "|".join(re.escape(hidden) for hidden in longest_first if len(hidden) >= _SHORTEST_PART)
        return re.sub(parts, lambda found: self._hidden[found[0]], text) if parts else text

    def header(self, name: str, value: str) -> str:
        """A header's value; of what may be a credential, its scheme alone."""
        for mark in (MISSING, REDACTED):
            if mark in value:
                return _masked(value, mark)
        return _masked(value, REDACTED) if _SENSITIVE_HEADER.search(name) else self.text(value)

    def options(self, use: MiddlewareUse, place: Place) -> Options:
        """The options of the middleware that stands at `place`."""
        wanted = inspect.type_info(type(use.options))
        full, brief = (_Tree(self, brief=brief).of(use.options, wanted, place) for brief in (False, True))
        return Options(full, brief)


def _is_from(environ: Mapping[str, str], source: str) -> bool:
    try:
        return interpolate(source, environ) != interpolate(source, {})
    except ValueError:
        return True


def _masked(value: str, mark: str) -> str:
    found = _SCHEME.fullmatch(value)
    return ((found[1] if found else None) or "") + mark


class Options(NamedTuple):
    """Options as a table writes them: all of them, and those that this table has."""

    full: Any
    brief: Any


class _Tree:
    """Options as plain values."""

    def __init__(self, redactor: Redactor, *, brief: bool) -> None:
        self._redactor = redactor
        self._brief = brief

    def of(self, value: Any, wanted: inspect.Type, place: Place) -> Any:
        if isinstance(value, str) and isinstance(place[-1], str) and _SENSITIVE_OPTION.search(place[-1]):
            return REDACTED
        if (source := self._redactor.source(place)) is not None:
            return source
        if (shown := _NOTATIONS.get(type(value))) is not None:
            return shown(value)
        match value:
            case Struct():
                return dict(self._fields(value, place))
            case dict():
                inner = _inside(wanted)
                return {str(name): self.of(one, inner, (*place, str(name))) for name, one in value.items()}
            case list() | tuple():
                inner = _inside(wanted)
                return [self.of(one, inner, (*place, i)) for i, one in enumerate(value)]
            case _:
                return _written(value, wanted)

    def _fields(self, value: Struct, place: Place) -> Iterator[tuple[str, Any]]:
        described = inspect.type_info(type(value))
        assert isinstance(described, inspect.StructType)
        for field in described.fields:
            inner = (*place, field.encode_name)
            if not self._brief or inner in self._redactor.written:
                yield field.encode_name, self.of(getattr(value, field.name), field.type, inner)


_NOTATIONS: dict[type, Callable[[Any], str]] = {Rate: written_rate, Store: lambda store: store.written}
"""Structs that a table writes as one text."""


def _inside(wanted: inspect.Type) -> inspect.Type:
    """The type of what a map or a list holds."""
    for member in _members(wanted):
        match bare(member):
            case inspect.DictType(value_type=inner):
                return inner
            case (
                inspect.VarTupleType(item_type=inner)
                | inspect.ListType(item_type=inner)
                | inspect.SetType(item_type=inner)
                | inspect.FrozenSetType(item_type=inner)
            ):
                return inner
            case _:
                continue
    return inspect.AnyType()


def _members(wanted: inspect.Type) -> tuple[inspect.Type, ...]:
    inner = bare(wanted)
    return inner.types if isinstance(inner, inspect.UnionType) else (wanted,)


def _written(value: Any, wanted: inspect.Type) -> Any:
    """A value as the table has it. What no table could hold is not shown."""
    markers = {marker_of(member) for member in _members(wanted)}
    if isinstance(value, float) and "duration" in markers:
        return written_duration(value)
    if isinstance(value, int) and "size" in markers:
        return written_size(value)
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
