from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from middlewares import sse
from middlewares.sse import Event, Scanner
from tests.middlewares.fakes import UNHURRIED

BOM = b"\xef\xbb\xbf"
LINES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"",
            b"",
            b"data: a",
            b"data:a",
            b"data:",
            b"data",
            b"data:  two",
            b"data: b: c",
            b"data: [DONE]",
            b": ping",
            b":",
            b"event: error",
            b"event:x",
            b"event",
            b"id: 1",
            b"retry: 10",
            b"unknown: x",
            b" data: a",
            b"Data: a",
            b"datum: a",
            b": data: a",
            BOM + b"data: a",
            BOM,
            b'data: {"a":"\xe2\x80\xa8"}',
            b"data: \x0b\x0c\x1c\x1d\x1e\xc2\x85",
            b"data: \x00",
        ]
    ),
    st.binary(max_size=8).map(lambda line: re.sub(rb"[\r\n]", b"", line)),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
    lines = draw(st.lists(st.tuples(LINES, ends).map(b"".join), max_size=12))
    return (
        draw(st.sampled_from([b"", BOM]))
        + b"".join(lines)
        + draw(st.sampled_from([b"", b"data: tail", b"d"]))
    )


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces, some of them empty."""
    stream = draw(streams())
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def lines_of(stream: bytes) -> list[bytes]:
    """The lines, the last of them without an end and maybe empty."""
    return re.split(rb"\r\n|\r|\n", stream.removeprefix(BOM))


def reference(stream: bytes) -> list[Event]:
    """The standard's rules, written down as they stand there."""
    events: list[Event] = []
    name, data = b"", b""
    for line in lines_of(stream)[:-1]:
        if line == b"":
            if data:
                events.append(Event(name, data[:-1]))
            name, data = b"", b""
        elif b":" not in line:
            data += b"\n" if line == b"data" else b""
            name = b"" if line == b"event" else name
        elif not line.startswith(b":"):
            field, value = line.split(b":", 1)
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                data += value + b"\n"
            elif field == b"event":
                name = value
    return events


def between(stream: bytes) -> bool:
    """Whether nothing but whole comments has come since the last empty line."""
    *whole, rest = lines_of(stream)
    since = whole[max((i + 1 for i, line in enumerate(whole) if not line), default=0) :]
    # A lone byte order mark, whole or in part, is the beginning of a line.
    return not rest and stream != BOM and all(line.startswith(b":") for line in since)


def scanned(pieces: list[bytes]) -> list[Event]:
    scanner = Scanner()
    return [event for piece in pieces for event in scanner.feed(piece)]


@UNHURRIED
@given(chunked())
@example([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"])
@example([b"data: a\r", b"", b"\n\n"])
@example([b"data: a\r", b"", b"\ndata: b\n\n"])
@example([BOM[:1], BOM[1:], b"data: a\n\n"])
@example([BOM + BOM + b"data: a\n\n"])
@example([b"\n", BOM + b"data: a\n\n"])
def test_any_chunking_gives_the_events_of_the_standard(pieces):
    stream = b"".join(pieces)
    expected = reference(stream)
    assert scanned(pieces) == expected
    assert scanned([stream]) == expected
    assert scanned([stream[i : i + 1] for i in range(len(stream))]) == expected


@UNHURRIED
@given(chunked())
@example([b": ping\n"])
@example([b"data: a\r", b"\n"])
@example([b"data: a\n\r"])
@example([BOM])
@example([BOM[:2]])
def test_between_events_is_known_after_every_piece(pieces):
    scanner = Scanner()
    assert scanner.between_events
    stream = b""
    for piece in pieces:
        scanner.feed(piece)
        stream += piece
        assert scanner.between_events == between(stream), stream


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", True),
        (b"data: a\r\r", True),
        (b"data: a\r\n\r\n", True),
        (b"data: a\n\n: ping\n", True),
        (b"data: a\n\n: ping\n\n", True),
        (b"data: a\n\n\n", True),
        (b"data: a\n\n:", False),
        (b"data: a\n", False),
        (b"data: a", False),
        (b"data: a\n: ping\n", False),
        (b"event: x\n", False),
        (b"id: 1\n", False),
        (b"d", False),
        (b"", True),
        (b"\n", True),
    ],
)
def test_an_event_may_be_added_only_between_two(stream, expected):
    scanner = Scanner()
    scanner.feed(stream)
    assert scanner.between_events is expected


def test_an_event_comes_out_with_the_piece_that_ends_it():
    scanner = Scanner()
    assert scanner.feed(b"event: x\ndata: a\n") == []
    assert scanner.feed(b"data: b\r") == []
    assert scanner.feed(b"\n") == []
    assert scanner.feed(b"\r") == [Event(b"x", b"a\nb")]
    assert scanner.feed(b"\ndata: c\n\ndata: d\n\ndata: e") == [Event(b"", b"c"), Event(b"", b"d")]
    assert scanner.feed(b"") == []


def test_a_block_without_data_is_no_event_and_its_name_is_forgotten():
    assert scanned([b"event: error\n\ndata: a\n\nid: 1\nretry: 5\n\n: c\n\n"]) == [Event(b"", b"a")]


@pytest.fixture
def small(monkeypatch):
    """Events are read up to 64 bytes."""
    monkeypatch.setattr(sse, "READ_AT_MOST", 64)


def held(scanner: Scanner) -> int:
    return sum(map(len, scanner._line)) + sum(map(len, scanner._data)) + len(scanner._name)


OVERSIZE = [
    b"data: " + b"x" * 65 + b"\n\n",
    b"data: " + b"x" * 6500 + b"\r\n\r\n",
    b"event: big\ndata: " + b"x" * 6500 + b"\n\n",
    b"data: a\ndata: " + b"x" * 6500 + b"\ndata: b\n\n",
    b"data: ten bytes!\n" * 500 + b"\n",
    b"data:" + b"x" * 6500 + b"\r\r",
]


@pytest.mark.parametrize("stream", OVERSIZE)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 100_000])
def test_an_event_that_is_too_large_is_counted_and_not_read(small, stream, size):
    scanner = Scanner()
    events: list[Event] = []
    whole = b": c\n\n" + stream + b"event: n\ndata: next\n\n"
    for start in range(0, len(whole), size):
        events += scanner.feed(whole[start : start + size])
        assert held(scanner) <= 4 * 64 + size
    name = b"big" if b"event: big" in stream else b""
    assert events == [Event(name, None), Event(b"n", b"next")]
    assert scanner.between_events


@pytest.mark.parametrize("size", [1, 7, 50])
def test_an_endless_line_is_not_kept(small, size):
    scanner = Scanner()
    for _ in range(1000):
        assert scanner.feed(b"x" * size) == []
        assert held(scanner) <= 4 * 64 + size
        assert not scanner.between_events


def test_an_endless_event_is_not_kept(small):
    scanner = Scanner()
    for _ in range(1000):
        assert scanner.feed(b"data: some more\n") == []
        assert held(scanner) <= 4 * 64


def test_an_event_just_within_the_limit_is_read(small):
    assert scanned([b"data:" + b"x" * 64 + b"\n\n"]) == [Event(b"", b"x" * 64)]


def assert_chunking_tells_nothing(stream: bytes, expected: list[Event]) -> None:
    assert scanned([stream]) == expected
    for size in (1, 30):
        assert scanned([stream[i : i + size] for i in range(0, len(stream), size)]) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: " + b"x" * 40 + b"\n\n", [Event(b"", b"x" * 40)]),
        (b": " + b"c" * 40 + b"\n: " + b"c" * 40 + b"\ndata: a\n\n", [Event(b"", b"a")]),
    ],
)
def test_near_the_limit_too_any_chunking_gives_the_same_events(small, stream, expected):
    assert_chunking_tells_nothing(stream, expected)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n: " + b"c" * 80 + b"\n\n", [Event(b"", b"a")]),
        (b"data: a\nid: " + b"i" * 80 + b"\n\n", [Event(b"", b"a")]),
        (b": " + b"c" * 80 + b"\ndata: a\n\n", [Event(b"", b"a")]),
    ],
)
def test_a_long_line_that_is_no_data_makes_no_event_too_large(small, stream, expected):
    assert_chunking_tells_nothing(stream, expected)
