from __future__ import annotations

import contextlib
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.units import Rate, parse_duration, parse_rate, parse_size, written_duration, written_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("750ms", 0.75),
        ("10s", 10.0),
        ("1.5s", 1.5),
        ("15m", 900.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        ("007s", 7.0),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "a bare number has no unit: write 10s"),
        ("1.5", "a bare number has no unit: write 1.5s"),
        ("10 s", "number and unit stand together: write 10s"),
        ("10S", "there is no unit S: write 10s"),
        ("5min", "there is no unit min: write 5m"),
        ("2d", "there is no unit for days: write 48h"),
        ("3w", "there is no unit w: use ms, s, m or h"),
        ("-1s", "it cannot be negative: a duration is a number and ms, s, m or h, such as 10s"),
        ("+1s", "it takes no sign: a duration is a number and ms, s, m or h, such as 10s"),
        ("1e3s", "a duration is a number and ms, s, m or h, such as 10s"),
        ("infs", "a duration is a number and ms, s, m or h, such as 10s"),
        ("", "a duration is a number and ms, s, m or h, such as 10s"),
        ("٣s", "a duration is a number and ms, s, m or h, such as 10s"),
        ("1s\n", "a duration is a number and ms, s, m or h, such as 10s"),
        ("9" * 400 + "s", "the duration is too long"),
    ],
)
def test_a_wrong_duration_tells_what_to_write(text, message):
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [("512B", 512), ("64KiB", 65536), ("64MiB", 64 * 1024**2), ("2GiB", 2 * 1024**3)],
)
def test_a_size_is_read_in_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64", "a bare number has no unit: write 64MiB"),
        ("64MB", "there is no unit MB: write 64MiB"),
        ("64k", "there is no unit k: write 64KiB"),
        ("64gib", "there is no unit gib: write 64GiB"),
        ("64TiB", "there is no unit TiB: use B, KiB, MiB or GiB"),
        ("64 KiB", "number and unit stand together: write 64KiB"),
        ("1.5MiB", "a size is a whole number: write 1536KiB"),
        ("-1B", "it cannot be negative: a size is a number and B, KiB, MiB or GiB, such as 64MiB"),
        ("big", "a size is a number and B, KiB, MiB or GiB, such as 64MiB"),
        ("9" * 5000 + "B", "the size is too large"),
    ],
)
def test_a_wrong_size_tells_what_to_write(text, message):
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/s", Rate(5, 1.0)),
        ("60/min", Rate(60, 60.0)),
        ("7/h", Rate(7, 3600.0)),
        ("200000/d", Rate(200000, 86400.0)),
    ],
)
def test_a_rate_is_so_many_in_a_time(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60", "a bare number has no period: write 60/min"),
        ("60/m", "there is no unit m: write 60/min"),
        ("60/minute", "there is no unit minute: write 60/min"),
        ("60/week", "there is no unit week: use s, min, h or d"),
        ("0/s", "a rate is at least 1: leave the limit out to have none"),
        ("-1/s", "a rate is a whole number, a slash and s, min, h or d, such as 60/min"),
        ("1.5/s", "a rate is a whole number, a slash and s, min, h or d, such as 60/min"),
        ("9" * 5000 + "/s", "the rate is too large"),
    ],
)
def test_a_wrong_rate_tells_what_to_write(text, message):
    with pytest.raises(ValueError) as caught:
        parse_rate(text)
    assert str(caught.value) == message


@given(
    st.decimals(0, 10**9, places=3, allow_nan=False).map(lambda number: f"{number:f}"),
    st.sampled_from(
        [("ms", Fraction(1, 1000)), ("s", Fraction(1)), ("m", Fraction(60)), ("h", Fraction(3600))]
    ),
)
def test_every_number_with_a_unit_is_that_many_seconds(number, unit):
    name, factor = unit
    assert math.isclose(parse_duration(number + name), Fraction(number) * factor, rel_tol=1e-12)


@given(st.text(max_size=12), st.sampled_from([parse_duration, parse_size, parse_rate]))
def test_any_text_is_read_or_told(text, parse):
    with contextlib.suppress(ValueError):
        assert parse(text) is not None


@given(st.integers(0, 10**15))
def test_a_bare_number_is_never_a_quantity(number):
    for parse in (parse_duration, parse_size, parse_rate):
        with pytest.raises(ValueError, match="bare number"):
            parse(str(number))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (75.0, "75s"), (900.0, "15m"), (3600.0, "60m"), (0.75, "750ms"), (1.5, "1500ms")],
)
def test_a_duration_is_written_as_it_is_read(seconds, text):
    assert written_duration(seconds) == text
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("size", "text"), [(64 * 1024**2, "64MiB"), (2 * 1024**3, "2GiB"), (1000, "1000B")])
def test_a_size_is_written_as_it_is_read(size, text):
    assert written_size(size) == text
    assert parse_size(text) == size


def test_a_size_of_nothing_is_told():
    with pytest.raises(ValueError, match="a size is at least 1B"):
        parse_size("0B")
