"""Tools that a simulated model calls: every one it is offered, with the user's words for each argument."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CHARACTERS_A_PIECE = 7


@dataclass(frozen=True)
class ToolCall:
    """A call to be: `pieces()` are its arguments as a stream has them, cut without regard to JSON."""

    ident: str
    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False)

    def pieces(self) -> Iterator[str]:
        text = self.text
        for start in range(0, len(text), _CHARACTERS_A_PIECE):
            yield text[start : start + _CHARACTERS_A_PIECE]


def calls_for(body: dict[str, Any], said: str) -> tuple[ToolCall, ...]:
    """A call of each tool in `body`, in whichever of the three APIs' shapes it is offered."""
    return tuple(_call(number, tool, said) for number, tool in enumerate(body.get("tools") or ()))


def _call(number: int, tool: dict[str, Any], said: str) -> ToolCall:
    function = tool.get("function") or tool
    schema = function.get("parameters") or function.get("input_schema") or {}
    return ToolCall(f"call_{number}", function["name"], dict.fromkeys(schema.get("properties") or {}, said))
