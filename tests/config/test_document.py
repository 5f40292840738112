from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.document import MAX_DEPTH, Mapping, Node, Scalar, Sequence, read
from config.report import Report


def plain(node: Node | None) -> object:
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if isinstance(node, Mapping):
        return {key.text: plain(value) for key, value in node.pairs}
    return node.text if node else None


def parsed(text: str) -> object:
    report = Report("t.yaml")
    node = read(text, report)
    assert report.problems == []
    return plain(node)


def told(text: str) -> list[tuple[int, int, str]]:
    report = Report("t.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(text, report)
    return [(problem.line, problem.column, problem.message) for problem in report.problems]


def test_nodes_tell_their_place_and_whether_they_are_quoted():
    root = read("a: 1\nb:\n  - 'x'\n  - |\n    y\n", Report("t"))
    assert isinstance(root, Mapping)
    (a, one), (_, listed) = root.pairs
    assert (a.mark.line, a.mark.column) == (1, 1)
    assert isinstance(one, Scalar)
    assert (one.text, one.quoted, one.mark.line, one.mark.column) == ("1", False, 1, 4)
    assert isinstance(listed, Sequence)
    scalars = [item for item in listed.items if isinstance(item, Scalar)]
    assert [(item.text, item.quoted, item.mark.line) for item in scalars] == [
        ("x", True, 3),
        ("y\n", True, 4),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x {k: 1}\nb: *x", {"a": {"k": "1"}, "b": {"k": "1"}}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}", {"a": {"k": "1"}, "b": {"l": "2", "k": "1"}}),
        ("a: &x {k: 1}\nb: {k: 2, <<: *x}", {"a": {"k": "1"}, "b": {"k": "2"}}),
        ("a: &x {k: 1}\nb: {<<: *x, k: 2}", {"a": {"k": "1"}, "b": {"k": "2"}}),
        (
            "a: &x {k: 1}\nb: &y {k: 2, l: 3}\nc: {<<: [*x, *y]}",
            {"a": {"k": "1"}, "b": {"k": "2", "l": "3"}, "c": {"k": "1", "l": "3"}},
        ),
        ("a: &x {k: 1}\nb: &y {<<: *x}\nc: {<<: *y}", {"a": {"k": "1"}, "b": {"k": "1"}, "c": {"k": "1"}}),
        ("a: {'<<': 1}", {"a": {"<<": "1"}}),
        ("a: &x 1\nb: *x\nc: &x 2\nd: *x", {"a": "1", "b": "1", "c": "2", "d": "2"}),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
    ],
)
def test_aliases_and_merges_work(text, value):
    assert parsed(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", (3, 1, "duplicate key 'a', already on line 1")),
        ("a: 1\n'a': 3", (2, 1, "duplicate key 'a', already on line 1")),
        ("x: {a: 1, a: 2}", (1, 11, "duplicate key 'a', already on line 1")),
        (
            "a: &x {}\nb: {<<: *x, <<: *x}",
            (2, 13, "duplicate key '<<', already on line 2: merge a list of aliases instead"),
        ),
        ("a: {<<: 1}", (1, 5, "<< takes an alias of a mapping, or a list of them: write <<: *name")),
        ("a: {<<: [{}, 1]}", (1, 5, "<< takes an alias of a mapping, or a list of them: write <<: *name")),
        ("a: *x", (1, 4, "there is no anchor &x before this alias")),
        ("a: &x [*x]", (1, 8, "*x stands inside its own anchor &x")),
        ("a: &x {b: {<<: *x}}", (1, 16, "*x stands inside its own anchor &x")),
        ("a: !!str 1", (1, 4, "a tag (!) has no place in a table: quote a text instead")),
        ("a: !x {}", (1, 4, "a tag (!) has no place in a table: quote a text instead")),
        ("a: ! x", (1, 4, "a tag (!) has no place in a table: quote a text instead")),
        ("a: 1\n---\nb: 2", (2, 1, "a second document begins here: a table is one document")),
        ("a:\n\tb: 1", (2, 1, "a tab cannot indent YAML: write spaces")),
        ("a:\n  b: 1\n\t- c", (3, 1, "a tab cannot indent YAML: write spaces")),
        ("? [a]\n: b", (1, 3, "a key is one word or a quoted text, not a list or a mapping")),
        (": b", (1, 1, "a key is missing before the colon")),
        ("a: 1\nb: \x01", (2, 4, "the character U+0001 may not stand in YAML")),
        ("a: 'x", (1, 6, "this is not YAML: found unexpected end of stream")),
        ('a: "\\UFFFFFFFF"', (1, 1, "this is not YAML: an escape or a directive has a number out of range")),
        ("a: b: c", (1, 5, "this is not YAML: mapping values are not allowed here")),
    ],
)
def test_what_is_wrong_with_the_yaml_is_told_with_its_place(text, problem):
    assert told(text) == [problem]


QUOTE_IT = 'a ${ outside quotes: put the whole value in double quotes, such as "${NAME}"'


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: ${X}", (1, 4)),
        ("a:\n  - x${X}", (2, 5)),
        ("a: $${X}", (1, 4)),
        ("a: {total: ${X}s}", (1, 12)),
        ("a: 1\nb: {t: '${Y}', u: 10${X:-5}s}", (2, 21)),
        ("a: [${X}]", (1, 5)),
        ("a: 1\r\nb: 2\rc: [${X}]\r\n", (3, 5)),
        ("a: ${X: y}", (1, 4)),
        ("${X}: a", (1, 1)),
    ],
)
def test_an_unquoted_variable_is_told_also_where_it_breaks_the_yaml(text, place):
    assert told(text) == [(*place, QUOTE_IT)]


def test_a_variable_in_a_comment_or_in_quotes_is_not_blamed_for_other_errors():
    for text, column in (("a: {b: '${X}', c: \"${Y}\" d} # ${Z}\n", 26), ("a: {b: 'x' y, c: ${Z}}", 12)):
        ((line, found, message),) = told(text)
        assert (line, found) == (1, column)
        assert "outside quotes" not in message


def test_a_syntax_error_never_quotes_the_file():
    for text in ("a: 'canary", "a: [canary\nb: canary", "canary: canary: canary", 'a: "canary\\q"'):
        assert all("canary" not in message for _, _, message in told(text))


def test_an_alias_bomb_is_told_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    ((line, _, message),) = told("\n".join(lines))
    assert line == 5
    assert message == "with its aliases this is more than 100000 values"


def test_a_merge_bomb_is_told_at_once():
    lines = [f"a0: &a0 {{{', '.join(f'k{n}: 1' for n in range(300))}}}"]
    lines += [f"a{n}: {{<<: *a0, own: 1}}" for n in range(1, 400)]
    ((_, _, message),) = told("\n".join(lines))
    assert message == "with its aliases this is more than 100000 values"


def test_a_merge_that_leaves_little_is_counted_all_the_same():
    lines = [f"a0: &a0 {{{', '.join(f'k{n}: 1' for n in range(300))}}}"]
    lines += [f"b{n}: {{<<: [{', '.join(['*a0'] * 50)}]}}" for n in range(50)]
    ((_, _, message),) = told("\n".join(lines))
    assert message == "with its aliases this is more than 100000 values"


def test_deep_nesting_is_told_and_not_a_recursion_error():
    deepest = MAX_DEPTH - 1
    assert told("[" * deepest + "]" * deepest) == []
    for text in ("[" * 5000, "{a: " * 5000, "- " * 5000, "? " * 5000):
        ((line, _, message),) = told(text)
        assert line == 1
        assert message == f"nested more than {MAX_DEPTH} levels deep"
    chain = ["a0: &a0 []"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 120)]
    ((line, _, message),) = told("\n".join(chain))
    assert message == f"with its aliases this is nested more than {MAX_DEPTH} levels deep"


NAMES = st.sampled_from("abcdef")
MAPPINGS = st.dictionaries(NAMES, st.integers(0, 9).map(str), max_size=4)


def flow(mapping: dict[str, str]) -> list[str]:
    return [f"{key}: {value}" for key, value in mapping.items()]


@given(st.lists(MAPPINGS, min_size=1, max_size=4), MAPPINGS, st.integers(0, 4))
def test_a_merge_fills_in_what_is_not_there_and_the_earlier_source_wins(sources, own, position):
    lines = [f"s{n}: &s{n} {{{', '.join(flow(source))}}}" for n, source in enumerate(sources)]
    items = flow(own)
    items.insert(position, f"<<: [{', '.join(f'*s{n}' for n in range(len(sources)))}]")
    expected: dict[str, str] = {}
    for source in reversed(sources):
        expected.update(source)
    expected.update(own)
    root = parsed("\n".join([*lines, f"merged: {{{', '.join(items)}}}"]))
    assert isinstance(root, dict)
    assert root["merged"] == expected


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a: &x [1]", [(1, 4, "x")]),
        ("a: &x [1]\nb: *x", []),
        ("a: &x {b: &y 1}\nc: *x", [(1, 11, "y")]),
        ("a: &x 1\nb: &x 2\nc: *x\nd: *x", [(1, 4, "x")]),
        ("a: &x 1\nb: *x\nc: &x 2", [(3, 4, "x")]),
        ("&x a: 1", [(1, 1, "x")]),
    ],
)
def test_an_anchor_that_no_alias_names_is_told(text, places):
    report = Report("t.yaml")
    read(text, report)
    assert [(p.line, p.column, p.level, p.code, p.message) for p in report.problems] == [
        (
            line,
            column,
            "warning",
            "unused-anchor",
            f"&{name} is never used: write *{name} where it is meant, or leave it out",
        )
        for line, column, name in places
    ]
