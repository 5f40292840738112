"""The lines of the README's table of clients: what a client needs set, and what it is to ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from tests.support.process import ROOT, Tidegate

ADDRESS = "http://127.0.0.1:8080"
MODEL = re.compile(r"(?:demo/echo|kimi/kimi-for-coding)")
_SECTION = (ROOT / "README.md").read_text().partition("\n## Clients\n")[2].partition("\n## ")[0]
_EXPORTED = dict(re.findall(r"^export (\w+)=(\S+)$", _SECTION, re.MULTILINE))


@dataclass(frozen=True)
class Row:
    """`settings` is the client's environment, `ask` the piece of code or the command that is shown."""

    settings: dict[str, str]
    ask: str

    @classmethod
    def of(cls, cells: list[str]) -> Self:
        named = re.findall(r"`([A-Z_]+)(?:=([^`]+))?`", cells[1])
        return cls({name: value or _EXPORTED[name] for name, value in named}, _code(cells[2]))

    def environment(self, gate: Tidegate) -> dict[str, str]:
        return {name: value.replace(ADDRESS, gate.base_url) for name, value in self.settings.items()}

    def model(self, instead: str | None = None) -> str:
        """The model as this client spells it: the one shown, or another in its place."""
        (shown,) = re.findall(rf"(?:openai/)?{MODEL.pattern}", self.ask)
        return shown if instead is None else MODEL.sub(instead, shown)

    def command(self, gate: Tidegate, instead: str | None = None) -> str:
        shown = self.ask.replace(ADDRESS, gate.base_url)
        return shown if instead is None else MODEL.sub(instead, shown)


def _code(cell: str) -> str:
    return str(re.findall(r"`([^`]+)`", cell)[0])


def _rows() -> dict[str, Row]:
    table = _SECTION.partition("| client | ")[2].partition("\n\n")[0]
    lines = re.findall(r"^\| (.+) \|$", table, re.MULTILINE)
    cells = [line.split(" | ") for line in lines if not line.startswith("---")]
    return {re.sub(r"[`\[\]]|\(http[^)]*\)", "", row[0]): Row.of(row) for row in cells}


ROWS = _rows()
"""By the client's name as the table has it, without its markup."""
