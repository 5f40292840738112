"""YAML text to an immutable tree of nodes, each with its place; or to problems, never a traceback.

Built from ruamel.yaml's parser events, so that nothing is resolved behind our back: what a plain
scalar means is decided by `config.scalars`. Aliases share nodes; what they would expand to is
counted, not built. Of the parser's errors only `problem` and the mark are used: their str()
quotes the file, which may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

from msgspec import Struct
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from config.problems import Mark
from config.report import Report
from config.secrets import find_literal_secret
from config.wording import quoted, short

MAX_NODES = 100_000
MAX_DEPTH = 100

LITERAL = "a literal secret has no place in a table: name a variable or a file with the middleware 'key'"


class Scalar(Struct, frozen=True):
    """`quoted` also for block scalars: whatever is text without being looked at."""

    text: str
    quoted: bool
    mark: Mark


class Sequence(Struct, frozen=True):
    """`size` and `depth` count what its aliases stand for."""

    items: tuple[Node, ...]
    mark: Mark
    size: int = 1
    depth: int = 1


class Mapping(Struct, frozen=True):
    """Pairs in the file's order, merged ones last; no key stands twice."""

    pairs: tuple[tuple[Scalar, Node], ...]
    mark: Mark
    size: int = 1
    depth: int = 1


Node = Scalar | Sequence | Mapping


class _Stop(Exception):
    """The document cannot be read any further; the problem is already in the report."""


def read(text: str, report: Report, literal: str = LITERAL) -> Node | None:
    """The one document in `text`; None when it has none or cannot be read as a whole.

    `literal` is what is said of a secret in it.
    """
    try:
        builder = _Builder(_events(text, report), report, literal)
        root = builder.document()
    except _Stop:
        return None
    builder.tell_secrets(root)
    builder.tell_unused()
    return root


def _events(text: str, report: Report) -> Iterator[Any]:
    """The parser's events; its errors become problems."""
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        _stop(report, mark, "yaml", f"the character U+{_ordinal(error.character):04X} may not stand in YAML")
    except MarkedYAMLError as error:
        _stop_at(error, text, report)
    except (YAMLError, ValueError, OverflowError):
        # An escape such as \UFFFFFFFF, or a %YAML version of a thousand digits.
        _stop(report, Mark(), "yaml", "this is not YAML: an escape or a directive has a number out of range")


def _ordinal(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _stop(report: Report, mark: Mark, code: str, message: str) -> NoReturn:
    report.error(mark, code, message)
    raise _Stop


def _stop_at(error: MarkedYAMLError, text: str, report: Report) -> NoReturn:
    place = error.problem_mark or error.context_mark
    if place is None:
        _stop(report, Mark(), "yaml", f"this is not YAML: {error.problem or 'it cannot be read'}")
    lines = _LINE_END.split(text)
    line = lines[place.line] if place.line < len(lines) else ""
    column = _unquoted_dollar(line)
    if column is not None and column <= place.column:
        _stop(report, Mark(place.line + 1, column + 1), "unquoted-dollar", UNQUOTED)
    mark = Mark(place.line + 1, place.column + 1)
    if line[place.column : place.column + 1] == "\t" or "\t" in re.split(r"[^ \t]", line, maxsplit=1)[0]:
        _stop(report, mark, "yaml", "a tab cannot indent YAML: write spaces")
    _stop(report, mark, "yaml", f"this is not YAML: {error.problem}")


# What ruamel.yaml counts as one.
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

UNQUOTED = 'a ${ outside quotes: put the whole value in double quotes, such as "${NAME}"'

_QUOTED_OR_COMMENT = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|(?:^|(?<=\s))#.*")


def _unquoted_dollar(line: str) -> int | None:
    """Where an unquoted `${` begins in a line that could not be parsed, as far as one line tells."""
    blanked = _QUOTED_OR_COMMENT.sub(lambda match: " " * len(match[0]), line)
    found = blanked.find("${")
    return found if found >= 0 else None


# A quoted escape can write one; no file, terminal or header can hold it.
_SURROGATE = re.compile("[\ud800-\udfff]")

_BEGINNINGS = frozenset({"ScalarEvent", "SequenceStartEvent", "MappingStartEvent", "AliasEvent"})


class _Builder:
    """One pass over the events of a document."""

    def __init__(self, events: Iterator[Any], report: Report, literal: str) -> None:
        self._events = events
        self._report = report
        self._literal = literal
        # None while the anchored node is being built: an alias to it would be recursive.
        self._anchors: dict[str, Node | None] = {}
        # Where each anchor was set last, and where those are that no alias has named.
        self._set: dict[str, Mark] = {}
        self._unused: dict[Mark, str] = {}
        # Every node, alias and merged pair that was gone through, also those that led to nothing.
        self._total = 0
        self._suspects: list[Scalar] = []

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent" and root is not None:
                message = "a second document begins here: a table is one document"
                self._report.error(_mark(event), "yaml", message)
                return root
            if kind in _BEGINNINGS:
                root = self._node(event, 1)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        mark = _mark(event)
        kind = type(event).__name__
        self._count(1, mark)
        if kind == "AliasEvent":
            return self._aliased(event.anchor, mark)
        if depth > MAX_DEPTH:
            _stop(self._report, mark, "yaml", f"nested more than {MAX_DEPTH} levels deep")
        if event.tag is not None:
            self._report.error(mark, "yaml-tag", "a tag (!) has no place in a table: quote a text instead")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
            self._set[event.anchor] = mark
            self._unused[mark] = event.anchor
        node: Node
        if kind == "ScalarEvent":
            node = self._scalar(event, mark)
        elif kind == "SequenceStartEvent":
            items = tuple(self._until("SequenceEndEvent", depth + 1))
            node = Sequence(items, mark, *self._measure(items, mark))
        else:
            node = self._mapping(list(self._until("MappingEndEvent", depth + 1)), mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _count(self, number: int, mark: Mark) -> None:
        self._total += number
        if self._total > MAX_NODES:
            _stop(self._report, mark, "yaml-alias", f"with its aliases this is more than {MAX_NODES} values")

    def tell_secrets(self, root: Node | None) -> None:
        """Report the literal secrets among all scalars, also those that no value came of."""
        exempt = {id(node) for node in _expectations(root)} if self._suspects else set()
        for scalar in self._suspects:
            if id(scalar) not in exempt:
                self._report.error(scalar.mark, "literal-secret", self._literal)

    def tell_unused(self) -> None:
        """Warn of the anchors that no alias names."""
        for mark, anchor in self._unused.items():
            name = short(anchor)
            message = f"&{name} is never used: write *{name} where it is meant, or leave it out"
            self._report.add(mark, "warning", "unused-anchor", message)

    def _until(self, end: str, depth: int) -> Iterator[Node]:
        for event in self._events:
            if type(event).__name__ == end:
                return
            yield self._node(event, depth)

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        if anchor not in self._anchors:
            _stop(self._report, mark, "yaml-alias", f"there is no anchor &{short(anchor)} before this alias")
        node = self._anchors[anchor]
        if node is None:
            _stop(
                self._report,
                mark,
                "yaml-alias",
                f"*{short(anchor)} stands inside its own anchor &{short(anchor)}",
            )
        self._unused.pop(self._set[anchor], None)
        return node

    def _scalar(self, event: Any, mark: Mark) -> Scalar:
        is_quoted = bool(event.style)
        if not is_quoted and "${" in event.value:
            self._report.error(mark, "unquoted-dollar", UNQUOTED)
        if _SURROGATE.search(event.value):
            self._report.error(
                mark, "yaml", "half of a surrogate pair is no character: write the character itself"
            )
        node = Scalar(_SURROGATE.sub("\ufffd", event.value), is_quoted, mark)
        if find_literal_secret(node.text):
            self._suspects.append(node)
        return node

    def _measure(self, nodes: tuple[Node, ...], mark: Mark) -> tuple[int, int]:
        size = 1 + sum(1 if isinstance(node, Scalar) else node.size for node in nodes)
        depth = 1 + max((0 if isinstance(node, Scalar) else node.depth for node in nodes), default=0)
        if size > MAX_NODES:
            _stop(self._report, mark, "yaml-alias", f"with its aliases this is more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            _stop(
                self._report,
                mark,
                "yaml",
                f"with its aliases this is nested more than {MAX_DEPTH} levels deep",
            )
        return size, depth

    def _mapping(self, flat: list[Node], mark: Mark) -> Mapping:
        own: dict[str, tuple[Scalar, Node]] = {}
        merges: list[tuple[Scalar, Node]] = []
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._report.error(
                    key.mark, "key", "a key is one word or a quoted text, not a list or a mapping"
                )
            elif not key.text and not key.quoted:
                self._report.error(key.mark, "key", "a key is missing before the colon")
            elif key.text == "<<" and not key.quoted:
                merges.append((key, value))
            elif key.text in own:
                self._duplicate(key, own[key.text][0])
            else:
                own[key.text] = (key, value)
        for second, _ in merges[1:]:
            self._duplicate(second, merges[0][0])
        for source in self._sources(*merges[0]) if merges else ():
            self._count(len(source.pairs), mark)
            for key, value in source.pairs:
                own.setdefault(key.text, (key, value))
        pairs = tuple(own.values())
        return Mapping(pairs, mark, *self._measure(tuple(value for _, value in pairs), mark))

    def _duplicate(self, key: Scalar, first: Scalar) -> None:
        advice = ": merge a list of aliases instead" if key.text == "<<" else ""
        message = f"duplicate key {quoted(key.text)}, already on line {first.mark.line}{advice}"
        self._report.error(key.mark, "duplicate-key", message)

    def _sources(self, merge: Scalar, value: Node) -> list[Mapping]:
        """The mappings that a `<<` merges; of two with one key the earlier wins."""
        candidates = value.items if isinstance(value, Sequence) else (value,)
        self._count(len(candidates), merge.mark)
        for candidate in candidates:
            if not isinstance(candidate, Mapping):
                message = "<< takes an alias of a mapping, or a list of them: write <<: *name"
                self._report.error(merge.mark, "merge", message)
        return [candidate for candidate in candidates if isinstance(candidate, Mapping)]


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _expectations(root: Node | None) -> Iterator[Scalar]:
    """The values of the option `expect` of each `key` in a list: they begin like secrets, and are none."""
    seen: set[int] = set()
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, Scalar):
            continue
        seen.add(id(node))
        if isinstance(node, Mapping):
            waiting.extend(value for _, value in node.pairs)
            continue
        waiting.extend(node.items)
        for item in node.items:
            for name, options in item.pairs if isinstance(item, Mapping) else ():
                yield from _expected(options) if name.text == "key" else ()


def _expected(options: Node) -> Iterator[Scalar]:
    for source in options.items if isinstance(options, Sequence) else (options,):
        for name, value in source.pairs if isinstance(source, Mapping) else ():
            if name.text == "expect" and isinstance(value, Scalar):
                yield value
