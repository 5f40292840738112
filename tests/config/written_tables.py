"""Random tables as they are written, most of them valid; made from the structs and their options alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

from config.catalog import Catalog
from config.schema import Route, Table
from config.shapes import LISTS, bare, marker_of

ENVIRON = {"N": "7", "D": "5s", "B": "true", "T": "text", "U": "https://u.example/v1"}

_NOTATIONS: dict[str, st.SearchStrategy[Any]] = {
    "duration": st.sampled_from(["1ms", "1.5s", "10s", "15m", "1h", "${D}", "${N}s", "${NONE:-10}s"]),
    "size": st.sampled_from(["1B", "64KiB", "64MiB", "2GiB", "${N}MiB"]),
    "rate": st.sampled_from(["5/s", "60/min", "1000/h", "200000/d", "${N}/s"]),
    "store": st.sampled_from(["memory", "redis://a.example/1", "rediss://[::1]:6380", "${NONE:-memory}"]),
    "address": st.sampled_from(
        ["127.0.0.1:0", "[::1]:8080", "unix:/run/a.sock?mode=0660", "${NONE:-a.example:1}"]
    ),
}
_TEXTS = st.sampled_from(
    ["demo", "https://a.example/v1", "A", "x-y", "a b", "${T}", "${NONE:-}", "$${x}", "*", "pass"]
)
_NAMES = ("a", "b-1", "c.d")
_ROUTES = st.sampled_from(_NAMES)
_TARGETS = st.sampled_from(["a/x", "b-1/y/z", "c.d/x:1"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)


def tables(catalog: Catalog) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with these middlewares; JSON, which is YAML."""
    return _Writer(catalog).table()


# What most random values would make no sense without, or of.
_LEAST: dict[str, dict[str, Any]] = {
    "key": {"env": "A", "pass": False, "header": "auto"},
    "token_floor": {"min": 1500, "cap": 1500, "when_absent": "leave"},
    "params": {"drop": ["a"], "rename": {"b": "c"}},
    "headers": {"set": {"X-A": "b"}, "default": None, "remove": ["X-B"], "response": {"remove": ["X-C"]}},
}
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "version": st.sampled_from([1, "${NONE:-1}"]),
    "default_route": st.none() | _ROUTES,
    "listen": st.lists(_NOTATIONS["address"], min_size=1, max_size=2, unique=True),
    "trusted_proxies": st.lists(st.sampled_from(["10.0.0.0/8", "unix", "::1"]), max_size=2),
    "serves": st.lists(st.sampled_from(["gpt-4o", "gpt-*", "${T}"]), max_size=2),
    "workers": st.sampled_from([1, "${NONE:-1}"]),
    "upstream": st.sampled_from(["demo", "https://a.example/v1", "${U}", "http://10.0.0.1:9/"]),
    "proxy": st.sampled_from([None, "http://p:1", "${NONE:-}"]),
    "explicit_only": st.sampled_from([False, "${NONE:-false}"]),
    "models": st.none()
    | st.dictionaries(
        st.sampled_from(["m", "n/o", "gpt-4o"]),
        _TARGETS | st.lists(_TARGETS, min_size=1, max_size=2),
        max_size=2,
    ),
}


class _Writer:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def table(self) -> st.SearchStrategy[dict[str, Any]]:
        route = self.type(inspect.type_info(Route))
        routes = st.fixed_dictionaries(dict.fromkeys(_NAMES, route))
        table = self._struct(_struct(Table), {"routes": routes, "middlewares": self.chain(top=True)})
        return st.builds(lambda made, note: {**made, **note}, table, st.sampled_from([{}, {"x-note": [1]}]))

    def chain(self, *, top: bool = False) -> st.SearchStrategy[Any]:
        items: list[st.SearchStrategy[Any]] = []
        for name, entry in self._catalog.entries.items():
            if top and entry.top_fields is None:
                continue
            options = self.type(inspect.type_info(entry.options), entry.top_fields if top else None)
            options = options.map(functools.partial(_sensible, name))
            bare_too = st.just(name) if name not in _LEAST else st.nothing()
            items.append(bare_too | st.fixed_dictionaries({name: options}))
        return (
            st.lists(st.sampled_from(items), min_size=1, max_size=4, unique=True).flatmap(_one_of_each)
            | st.none()
        )

    def _struct(
        self, struct: inspect.StructType, known: Mapping[str, st.SearchStrategy[Any]], only: Any = None
    ) -> st.SearchStrategy[dict[str, Any]]:
        chosen = [field for field in struct.fields if not only or field.encode_name in only]
        given = {**_FIELDS, **known}
        written = {
            name: given[name] if name in given else self.type(field.type)
            for field in chosen
            for name in (field.encode_name,)
        }
        required = {field.encode_name: written.pop(field.encode_name) for field in chosen if field.required}
        return st.fixed_dictionaries(required, optional=written)

    def type(self, wanted: inspect.Type, only: frozenset[str] | None = None) -> st.SearchStrategy[Any]:
        marker = marker_of(wanted)
        if marker == "chain":
            return self.chain()
        if marker == "targets":
            return _TARGETS | st.lists(_TARGETS, min_size=1, max_size=2)
        if marker is not None:
            return _NOTATIONS[marker]
        match bare(wanted):
            case inspect.StructType() as struct:
                return self._struct(struct, {}, only)
            case inspect.UnionType(types=types):
                return st.one_of([self.type(member) for member in types])
            case inspect.DictType(value_type=value_type):
                return st.none() | st.dictionaries(_TEXTS, self.type(value_type), max_size=2)
            case inspect.LiteralType(values=values):
                return st.sampled_from(values)
            case inspect.IntType():
                return st.sampled_from([1, 2, 1500, "${N}"])
            case inspect.BoolType():
                return st.booleans() | st.just("${B}")
            case inspect.StrType():
                return _TEXTS
            case inspect.NoneType():
                return st.none()
            case inspect.AnyType():
                return _JSON
            case inner if isinstance(inner, LISTS):
                items: Any = inner
                return st.none() | st.lists(self.type(items.item_type), max_size=2)
            case other:
                raise TypeError(f"nothing is written for {other}")


def _one_of_each(items: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """The items, each drawn; some of them in a list of their own, which is spliced."""
    return st.tuples(*(item | item.map(lambda one: [one]) for item in items)).map(list)


def _sensible(name: str, options: Any) -> Any:
    least = _LEAST.get(name)
    if least is None:
        return options
    if isinstance(options, list):
        return [_sensible(name, one) for one in options] or [least]
    return {**least, **{key: value for key, value in (options or {}).items() if key not in least}}


def _struct(cls: type) -> inspect.StructType:
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    return found
