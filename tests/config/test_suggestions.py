from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.suggestions import distance, hint, is_near_miss, near_names, nearest

SHORT = st.text(alphabet="abAB-", max_size=7)


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [
        ("", "", 0),
        ("a", "", 1),
        ("kimi", "kimi", 0),
        ("kimi", "kmii", 1),
        ("kimi", "kim", 1),
        ("abc", "xyz", 3),
        ("ca", "abc", 3),
    ],
)
def test_the_distance_counts_edits_and_swaps(left, right, edits):
    assert distance(left, right) == edits


@given(SHORT, SHORT)
def test_the_distance_is_symmetric_and_zero_for_equals_only(left, right):
    assert distance(left, right) == distance(right, left)
    assert (distance(left, right) == 0) == (left == right)
    assert abs(len(left) - len(right)) <= distance(left, right) <= max(len(left), len(right))


def test_the_nearest_name_is_found():
    names = ["openrouter", "ollama", "kimi"]
    assert nearest("openruoter", names) == "openrouter"
    assert nearest("KIMI", names) == "kimi"
    assert nearest("gpt-4o", names) is None
    assert nearest("kimi", ["kimi"]) is None
    assert nearest("", names) is None
    assert nearest("b", ["a", "c"]) is None
    assert nearest("k" * 100_000, ["k" * 99_999]) is None


def test_near_names_come_nearest_first_and_not_too_many():
    names = ["timeouts", "timeout", "timeot", "other"]
    assert near_names("timeou", names) == ["timeot", "timeout", "timeouts"]
    assert near_names("timeou", names, 1) == ["timeot"]


def test_a_hint_is_the_tail_of_a_message():
    assert hint("workrs", ["workers"]) == ", did you mean 'workers'?"
    assert hint("zzz", ["workers"]) == ""


@pytest.mark.parametrize(
    ("name", "routes", "near"),
    [
        ("Kimi", ["kimi"], True),
        ("AI", ["ai"], True),
        ("kmii", ["kimi"], True),
        ("kimmi", ["openrouter", "kimi"], True),
        ("kimi", ["kimi"], False),
        ("ami", ["kimi"], False),
        ("ai", ["xi"], False),
        ("kiim1", ["kimi"], False),
        ("openai", ["kimi"], False),
    ],
)
def test_a_near_miss_is_another_case_or_one_edit(name, routes, near):
    assert is_near_miss(name, routes) is near


@given(SHORT, st.lists(SHORT, max_size=5))
def test_what_is_suggested_is_one_of_the_candidates(name, names):
    found = near_names(name, names)
    assert set(found) <= set(names) - {name}
    assert len(found) <= 3
