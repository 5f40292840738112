"""docs/check.md: every code is in its table, and its twenty mistakes are told as it shows."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.scalars import NOTATIONS
from tests.support.process import ROOT

PAGE = (ROOT / "docs/check.md").read_text()
ROW = re.compile(r"^\| `([\w-]+)` \| (error|warning) \|", re.MULTILINE)

# Who reports a problem: the argument that is its code, and its level or the argument that is that.
REPORTERS: dict[str, tuple[int, str | int]] = {
    "error": (1, "error"),
    "error_at": (1, "error"),
    "error_at_key": (1, "error"),
    "fail": (1, "error"),
    "_stop": (2, "error"),
    "warn_at": (1, "warning"),
    "warn_at_key": (1, "warning"),
    "add": (2, 1),
    "Finding": (1, 0),
}
# Where a code is only handed on, and where it is the name of a notation.
HANDED_ON = {
    ("report.py", "code"),
    ("decoding.py", "code"),
    ("document.py", "code"),
    ("lint.py", "finding.code"),
}
BY_NOTATION = {("decoding.py", "notation")}


def reported() -> Iterator[tuple[str, str]]:
    """Code and level of every problem that the source can report."""
    for file in [*(ROOT / "config").glob("*.py"), *(ROOT / "middlewares").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at, level = REPORTERS.get(name, (99, ""))
            if len(node.args) <= at:
                continue
            code, place = node.args[at], (file.name, ast.unparse(node.args[at]))
            if place in BY_NOTATION:
                yield from ((notation, "error") for notation in NOTATIONS)
            elif place not in HANDED_ON:
                said = node.args[level] if isinstance(level, int) else ast.Constant(level)
                assert isinstance(code, ast.Constant) and isinstance(said, ast.Constant), (file, node.lineno)
                yield str(code.value), str(said.value)


def test_the_table_of_codes_has_those_that_the_source_can_report_and_no_others() -> None:
    documented = ROW.findall(PAGE)
    found = set(reported())

    assert len(found) > 70
    assert set(documented) == found
    assert documented == sorted(documented)


MISTAKES = re.findall(
    r"^### (\d+)\. ([^\n]+)\n\n```yaml\n(.*?)```\n\n```console\n\$ tidegate (check[^\n]*)\n(.*?)```$",
    PAGE,
    re.MULTILINE | re.DOTALL,
)


def test_there_are_twenty_mistakes() -> None:
    assert [int(number) for number, *_ in MISTAKES] == list(range(1, 21))
    assert PAGE.partition("## Twenty mistakes")[2].count("\n### ") == 20


@pytest.mark.parametrize(
    ("table", "command", "output"), [m[2:] for m in MISTAKES], ids=[title for _, title, *_ in MISTAKES]
)
def test_a_mistake_is_told_as_the_document_shows(
    table: str, command: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / "routes.yaml").write_text(table)
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *command.split()],
        cwd=tmp_path,
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.stdout == output
    assert done.stderr == ""
    assert done.returncode == (1 if ": error: " in output else 0)
    assert re.search(r"^routes\.yaml:\d+:\d+: (error|warning): ", output)
