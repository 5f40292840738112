"""`params`: edits of a JSON body's top-level fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.problems import Invalid
from middlewares.params import Options, Params
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of, sent


async def edited(raw: bytes, **options: Any) -> bytes:
    exchange = exchange_of(raw)
    await Params(Options(**options), deps_of())(exchange, FakeNext())
    return sent(exchange)


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({"drop": ("temperature", "absent")}, b'{"temperature": 1, "n": 1E0}', b'{"n":1E0}'),
        ({"drop": ("absent",)}, b'{ "n": 1 }', b'{ "n": 1 }'),
        (
            {"rename": {"a": "b"}},
            b'{"x": 1, "a": [1E5, "\\u0041"], "z": 2}',
            b'{"x":1,"b":[1E5, "\\u0041"],"z":2}',
        ),
        ({"rename": {"a": "b"}}, b'{"b": 0, "a": 1}', b'{"b":1}'),
        ({"rename": {"a": "b"}}, b'{ "c": 1 }', b'{ "c": 1 }'),
        ({"rename": {"a": "a"}}, b'{ "a": 1 }', b'{ "a": 1 }'),
        ({"default": {"n": 2, "top_p": 0.5}}, b'{"n": null}', b'{"n":null,"top_p":0.5}'),
        ({"set": {"n": 2}}, b'{"n": 1, "m": 3}', b'{"n":2,"m":3}'),
        ({"set": {"provider": {"order": ["a"], "deep": {"x": None}}}}, b"{}", None),
        (
            {"drop": ("a",), "rename": {"b": "a"}, "default": {"b": 1}, "set": {"c": True}},
            b'{"a":0,"b":9}',
            None,
        ),
    ],
)
async def test_fields_are_edited_and_the_others_keep_their_bytes(
    options: dict[str, Any], before: bytes, after: bytes | None
) -> None:
    got = await edited(before, **options)

    if after is not None:
        assert got == after
    elif "provider" in options["set"]:
        assert json.loads(got) == options["set"]
    else:
        assert json.loads(got) == {"a": 9, "b": 1, "c": True}


async def test_every_edit_is_told() -> None:
    exchange = exchange_of(b'{"a": 1, "b": 2, "c": 3}')
    options = Options(drop=("a",), rename={"b": "d"}, set={"c": 4}, default={"e": "x"})
    await Params(options, deps_of())(exchange, FakeNext())

    assert exchange.changes == {
        "a": ("1", ""),
        "d": ("", "2"),
        "b": ("2", ""),
        "c": ("3", "4"),
        "e": ("", "x"),
    }


async def test_what_is_no_json_body_passes() -> None:
    exchange = exchange_of(None)
    await Params(Options(set={"n": 1}), deps_of())(exchange, FakeNext())

    assert exchange.body is None


@pytest.mark.parametrize("options", [{}, {"drop": ("a",), "rename": {"a": "b"}}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Options(**options)
