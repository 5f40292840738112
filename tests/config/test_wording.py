from __future__ import annotations

import pytest

from config.wording import listed, quoted, short

SECRET = "sk-canary-0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "'plain'"),
        ("a\nb\x1b", "'a\\nb\\x1b'"),
        (f"\n{SECRET}", "'\\n[redacted]'"),
        ("Bearer\tcanary-0123456789", "'Bearer\\t[redacted]'"),
        ("Bearer\xa0canary-0123456789", "'Bearer\\xa0[redacted]'"),
        ("x" * 75 + " " + SECRET, f"'{'x' * 75} [red…'"),
        ("x" * 100, f"'{'x' * 80}…'"),
        ("https://me:pw@host/v1", "'https://[redacted]@host/v1'"),
        ("https://me:p/w@rd@host/v1", "'https://[redacted]@host/v1'"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_a_text_is_redacted_then_cut_then_escaped(text, shown):
    assert quoted(text) == shown


def test_what_is_short_stays_as_it_is():
    assert short("5s") == "5s"


def test_a_list_shows_its_first_ten_names():
    assert listed("abc") == "'a', 'b', 'c'"
    assert listed(map(str, range(12))) == "'0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 more"
