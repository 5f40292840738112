"""The `middlewares` lists: bare names, `{name: options}`, and lists that are spliced in place.

An item whose options cannot be read stays in the chain with `UNSET` for options, so that the
rules about names and order can judge the rest. Such a chain never leaves the loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from msgspec import inspect

from config import slips
from config.catalog import Catalog, Entry, Unusable, foreign
from config.document import Mapping, Node, Scalar, Sequence
from config.report import Place, Report
from config.scalars import kind_of
from config.schema import MiddlewareUse
from config.secrets import find_literal_secret
from config.wording import listed, quoted

EMPTY_ITEM = "an item is empty: write something after its dash, or leave out the dash"


class Reader(Protocol):
    """What reads the options inside a chain, and is itself what came upon the chain."""

    report: Report
    catalog: Catalog

    def read(self, node: Node, wanted: inspect.Type, place: Place) -> Any: ...

    def wrong(self, node: Node, expected: str, place: Place, kind: str | None = None) -> Any: ...

    def fail(self, place: Place, code: str, message: str) -> Any: ...


def read_chain(reader: Reader, node: Node, place: Place) -> Any:
    """A tuple of `MiddlewareUse`; items without a usable name are left out, with a problem."""
    if not isinstance(node, Sequence):
        return reader.wrong(node, "a list of middlewares, each with its own dash", place, "item")
    uses = [_item(reader, item, (*place, i)) for i, item in enumerate(_spliced(node))]
    return tuple(use for use in uses if use is not None)


def is_empty(node: Node) -> bool:
    """Is this a null, such as what stands after a bare key or dash?"""
    return isinstance(node, Scalar) and not node.quoted and kind_of(node.text) == "null"


def missing(place: Place, name: str) -> str:
    """The message for a required key that is not there; options are told from other keys."""
    middleware = place[-1] if len(place) > 1 and isinstance(place[-2], int) else None
    if middleware is None:
        return f"missing key {quoted(name)}" + (
            ": write version: 1" if place == () and name == "version" else ""
        )
    return f"middleware '{middleware}' needs the option {quoted(name)}: write {middleware}: {{{name}: …}}"


def _spliced(node: Sequence) -> Iterator[Node]:
    for item in node.items:
        if isinstance(item, Sequence):
            yield from _spliced(item)
        else:
            yield item


def _item(reader: Reader, item: Node, place: Place) -> MiddlewareUse | None:
    reader.report.marks[place] = item.mark
    if is_empty(item):
        reader.fail(place, "empty-item", EMPTY_ITEM)
        return None
    if isinstance(item, Scalar):
        # A bare name takes the defaults: the options of an empty mapping.
        return _use(reader, item, Mapping((), item.mark), place)
    if not isinstance(item, Mapping) or not item.pairs:
        reader.fail(place, "type", "expected a middleware: write a name, or {name: {option: value}}")
        return None
    (name, options), *others = item.pairs
    for other, _ in others:
        message = (
            f"{quoted(other.text)} is a second key in the list item of {quoted(name.text)}: "
            f"indent it to be an option of {quoted(name.text)}, or give it a dash of its own"
        )
        reader.report.error(other.mark, "two-keys", message)
    return _use(reader, name, Mapping((), name.mark) if is_empty(options) else options, place)


def _use(reader: Reader, name: Scalar, options: Node, place: Place) -> MiddlewareUse | None:
    reader.report.marks[place] = name.mark
    try:
        entry = reader.catalog.find(name.text)
    except Unusable as error:
        reader.fail(place, "unusable-middleware", str(error))
        return None
    if entry is None:
        _unknown(reader, name, place)
        return None
    inside = (*place, name.text)
    reader.report.keys[inside] = name.mark
    reader.report.uses.setdefault(place[:-1], []).append(inside)
    value = _slipped(reader, name.text, options, inside)
    if value is None:
        value = _options(reader, name.text, entry, options, inside)
    return MiddlewareUse(name.text, value, name.mark)


def _options(reader: Reader, name: str, entry: Entry, options: Node, place: Place) -> Any:
    if name in reader.catalog.entries:
        return reader.read(options, _options_type(entry.options, options), place)
    try:
        with foreign(name):
            return reader.read(options, _options_type(entry.options, options), place)
    except Unusable as error:
        reader.report.broken.add(place)
        return reader.fail(place, "unusable-middleware", str(error))


def _slipped(reader: Reader, name: str, options: Node, place: Place) -> Any:
    """UNSET, with the problem told, when one word stands where options are due; else None."""
    if not isinstance(options, Scalar) or find_literal_secret(options.text):
        return None
    advice = slips.options(name, options.text)
    if advice is None:
        return None
    reader.report.marks[place] = options.mark
    reader.report.broken.add(place)
    return reader.fail(place, "type", f"options stand in braces: write {advice}")


def _unknown(reader: Reader, name: Scalar, place: Place) -> None:
    text = name.text
    usable = [*reader.catalog.entries, *reader.catalog.registered()]
    names = [*usable, *reader.catalog.planned]
    if (unspaced := slips.unspaced(text, names)) is not None:
        message = f"put a space after the colon: write {unspaced}: {{option: value}}"
        reader.fail(place, "unknown-middleware", message)
    elif text in reader.catalog.planned:
        reader.fail(place, "not-built", f"middleware {quoted(text)} is not in this version of tidegate")
    elif "${" in text:
        message = "a middleware's name is not interpolated: write the name itself"
        reader.fail(place, "interpolation", message)
    else:
        near = reader.report.hint(text, names)
        offer = f": there are {listed(sorted(usable))}" if usable else ""
        message = f"unknown middleware {quoted(text)}{near or offer}"
        reader.fail(place, "unknown-middleware", message)


def _options_type(options: Any, node: Node) -> inspect.Type:
    """The type to read as; a mapping is read as the struct itself, for the sake of its messages."""
    wanted = inspect.type_info(options)
    if isinstance(wanted, inspect.UnionType) and isinstance(node, Mapping):
        structs = [member for member in wanted.types if isinstance(member, inspect.StructType)]
        if len(structs) == 1:
            return structs[0]
    return wanted
