"""Nodes to values, driven by the structs' own types and their `reads` markers.

Every problem at once: what cannot be read becomes `UNSET`, its place is noted as broken, and its
neighbours are read all the same. The structs of the table itself are built even when a field is
broken, so that the rules of `config.lint` can still judge the rest. Chains are read by
`config.chains`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET, inspect

from config import chains, scalars, slips
from config.catalog import Catalog
from config.document import LITERAL, Node, Scalar, Sequence
from config.document import Mapping as MappingNode
from config.interpolation import interpolate
from config.problems import Invalid, Mark
from config.report import Place, Report
from config.scalars import Words
from config.schema import Route, Server, Table
from config.secrets import find_literal_secret
from config.shapes import LISTS, SCALARS, bare, described, eagerness, marker_of, names_of, read_as, takes
from config.wording import quoted

_PARTIAL = (Table, Server, Route)
_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("ge", lambda value, bound: value >= bound, "at least"),
    ("gt", lambda value, bound: value > bound, "more than"),
    ("le", lambda value, bound: value <= bound, "at most"),
    ("lt", lambda value, bound: value < bound, "less than"),
)


class Reader:
    """Reads one document into values; what it finds goes into the report."""

    def __init__(self, report: Report, catalog: Catalog, environ: Mapping[str, str]) -> None:
        self.report = report
        self.catalog = catalog
        self._environ = environ

    def read(self, node: Node, wanted: inspect.Type, place: Place) -> Any:
        """The value of `node` as `wanted`, or UNSET with at least one problem reported."""
        self._locate(node, place)
        value = self._dispatch(node, wanted, place)
        if value is UNSET:
            self.report.broken.add(place)
        return value

    def wrong(self, node: Node, expected: str, place: Place, kind: str | None = None) -> Any:
        """Report that `expected` should stand at `place`; UNSET. `kind` of items: a list of them is due."""
        if isinstance(node, Scalar) and find_literal_secret(node.text):
            return UNSET
        advice = ""
        if (
            kind is not None
            and isinstance(node, Scalar)
            and not chains.is_empty(node)
            and "${" not in node.text
        ):
            advice = slips.bracketed(node.text, kind)
        return self.fail(place, "type", f"expected {expected}, found {self._named(node)}{advice}")

    def fail(self, place: Place, code: str, message: str) -> Any:
        """Report a problem at `place`; UNSET."""
        self.report.error_at(place, code, message)
        return UNSET

    def words(self, node: Scalar, place: Place) -> Words | None:
        """The scalar with its variables replaced; None with the problem reported."""
        if find_literal_secret(node.text) and not _is_expectation(place):
            # Already reported, and whatever else could be said of it would have to name it.
            return None
        if "${" not in node.text:
            return Words(node.text, plain=not node.quoted, source=node.text)
        if not node.quoted:
            # Already reported as an unquoted `${`; its value would only repeat that.
            return None
        try:
            result = interpolate(node.text, self._environ)
        except ValueError as error:
            self.report.error_at(place, "interpolation", str(error))
            return None
        if not result.replaced:
            return Words(result.text, plain=False, source=result.text)
        self.report.sources[place] = node.text
        if find_literal_secret(result.text) and not _is_expectation(place):
            message = f"{quoted(node.text)} turns into a secret: {LITERAL}"
            self.report.error_at(place, "literal-secret", message)
            return None
        if any("\ud800" <= character <= "\udfff" for character in result.text):
            # How the environment's bytes come to us that are no UTF-8.
            self.report.error_at(place, "interpolation", f"the text of {quoted(node.text)} is not UTF-8")
            return None
        return Words(result.text, plain=True, source=node.text, interpolated=True)

    def _locate(self, node: Node, place: Place) -> None:
        # An empty value stands wherever the parser noticed that there is none: its key is meant.
        itself = isinstance(node, Scalar) and (node.quoted or bool(node.text))
        self.report.marks[place] = node.mark if itself else self.report.keys.get(place, node.mark)

    def _named(self, node: Node) -> str:
        if isinstance(node, Sequence):
            return "a list"
        if isinstance(node, MappingNode):
            return "a mapping"
        interpolated = node.quoted and "${" in node.text
        return str(Words(node.text, plain=not node.quoted, source=node.text, interpolated=interpolated))

    def _dispatch(self, node: Node, wanted: inspect.Type, place: Place) -> Any:
        notation = marker_of(wanted)
        if chains.is_empty(node):
            node = _nothing_in(wanted, node.mark) or node
        if notation == "chain":
            return chains.read_chain(self, node, place)
        if notation == "targets":
            return self._targets(node, place)
        if notation is not None:
            return self._notation(node, notation, bare(wanted), place)
        match bare(wanted):
            case inspect.UnionType(types=types):
                return self._union(node, types, place)
            case inspect.StructType() as struct:
                return self.struct(node, struct, place)
            case inspect.DictType(value_type=value_type):
                return self._map(node, value_type, place)
            case inspect.AnyType():
                return self._any(node, place)
            case inner if isinstance(inner, LISTS):
                return self._items(node, inner, place)
            case inner:
                return self._scalar(node, inner, place)

    def struct(self, node: Node, wanted: inspect.StructType, place: Place) -> Any:
        """A struct from a mapping; its `__post_init__` may object."""
        if not isinstance(node, MappingNode):
            return self.wrong(node, f"a mapping with {scalars.either(names_of(wanted))}", place)
        by_name = {field.encode_name: field for field in wanted.fields}
        values: dict[str, Any] = {}
        for key, value in node.pairs:
            inside = (*place, key.text)
            if key.text in by_name:
                self.report.keys[inside] = key.mark
                field = by_name[key.text]
                values[field.name] = self.read(value, field.type, inside)
            elif not (wanted.cls is Table and key.text.startswith("x-")):
                message = self._unknown(key.text, by_name)
                self.report.error(key.mark, "unknown-key", message)
                values["*"] = UNSET
        present = {key.text for key, _ in node.pairs}
        for field in wanted.fields:
            if field.required and field.encode_name not in present:
                self.report.error_at(place, "missing-key", chains.missing(place, field.encode_name))
                values[field.name] = UNSET
                self.report.broken.add((*place, field.encode_name))
        return self._built(wanted, values, place)

    def _unknown(self, name: str, known: Mapping[str, Any]) -> str:
        unspaced = slips.unspaced(name, known)
        if unspaced is not None:
            return f"put a space after the colon: write {unspaced}: …"
        return f"unknown key {quoted(name)}{self.report.hint(name, known) or _offer(known)}"

    def _built(self, wanted: inspect.StructType, values: dict[str, Any], place: Place) -> Any:
        if UNSET in values.values():
            if wanted.cls not in _PARTIAL:
                return UNSET
            required = {field.name for field in wanted.fields if field.required}
            values = {name: value for name, value in values.items() if value is not UNSET or name in required}
            return wanted.cls(**values)
        try:
            return wanted.cls(**values)
        except ValueError as error:
            inside = place
            if isinstance(error, Invalid) and error.field:
                encoded = {field.name: field.encode_name for field in wanted.fields}
                inside = (*place, encoded.get(error.field, error.field), *error.inside)
            origin = f" (from {quoted(self.report.sources[inside])})" if inside in self.report.sources else ""
            return self.fail(inside, "invalid", f"{error}{origin}")

    def _union(self, node: Node, types: tuple[inspect.Type, ...], place: Place) -> Any:
        members = [member for member in types if not isinstance(member, inspect.NoneType)]
        if isinstance(node, Scalar):
            texts = any(isinstance(bare(member), inspect.StrType) for member in members)
            if len(members) < len(types) and self._is_null(node, texts=texts):
                return None
            fitting = [member for member in members if marker_of(member) or isinstance(bare(member), SCALARS)]
            return self._one_of(node, fitting, members, place)
        for member in members:
            if takes(node, member):
                return self._dispatch(node, member, place)
        return self.wrong(node, scalars.either(map(described, types)), place)

    def _is_null(self, node: Scalar, *, texts: bool) -> bool:
        """With `texts` an interpolated `null` is the text, and only an empty one counts as unset."""
        if not node.quoted:
            return scalars.kind_of(node.text) == "null"
        try:
            found = interpolate(node.text, self._environ)
        except ValueError:
            # Told when the scalar is read for good.
            return False
        return found.replaced and (not found.text if texts else scalars.kind_of(found.text) == "null")

    def _one_of(
        self, node: Scalar, fitting: list[inspect.Type], members: list[inspect.Type], place: Place
    ) -> Any:
        if len(fitting) == 1 and len(members) == 1:
            return self._dispatch(node, fitting[0], place)
        words = self.words(node, place)
        if words is None:
            return UNSET
        for member in sorted(fitting, key=eagerness):
            try:
                value = read_as(words, member)
            except ValueError:
                continue
            return self._bounded(value, bare(member), place)
        wanted = scalars.either(map(described, members))
        found = f"expected {wanted}, found {words}"
        literals = [str(v) for m in members if isinstance(m, inspect.LiteralType) for v in m.values]
        return self.fail(
            place, "type", found + (self.report.hint(words.text, literals) if not words.interpolated else "")
        )

    def _map(self, node: Node, value_type: inspect.Type, place: Place) -> Any:
        if not isinstance(node, MappingNode):
            return self.wrong(node, "a mapping", place)
        values: dict[str, Any] = {}
        for key, value in node.pairs:
            if "${" in key.text:
                self.report.error(
                    key.mark, "interpolation", "a key is not interpolated: write the name itself"
                )
                continue
            inside = (*place, key.text)
            self.report.keys[inside] = key.mark
            values[key.text] = self.read(value, value_type, inside)
        return self._whole(values, place)

    def _whole(self, values: dict[str, Any], place: Place) -> Any:
        """Only the table's own maps may do without a broken entry: the rules judge the others."""
        kept = {name: value for name, value in values.items() if value is not UNSET}
        return kept if len(kept) == len(values) or len(place) == 1 else UNSET

    def _items(self, node: Node, wanted: Any, place: Place) -> Any:
        if not isinstance(node, Sequence):
            kind = marker_of(wanted.item_type) or "item"
            return self.wrong(node, f"a list of {described(wanted.item_type)}", place, kind)
        values = [self._item(item, wanted.item_type, (*place, i)) for i, item in enumerate(node.items)]
        kept = [value for value in values if value is not UNSET]
        if len(kept) < len(values) and len(place) > 1:
            # Of a file's own list, as of a table's own maps, the rules judge what is left.
            return UNSET
        if wanted.min_length is not None and len(kept) < wanted.min_length:
            return self.fail(
                place, "bounds", f"expected at least {wanted.min_length} items, found {len(kept)}"
            )
        makers = {inspect.ListType: list, inspect.SetType: set, inspect.FrozenSetType: frozenset}
        return makers.get(type(wanted), tuple)(kept)

    def _item(self, node: Node, wanted: inspect.Type, place: Place) -> Any:
        if not chains.is_empty(node) or isinstance(bare(wanted), inspect.AnyType):
            return self.read(node, wanted, place)
        self.report.marks[place] = node.mark
        self.report.broken.add(place)
        return self.fail(place, "empty-item", chains.EMPTY_ITEM)

    def _targets(self, node: Node, place: Place) -> Any:
        if isinstance(node, Scalar):
            value = self._scalar(node, inspect.StrType(), place)
            return UNSET if value is UNSET else (value,)
        if not isinstance(node, Sequence):
            return self.wrong(node, "ROUTE/MODEL, or a list of them", place)
        if not node.items:
            return self.fail(place, "empty-ladder", "a ladder has at least one ROUTE/MODEL")
        values = [self._item(item, inspect.StrType(), (*place, i)) for i, item in enumerate(node.items)]
        return tuple(value for value in values if value is not UNSET)

    def _any(self, node: Node, place: Place) -> Any:
        if isinstance(node, Scalar):
            return self._scalar(node, inspect.AnyType(), place)
        if isinstance(node, Sequence):
            return self._items(node, inspect.ListType(inspect.AnyType()), place)
        return self._map(node, inspect.AnyType(), place)

    def _notation(self, node: Node, notation: str, inner: inspect.Type, place: Place) -> Any:
        if not isinstance(node, Scalar):
            return self.wrong(node, scalars.NOTATIONS[notation][0], place)
        words = self.words(node, place)
        if words is None:
            return UNSET
        try:
            return self._bounded(scalars.read_notation(words, notation), inner, place)
        except ValueError as error:
            return self.fail(place, notation, str(error))

    def _scalar(self, node: Node, wanted: inspect.Type, place: Place) -> Any:
        if not isinstance(node, Scalar):
            return self.wrong(node, described(wanted), place)
        words = self.words(node, place)
        if words is None:
            return UNSET
        try:
            return self._bounded(read_as(words, wanted), wanted, place)
        except ValueError as error:
            near = ""
            if isinstance(wanted, inspect.LiteralType) and not words.interpolated:
                near = self.report.hint(
                    words.text, [value for value in wanted.values if isinstance(value, str)]
                )
            return self.fail(place, "type", f"{error}{near}")

    def _bounded(self, value: Any, wanted: inspect.Type, place: Place) -> Any:
        for name, holds, phrase in _BOUNDS:
            bound = getattr(wanted, name, None)
            if bound is not None and not holds(value, bound):
                return self.fail(place, "bounds", f"expected a number that is {phrase} {bound:g}")
        if isinstance(wanted, inspect.StrType):
            if len(value) < (wanted.min_length or 0):
                return self.fail(
                    place, "bounds", f"expected a text of at least {wanted.min_length} characters"
                )
            if wanted.pattern is not None and re.search(wanted.pattern, value) is None:
                return self.fail(place, "bounds", f"expected a text that matches {wanted.pattern}")
        return value


def _is_expectation(place: Place) -> bool:
    """Is this the option `expect` of a `key` in a chain? It begins like a secret, and is none."""
    options = place[:-2] if len(place) > 1 and isinstance(place[-2], int) else place[:-1]
    return place[-1:] == ("expect",) and options[-1:] == ("key",) and isinstance(options[-2:][0], int)


def _nothing_in(wanted: inspect.Type, mark: Mark) -> Node | None:
    """What a key without a value stands for, where something empty has a meaning."""
    inner, marker = bare(wanted), marker_of(wanted)
    if marker == "chain" or (marker is None and isinstance(inner, LISTS)):
        return Sequence((), mark)
    if marker is None and isinstance(inner, inspect.DictType):
        return MappingNode((), mark)
    if isinstance(inner, inspect.StructType) and not any(field.required for field in inner.fields):
        return MappingNode((), mark)
    return None


def _offer(names: Mapping[str, Any]) -> str:
    return f": here stand {', '.join(names)}" if names else ": nothing stands here"
