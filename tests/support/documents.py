"""What the documents show in fenced blocks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.process import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r'"""(\w+\.py)"""\n')


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and line, text) of each fenced block, without its indentation."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            if match[2] == language:
                place = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
                lines = match[3].splitlines(keepends=True)
                found.append((place, "".join(line.removeprefix(match[1]) for line in lines)))
    return found


def write_modules(folder: Path) -> None:
    """Every Python module that is shown, those that begin with their file's name, as files."""
    for _, text in blocks("python"):
        if (named := _MODULE.match(text)) is not None:
            (folder / named[1]).write_text(text)
