"""What the operator reads of faults is what is tested: the same rows, in the same words."""

from __future__ import annotations

from middlewares.registry import BUILT_IN
from tests.rescue.rows import ROWS
from tests.support.process import ROOT

PAGE = ROOT / "docs/rescue.md"
HEAD = [
    "| the first rung | `commit: first_event` gives | calls | `commit: complete` gives | calls | counts as |",
    "| --- | --- | --- | --- | --- | --- |",
]


def test_the_documents_table_is_the_tested_one() -> None:
    section = PAGE.read_text().partition("\n## The table\n")[2].partition("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("|")]

    assert shown == [*HEAD, *(row.line for row in ROWS)]


def test_no_row_is_there_twice() -> None:
    names = [row.name for row in ROWS]

    assert len(names) == len(set(names))


def test_the_document_tells_of_everything_that_rescues() -> None:
    text = PAGE.read_text()

    for name in ("retry", "breaker", "stream", "concurrency", "timeout"):
        assert name in BUILT_IN
        assert f"- {name}: {{" in text
