"""The table's JSON Schema (draft 2020-12), for editors: from the same structs that loading uses.

Not msgspec's own schema, since that describes decoded values: here a duration is text with a unit,
a chain is a list of names and options, and every number may be a `${NAME}`.
"""

from __future__ import annotations

import inspect as python
from collections.abc import Iterable
from typing import Any

from msgspec import NODEFAULT, inspect

from config import descriptions, examples
from config.catalog import Catalog, Entry, Unusable
from config.names import RESERVED, ROUTE_NAME
from config.schema import Table
from config.shapes import LISTS, bare, marker_of
from config.stores import Store
from config.units import written_duration, written_size

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_THIRD_PARTY = r"^[A-Za-z_][\w.]*:\w+$"
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_TARGETS = {
    "description": "ROUTE/MODEL (an alias), or a list of them (a ladder, tried in order).",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
_ROUTE_NAMES = {"pattern": f"^{ROUTE_NAME.pattern}$", "not": {"enum": sorted(RESERVED)}}
_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

Schema = dict[str, Any]


def schema(catalog: Catalog) -> Schema:
    """The JSON Schema of a table with these middlewares."""
    writer = _Writer()
    entries = _with_registered(catalog)
    for name, entry in entries.items():
        writer.name(name, entry)
    table = writer.type(inspect.type_info(Table))
    fields = writer.definitions["Table"]["properties"]
    fields["routes"]["minProperties"] = 1
    fields["routes"]["propertyNames"] = _ROUTE_NAMES
    # An empty list of listeners is an error, and no text of its own.
    listen = writer.definitions["Server"]["properties"]["listen"]
    listen.update({**listen.pop("anyOf")[0], "minItems": 1})
    # The top level's own chain admits fewer middlewares, and fewer options of some.
    writer.definitions["Table"]["properties"]["middlewares"]["anyOf"][0]["$ref"] = "#/$defs/top_chain"
    writer.definitions["Table"]["patternProperties"] = {"^x-": {}}
    top = {name: entry for name, entry in entries.items() if entry.top_fields is not None}
    within = {name: entry for name, entry in entries.items() if not entry.top_only}
    writer.chain("chain", "middleware", {name: (entry, None) for name, entry in within.items()})
    writer.chain(
        "top_chain", "top_middleware", {name: (entry, entry.top_fields) for name, entry in top.items()}
    )
    return {"$schema": DIALECT, "title": "tidegate route table", **table, "$defs": writer.definitions}


def _with_registered(catalog: Catalog) -> dict[str, Entry]:
    """The entries, and those of installed third parties that can be used; of the others `check` speaks."""
    entries = dict(catalog.entries)
    for name in catalog.registered():
        try:
            found = catalog.find(name)
        except Unusable:
            continue
        if found is not None:
            entries[name] = found
    return entries


class _Writer:
    """Collects one definition for each struct."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[type, str] = {}
        self._middlewares: dict[type, str] = {}

    def type(self, wanted: inspect.Type) -> Schema:
        """The schema of one field's type."""
        marker = marker_of(wanted)
        extra = wanted.extra_json_schema or {} if isinstance(wanted, inspect.Metadata) else {}
        if marker == "chain":
            return {"$ref": "#/$defs/chain"}
        if marker == "targets":
            return _TARGETS
        if marker is not None:
            return {"type": "string", **extra}
        return {**self._plain(bare(wanted)), **extra}

    def _plain(self, wanted: inspect.Type) -> Schema:
        match wanted:
            case inspect.StructType():
                return {"$ref": f"#/$defs/{self._struct(wanted)}"}
            case inspect.UnionType(types=types):
                return {"anyOf": _distinct(self.type(member) for member in types)}
            case inspect.DictType(value_type=value_type):
                return {"type": "object", "additionalProperties": self.type(value_type)}
            case inspect.LiteralType(values=values):
                return {"anyOf": [{"enum": list(values)}, _VARIABLE]}
            case inspect.IntType():
                return {"anyOf": [{"type": "integer", **_bounds(wanted)}, _VARIABLE]}
            case inspect.FloatType():
                return {"anyOf": [{"type": "number", **_bounds(wanted)}, _VARIABLE]}
            case inspect.BoolType():
                return {"anyOf": [{"type": "boolean"}, _VARIABLE]}
            case inspect.StrType():
                return {"type": "string"}
            case inspect.NoneType():
                return {"type": "null"}
            case inspect.AnyType():
                return {}
            case _ if isinstance(wanted, LISTS):
                items: Any = wanted
                least = {"minItems": items.min_length} if items.min_length else {}
                return {"type": "array", "items": self.type(items.item_type), **least}
            case _:
                raise TypeError(f"no option can have the type {wanted}")

    def name(self, middleware: str, entry: Entry) -> None:
        """Call the definition of a middleware's options what the middleware is called."""
        struct = _struct_of(entry)
        if struct is not None:
            self._middlewares[struct.cls] = middleware

    def _struct(self, wanted: inspect.StructType) -> str:
        """The name of the struct's definition, which is made when it is new."""
        if wanted.cls not in self._names:
            name = self._middlewares.get(wanted.cls, wanted.cls.__name__)
            if name in self.definitions:
                # Several middlewares may call their options the same.
                name = f"{wanted.cls.__module__}.{name}"
            self._names[wanted.cls] = name
            self.definitions[name] = {}
            self.definitions[name].update(self.object(wanted))
        return self._names[wanted.cls]

    def object(self, wanted: inspect.StructType, only: frozenset[str] | None = None) -> Schema:
        """A struct as an object; with `only`, of those fields alone."""
        fields = [field for field in wanted.fields if not only or field.encode_name in only]
        return {
            "type": "object",
            **_described(wanted.cls),
            "properties": {
                field.encode_name: {**self._field(field), **self._said(wanted.cls, field)} for field in fields
            },
            "required": [field.encode_name for field in fields if field.required],
            "additionalProperties": False,
        }

    def _said(self, cls: Any, field: inspect.Field) -> Schema:
        struct, name = self._middlewares.get(cls, cls.__name__), field.encode_name
        description, shown = (
            descriptions.TABLE.get(struct, {}).get(name),
            examples.TABLE.get(struct, {}).get(name),
        )
        return _without_none(description=description, examples=shown)

    def _field(self, field: inspect.Field) -> Schema:
        written = self.type(field.type)
        if not field.required and marker_of(field.type) in {None, "chain"} and _may_be_empty(field.type):
            # Nothing after the key reads as an empty one.
            written = {"anyOf": [written, {"type": "null"}]}
        default = _written(field.default, field.type)
        return written if default is None else {**written, "default": default}

    def chain(self, name: str, item: str, entries: dict[str, tuple[Entry, frozenset[str] | None]]) -> None:
        """Define a list of these middlewares."""
        options = {key: self._options(key, entry, only) for key, (entry, only) in entries.items()}
        bare_names = [key for key, (entry, _) in entries.items() if _has_defaults(entry)]
        single: Schema = {
            "type": "object",
            "properties": options,
            "patternProperties": {_THIRD_PARTY: {"type": ["object", "null"]}},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
        bare = [{"enum": bare_names}] if bare_names else []
        others = {"type": "string", "pattern": _THIRD_PARTY}
        self.definitions[item] = {"oneOf": [*bare, others, single, {"$ref": f"#/$defs/{name}"}]}
        self.definitions[name] = {"type": "array", "items": {"$ref": f"#/$defs/{item}"}}

    def _options(self, name: str, entry: Entry, only: frozenset[str] | None) -> Schema:
        wanted = inspect.type_info(entry.options)
        struct = _struct_of(entry)
        written = self.object(struct, only) if only and struct is not None else self.type(wanted)
        summary = _without_none(description=entry.summary or None, examples=examples.MIDDLEWARES.get(name))
        if _has_defaults(entry):
            return {**summary, "anyOf": [written, {"type": "null"}]}
        return {**written, **summary}


def _without_none(**keywords: Any) -> Schema:
    return {keyword: value for keyword, value in keywords.items() if value is not None}


def _struct_of(entry: Entry) -> inspect.StructType | None:
    wanted = inspect.type_info(entry.options)
    members = wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,)
    return next((member for member in members if isinstance(member, inspect.StructType)), None)


def _has_defaults(entry: Entry) -> bool:
    """Does the bare name stand for defaults? Only the options themselves know whether they fit."""
    struct = _struct_of(entry)
    if struct is None or any(field.required for field in struct.fields):
        return False
    try:
        struct.cls()
    except ValueError:
        return False
    return True


def _may_be_empty(wanted: inspect.Type) -> bool:
    inner = bare(wanted)
    if isinstance(inner, inspect.StructType):
        return marker_of(wanted) == "chain" or not any(field.required for field in inner.fields)
    return isinstance(inner, (*LISTS, inspect.DictType))


def _written(default: Any, wanted: inspect.Type) -> Any:
    """A default as it is written in the file; None when it is not shown."""
    match _markers_of(wanted):
        case ["duration"] if isinstance(default, float | int):
            return written_duration(default)
        case ["size"] if isinstance(default, int):
            return written_size(default)
        case ["store"] if isinstance(default, Store):
            return default.written
        case []:
            return default if isinstance(default, bool | int | str) and default is not NODEFAULT else None
        case _:
            return None


def _markers_of(wanted: inspect.Type) -> list[str]:
    members = wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,)
    return [marker for member in members if (marker := marker_of(member)) is not None]


def _bounds(wanted: inspect.IntType | inspect.FloatType) -> Schema:
    found = {keyword: getattr(wanted, name) for name, keyword in _KEYWORDS.items()}
    return {keyword: bound for keyword, bound in found.items() if bound is not None}


def _distinct(schemas: Iterable[Schema]) -> list[Schema]:
    """The members of a union, nested unions opened and repeated members left out."""
    members: list[Schema] = []
    for written in schemas:
        for member in written["anyOf"] if set(written) == {"anyOf"} else [written]:
            if member not in members:
                members.append(member)
    return members


def _described(cls: type) -> Schema:
    text = python.cleandoc(cls.__doc__ or "")
    return {"description": text} if text else {}
