"""Durations, sizes and rates: text with a unit in, plain numbers out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

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
