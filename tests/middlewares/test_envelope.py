from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from middlewares.envelope import Envelope
from middlewares.faults import ClientFault
from tests.middlewares.fakes import UNHURRIED

DEEP = 100_000

SPACE = st.text(alphabet=" \t\r\n", max_size=3)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        [
            "1E5",
            "-1e-7",
            "1e+05",
            "-0",
            "0.0",
            "-0.0e0",
            "1e999",
            "0.1000000000000000055511151231257827",
            "123456789012345678901234567890",
            "-99999999999999999999999999999.5",
            "18446744073709551616",
        ]
    ),
)


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """`text` as a JSON string, each character plain or escaped in one of the ways there are."""
    return '"' + "".join(draw(st.sampled_from(_spellings(char))) for char in text) + '"'


def _spellings(char: str) -> list[str]:
    units = char.encode("utf-16-be")
    hexed = "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2))
    short = {
        '"': '\\"',
        "\\": "\\\\",
        "/": "\\/",
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        "\b": "\\b",
        "\f": "\\f",
    }
    plain = [] if char in '"\\' or char < " " else [char]
    return [*plain, hexed, *([short[char]] if char in short else [])]


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)
STRINGS = TEXT.flatmap(spelled)


def _nested(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    padded = st.tuples(SPACE, values, SPACE).map("".join)
    members = st.tuples(SPACE, STRINGS, SPACE, st.just(":"), padded).map("".join)
    arrays = st.lists(padded, max_size=3).map(lambda items: f"[{','.join(items)}]")
    objects = st.lists(members, max_size=3).map(lambda items: f"{{{','.join(items)}}}")
    return arrays | objects


VALUES = st.recursive(
    st.sampled_from(["null", "true", "false", "[]", "[ ]", "{}", "{\n}", '""']) | NUMBERS | STRINGS,
    _nested,
    max_leaves=6,
)


NESTED = _nested(st.integers(-9, 9999).map(str))


@st.composite
def bodies(
    draw: st.DrawFn,
    names: st.SearchStrategy[str] = TEXT,
    values: st.SearchStrategy[str] = VALUES,
    *,
    unique: bool = True,
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A JSON object as odd text, and its members: the key's meaning, the value's bytes."""
    members = [(name, draw(values)) for name in draw(st.lists(names, max_size=6, unique=unique))]
    written = [
        draw(SPACE) + draw(spelled(name)) + draw(SPACE) + ":" + draw(SPACE) + value + draw(SPACE)
        for name, value in members
    ]
    inside = ",".join(written) or draw(SPACE)
    text = draw(SPACE) + "{" + inside + "}" + draw(SPACE)
    return text.encode(), [(name, value.encode()) for name, value in members]


def members(body: bytes) -> list[tuple[str, bytes]]:
    """The members of an object without white space between them, read with another parser."""
    text = body.decode()
    reader = json.JSONDecoder(strict=False)
    found: list[tuple[str, bytes]] = []
    position = 1
    while text[position] != "}":
        name, position = reader.raw_decode(text, position)
        assert text[position] == ":"
        _, end = reader.raw_decode(text, position + 1)
        found.append((name, text[position + 1 : end].encode()))
        position = end + (text[end] == ",")
    assert text[0] == "{" and position == len(text) - 1
    return found


@UNHURRIED
@given(bodies())
@example((b" { } ", []))
@example((b'{"a":1E5,"b":[ 1 , 2 ]}\n', []))
def test_a_body_that_nobody_changes_goes_up_byte_for_byte(case):
    raw, _ = case
    envelope = Envelope.parse(raw)
    assert envelope.untouched
    assert envelope.encode() == raw
    assert envelope.copy().encode() == raw


@UNHURRIED
@given(
    bodies(), st.data(), st.sampled_from([1500, "k2", 'a"\\\n\x00é\U0001f600', None, True, ["x"], {"y": 1.5}])
)
def test_a_changed_field_leaves_every_other_its_bytes_and_its_place(case, data, value):
    raw, expected = case
    name = data.draw(st.sampled_from([name for name, _ in expected] + ["model"]))
    envelope = Envelope.parse(raw)
    envelope.set(name, value)
    found = members(envelope.encode())
    places = [name for name, _ in expected]
    assert [name for name, _ in found] == (places if name in places else [*places, name])
    assert [member for member in found if member[0] != name] == [m for m in expected if m[0] != name]
    assert json.loads(dict(found)[name]) == value == envelope.value(name)


@UNHURRIED
@given(bodies(), st.data())
def test_a_dropped_field_leaves_every_other_its_bytes_and_its_place(case, data):
    raw, expected = case
    name = data.draw(st.sampled_from([name for name, _ in expected] + ["model"]))
    envelope = Envelope.parse(raw)
    envelope.drop(name)
    assert name not in envelope
    assert envelope.value(name) is None
    if name in dict(expected):
        assert members(envelope.encode()) == [member for member in expected if member[0] != name]
    else:
        assert envelope.encode() == raw


@UNHURRIED
@given(bodies(st.sampled_from(["model", "provider", "", "é\n"]), STRINGS | NESTED, unique=False))
@example((b'{"model":"cheap","mod\\u0065l":"dear"}', [("model", b'"cheap"'), ("model", b'"dear"')]))
@example((b'{"model":"same","model":"same"}', [("model", b'"same"'), ("model", b'"same"')]))
def test_a_key_that_stands_twice_is_sent_once_with_the_value_that_was_checked(case):
    raw, expected = case
    assert_collapsed(raw, expected)


@UNHURRIED
@given(bodies(st.sampled_from(["a", "b"]), st.sampled_from(["1", "12", "12.5", "12e1"]), unique=False))
@example((b'{"a":99999,"a":9}', [("a", b"99999"), ("a", b"9")]))
@example((b'{"b":1,"a":99999 , "\\u0061":9}', [("b", b"1"), ("a", b"99999"), ("a", b"9")]))
def test_a_number_that_stands_twice_is_sent_once_with_the_value_that_was_checked(case):
    raw, expected = case
    assert_collapsed(raw, expected)


def assert_collapsed(raw: bytes, expected: list[tuple[str, bytes]]) -> None:
    envelope = Envelope.parse(raw)
    out = envelope.encode()
    last = dict(expected)
    for name, value in last.items():
        assert json.loads(value) == envelope.value(name)
    if len(last) == len(expected):
        assert out == raw
    else:
        assert not envelope.untouched
        assert members(out) == list(last.items())


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (b'{"model":"cheap","model":"expensive"}', b'{"model":"expensive"}'),
        (b'{"model":"cheap","mod\\u0065l":"expensive"}', b'{"model":"expensive"}'),
        (b'{"mod\\u0065l":"cheap", "n": 1, "model":"dear"}', b'{"model":"dear","n":1}'),
        (b'{"a":1,"a":1}', b'{"a":1}'),
        (b'{"a":1,"a":12}', b'{"a":12}'),
        (b'{"a":12,"b":1,"a":1}', b'{"a":1,"b":1}'),
        (b'{"a":null,"a":[ 1 ]}', b'{"a":[ 1 ]}'),
        (b'{"":1,"":2}', b'{"":2}'),
        (b'{"a":{"a":1,"a":2},"b":3}', b'{"a":{"a":1,"a":2},"b":3}'),
    ],
)
def test_repeated_keys_collapse_to_the_last_at_the_top_level_only(raw, out):
    assert Envelope.parse(raw).encode() == out
    assert Envelope.parse(raw).copy().encode() == out


@UNHURRIED
@given(bodies(), st.binary(max_size=4))
@example((b"{}", []), b"x")
def test_any_bytes_are_read_or_refused_and_never_worse(case, noise):
    raw, _ = case
    for body in (noise, raw + noise, raw[: len(raw) // 2] + noise, noise + raw):
        try:
            envelope = Envelope.parse(body)
        except ClientFault:
            continue
        assert envelope.encode() == body


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "The body is empty; a JSON object is expected."),
        (b" \r\n\t", "The body is empty; a JSON object is expected."),
        (b"[]", "The body is not a JSON object."),
        (b'[{"model":"x"}]', "The body is not a JSON object."),
        (b'"model"', "The body is not a JSON object."),
        (b"null", "The body is not a JSON object."),
        (b"true", "The body is not a JSON object."),
        (b"7", "The body is not a JSON object."),
        (b"{", "The body is not valid JSON."),
        (b'{"a":1,}', "The body is not valid JSON."),
        (b"{'a':1}", "The body is not valid JSON."),
        (b'{"a":1} {}', "The body is not valid JSON."),
        (b'{"a":NaN}', "The body is not valid JSON."),
        (b'{"a":Infinity}', "The body is not valid JSON."),
        (b'{"a":01}', "The body is not valid JSON."),
        (b'{"a":"\n"}', "The body is not valid JSON."),
        (b'{"a":tru}', "The body is not valid JSON."),
        (b"\xef\xbb\xbf{}", "The body is not valid JSON."),
        ("{}".encode("utf-16"), "The body is not valid JSON."),
        (b'{"\xff":1}', "The body is not valid JSON."),
        (b'{"\\ud83d":1}', "The body is not valid JSON."),
        (b"model=x&stream=true", "The body is not valid JSON."),
        (b"[" * DEEP, "The body is not valid JSON."),
        (b'{"a":' * DEEP, "The body is nested too deeply to be read."),
        (b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", "The body is nested too deeply to be read."),
    ],
)
def test_a_body_that_is_no_json_object_is_told_so(raw, message):
    with pytest.raises(ClientFault) as caught:
        Envelope.parse(raw)
    fault = caught.value
    assert (fault.code, fault.status, fault.message) == ("invalid_json", 400, message)
    assert fault.__suppress_context__


@pytest.mark.parametrize(
    "value",
    [
        b'"\xff\xfe"',
        b'"\xc3"',
        b'"\\ud83d"',
        b'"\\udc00 x"',
        b'["\\ud83d"]',
        b"1e999",
        b'"' + b"\xa0" * 9 + b'"',
    ],
)
def test_a_value_that_cannot_be_decoded_passes_as_it_came_until_it_is_asked_for(value):
    raw = b'{ "odd": ' + value + b', "max_tokens": 1 }'
    envelope = Envelope.parse(raw)
    assert envelope.encode() == raw
    envelope.set("max_tokens", 1500)
    assert envelope.encode() == b'{"odd":' + value + b',"max_tokens":1500}'
    with pytest.raises(ClientFault) as caught:
        envelope.value("odd")
    assert (caught.value.code, caught.value.param) == ("invalid_json", "odd")
    assert caught.value.message == "The value of 'odd' is not valid JSON."


def test_an_absent_field_is_none_and_not_contained():
    envelope = Envelope.parse(b'{"a":null}')
    assert "a" in envelope and envelope.value("a") is None
    assert "b" not in envelope and envelope.value("b") is None


def test_a_twin_is_changed_alone_and_remembers_what_was_changed_before():
    first = Envelope.parse(b'{"provider":"kimi","model":"a"}')
    first.drop("provider")
    twin = first.copy()
    twin.set("model", "b")
    assert first.encode() == b'{"model":"a"}'
    assert twin.encode() == b'{"model":"b"}'
    assert first.changes == {"provider": ("kimi", "")}
    assert twin.changes == {"provider": ("kimi", ""), "model": ("a", "b")}


def test_dropping_what_is_not_there_changes_nothing():
    raw = b'{ "a": 1 }'
    envelope = Envelope.parse(raw)
    envelope.drop("b")
    assert envelope.untouched and envelope.changes == {} and envelope.encode() == raw


def test_a_field_changed_twice_is_told_with_its_first_and_its_last_value():
    envelope = Envelope.parse(b'{"max_tokens":800}')
    envelope.set("max_tokens", 1000)
    envelope.set("max_tokens", 1500)
    envelope.set("model", "a")
    envelope.drop("model")
    assert envelope.changes == {"max_tokens": ("800", "1500"), "model": ("", "")}
    assert envelope.encode() == b'{"max_tokens":1500}'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"800", "800"),
        (b"-1.5e7", "-1.5e7"),
        (b"null", "null"),
        (b"true", "true"),
        (b'"moonshotai/kimi-k2:1t"', "moonshotai/kimi-k2:1t"),
        (b'"' + b"x" * 80 + b'"', "x" * 80),
        (b'"' + b"x" * 81 + b'"', "..."),
        (b"9" * 81, "..."),
        (b'""', "..."),
        (b'"two words"', "..."),
        (b'"a,b=c"', "..."),
        (b'"a\\r\\nEvil: 1"', "..."),
        (b'"\\u0061"', "..."),
        ('"é"'.encode(), "..."),
        (b'"\xff"', "..."),
        (b"[1]", "..."),
        (b"[]", "..."),
        (b'{"a":1}', "..."),
        (b"{}", "..."),
    ],
)
def test_what_was_changed_is_shown_only_if_it_is_short_and_plain(value, shown):
    envelope = Envelope.parse(b'{"a":' + value + b"}")
    envelope.drop("a")
    assert envelope.changes == {"a": (shown, "")}


@UNHURRIED
@given(bodies(), TEXT | st.integers() | st.lists(st.integers(), max_size=2) | st.none())
def test_what_is_shown_never_breaks_a_header(case, value):
    raw, expected = case
    envelope = Envelope.parse(raw)
    for name, _ in expected:
        envelope.set(name, value)
    plain = set(string.ascii_letters + string.digits + "._:/@+-")
    for old, new in envelope.changes.values():
        for text in (old, new):
            assert len(text) <= 80 and set(text) <= plain
            assert not isinstance(value, list) or new == "..."


@pytest.mark.parametrize(
    ("value", "text", "true"),
    [
        (b'"kimi"', True, False),
        (b'""', True, False),
        (b'"\\ud83d"', True, False),
        (b"true", False, True),
        (b" true ", False, True),
        (b"false", False, False),
        (b'"true"', True, False),
        (b"1", False, False),
        (b"null", False, False),
        (b'{"\\ud83d": [true]}', False, False),
    ],
)
def test_what_a_field_holds_is_known_without_decoding_it(value: bytes, text: bool, true: bool) -> None:
    envelope = Envelope.parse(b'{"x":' + value + b"}")

    assert (envelope.holds_text("x"), envelope.is_true("x")) == (text, true)
    assert not envelope.holds_text("y") and not envelope.is_true("y")
