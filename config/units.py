"""Durations, sizes and rates: text with a unit in, plain numbers out.

Errors are `ValueError`s whose message says what to write instead; they repeat nothing but the
number and the unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from config.wording import short

Duration = Annotated[
    float,
    Meta(
        extra={"reads": "duration"},
        extra_json_schema={
            "type": "string",
            "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h)|.*\$\{.+)$",
            "examples": ["750ms", "10s", "15m", "1h"],
        },
    ),
]
"""Seconds; written `750ms`, `10s`, `15m`, `1h`."""

Size = Annotated[
    int,
    Meta(
        extra={"reads": "size"},
        extra_json_schema={
            "type": "string",
            "pattern": r"^([0-9]+(B|KiB|MiB|GiB)|.*\$\{.+)$",
            "examples": ["64KiB", "64MiB", "2GiB"],
        },
    ),
]
"""Bytes; written `64KiB`, `64MiB`."""


class Rate(Struct, frozen=True):
    """`count` in each `seconds`."""

    count: int
    seconds: float


RateText = Annotated[
    Rate,
    Meta(
        extra={"reads": "rate"},
        extra_json_schema={
            "type": "string",
            "pattern": r"^([0-9]+/(s|min|h|d)|.*\$\{.+)$",
            "examples": ["5/s", "60/min", "1000/h", "200000/d"],
        },
    ),
]
"""So many in a time; written `60/min`."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_QUANTITY = re.compile(r"([+-]?)\s*([0-9]+(?:\.[0-9]+)?)\s*([^\W\d_]*)", re.ASCII)
_RATE = re.compile(r"([0-9]+)/([a-z]+)")
# 2 to the 53 and a bit: whatever is larger is a slip, and would not survive JSON either.
_MAX_DIGITS = 16

_DURATION_SLIPS = {
    "ms": ("msec", "msecs", "millisecond", "milliseconds", "millis"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
}
_SIZE_SLIPS = {
    "B": ("b", "byte", "bytes"),
    "KiB": ("k", "kb", "kib"),
    "MiB": ("m", "mb", "mib"),
    "GiB": ("g", "gb", "gib"),
}
_PERIOD_SLIPS = {
    "s": ("sec", "secs", "second", "seconds"),
    "min": ("m", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}


def parse_duration(text: str) -> float:
    """Seconds from `750ms`, `1.5s`, `15m`, `1h`; finite and not negative."""
    number, unit = _quantity(text, "a duration is a number and ms, s, m or h, such as 10s", "s")
    if unit not in _SECONDS or f"{number}{unit}" != text:
        if unit.lower() in {"d", "day", "days"} and number.isdigit() and len(number) <= _MAX_DIGITS:
            raise ValueError(f"there is no unit for days: write {int(number) * 24}h")
        raise ValueError(_respelt(number, unit, _SECONDS, _DURATION_SLIPS, "ms, s, m or h"))
    seconds = float(number) * _SECONDS[unit]
    if not math.isfinite(seconds):
        raise ValueError("the duration is too long")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from `512B`, `64KiB`, `64MiB`, `2GiB`."""
    number, unit = _quantity(text, "a size is a number and B, KiB, MiB or GiB, such as 64MiB", "MiB")
    if unit not in _BYTES or f"{number}{unit}" != text:
        raise ValueError(_respelt(number, unit, _BYTES, _SIZE_SLIPS, "B, KiB, MiB or GiB"))
    if "." in number:
        raise ValueError(f"a size is a whole number: write {_smaller(float(number) * _BYTES[unit])}")
    if len(number.lstrip("0")) > _MAX_DIGITS:
        raise ValueError("the size is too large")
    if not int(number):
        raise ValueError("a size is at least 1B: leave it out to have none of your own")
    return int(number) * _BYTES[unit]


def written_duration(seconds: float) -> str:
    """A duration as a table has it, in its largest whole unit of minutes and below."""
    if seconds and seconds % 60 == 0:
        return f"{seconds / 60:g}m"
    return f"{seconds:g}s" if seconds == int(seconds) else f"{seconds * 1000:g}ms"


def written_size(size: int) -> str:
    """A size as a table has it, in its largest whole unit."""
    return _smaller(size)


def parse_rate(text: str) -> Rate:
    """A rate from `5/s`, `60/min`, `1000/h`, `200000/d`; the number is positive and whole."""
    match = _RATE.fullmatch(text)
    if match is None:
        if _digits(text):
            raise ValueError(f"a bare number has no period: write {short(text)}/min")
        raise ValueError("a rate is a whole number, a slash and s, min, h or d, such as 60/min")
    number, period = match.groups()
    if period not in _PERIODS:
        raise ValueError(_respelt(f"{number}/", period, _PERIODS, _PERIOD_SLIPS, "s, min, h or d"))
    if len(number.lstrip("0")) > _MAX_DIGITS:
        raise ValueError("the rate is too large")
    if not int(number):
        raise ValueError("a rate is at least 1: leave the limit out to have none")
    return Rate(int(number), _PERIODS[period])


def written_rate(rate: Rate, times: int = 1) -> str:
    """A rate as a table has it, so many times."""
    period = next(name for name, seconds in _PERIODS.items() if seconds == rate.seconds)
    return f"{rate.count * times}/{period}"


def _quantity(text: str, teaching: str, unit: str) -> tuple[str, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(teaching)
    if match[1] == "-":
        raise ValueError(f"it cannot be negative: {teaching}")
    if match[1]:
        raise ValueError(f"it takes no sign: {teaching}")
    if not match[3]:
        raise ValueError(f"a bare number has no unit: write {short(match[2])}{unit}")
    return match[2], match[3]


def _respelt(
    number: str,
    unit: str,
    known: Collection[str],
    slips: Mapping[str, tuple[str, ...]],
    all_units: str,
) -> str:
    """What to write for a unit that is unknown, or that is set apart from its number."""
    number, unit = short(number), short(unit)
    if unit in known:
        return f"number and unit stand together: write {number}{unit}"
    for right, wrong in slips.items():
        if unit.lower() in wrong or unit.lower() == right.lower():
            return f"there is no unit {unit}: write {number}{right}"
    return f"there is no unit {unit}: use {all_units}"


def _smaller(size: float) -> str:
    for unit, factor in reversed(_BYTES.items()):
        if size % factor == 0:
            return f"{int(size / factor)}{unit}"
    return f"{int(size)}B"


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
