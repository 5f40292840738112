"""The query of a WebSocket's handshake: one model is read and replaced, the rest stays as it came."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.faults import ClientFault
from middlewares.handshake import Handshake

PAIRS = st.from_regex(r"[a-ln-z%20+]{0,6}(=[a-zA-Z0-9%2F+~=]{0,8})?", fullmatch=True)


@given(st.lists(PAIRS, max_size=5), st.integers(0, 5), st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_only_the_value_of_model_is_replaced(pairs: list[str], at: int, old: str, new: str) -> None:
    plain = "".join(f"%{byte:02X}" for byte in old.encode("utf-8", "replace"))
    before, after = pairs[:at], pairs[at:]
    handshake = Handshake.parse("&".join([*before, f"model={plain}", *after]))
    assert handshake.model == old.encode("utf-8", "replace").decode()
    if any("\ud800" <= c <= "\udfff" for c in new):
        return
    handshake.rename(new)

    value = handshake.query.split("&")[len(before)]
    assert handshake.query == "&".join([*before, value, *after])
    assert dict(parse_qsl(value, keep_blank_values=True)) == {"model": new}


@given(st.lists(PAIRS, max_size=5))
def test_a_query_without_a_model_stays_as_it_is(pairs: list[str]) -> None:
    query = "&".join(pairs)
    handshake = Handshake.parse(query)
    handshake.rename("other")

    assert handshake.model is None
    assert handshake.query == query and handshake.changes == {}


@pytest.mark.parametrize(
    "query", ["model=a&model=b", "model=a&x=1;model=b", "mode%6C=a&model=a", "model&model"]
)
def test_two_models_are_refused(query: str) -> None:
    with pytest.raises(ClientFault, match="two models"):
        Handshake.parse(query)


def test_what_was_changed_is_told_from_the_first_name_to_the_last() -> None:
    handshake = Handshake.parse("model=talk")
    handshake.rename("up/gpt")
    twin = handshake.copy()
    twin.rename("gpt")

    assert handshake.changes == {"model": ("talk", "up/gpt")}
    assert twin.changes == {"model": ("talk", "gpt")}
    assert (handshake.query, twin.query) == ("model=up/gpt", "model=gpt")
    assert not twin.stream
