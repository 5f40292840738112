"""Globs: what they match, and what others leave to them; held against brute force."""

from __future__ import annotations

import re
from fnmatch import translate
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.globs import LONGEST, Budget, matches, name_left

GLOBS = st.text(alphabet="ab*?", max_size=5)
NAMES = ["".join(letters) for n in range(7) for letters in product("abz", repeat=n)]


@given(GLOBS, st.text(alphabet="ab/", max_size=8))
def test_a_glob_matches_what_the_shells_would(glob: str, name: str) -> None:
    assert matches(glob, name) == (re.fullmatch(translate(glob), name) is not None)


@given(GLOBS, st.lists(GLOBS, max_size=4))
def test_what_is_left_is_the_shortest_name_that_brute_force_finds(glob: str, others: list[str]) -> None:
    def is_left(name: str) -> bool:
        return matches(glob, name) and not any(matches(other, name) for other in others)

    found = name_left(glob, others, Budget())
    by_force = next((name for name in NAMES if is_left(name)), None)

    assert found is None or is_left(found)
    assert by_force is None or (found is not None and len(found) == len(by_force))


@pytest.mark.parametrize(
    ("glob", "others", "left"),
    [
        ("gpt-*", ["*"], None),
        ("*", ["gpt-*"], ""),
        ("*a*", ["a*", "*a"], "bab"),
        ("?", ["a"], "b"),
        ("a*", ["a?*", "a"], None),
        ("*", ["", "?*"], None),
        ("a" * LONGEST + "*", [], "a" * LONGEST),
        ("a" * LONGEST + "?", [], None),
    ],
)
def test_what_is_left(glob: str, others: list[str], left: str | None) -> None:
    found = name_left(glob, others, Budget())

    assert (found is None) == (left is None)
    assert len(found or "") == len(left or "")


def test_a_search_that_would_not_end_is_given_up() -> None:
    """Twenty characters before its end a name has an a: as many states as there are sets of places."""
    with pytest.raises(TimeoutError):
        name_left("*a" + "?" * 20, ["*?"], Budget())
