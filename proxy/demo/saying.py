"""What the embedded model says, before it has the shape of any API.

`echo` says what it was told, word by word, and `PONG` to a prompt that asks for it. `reasoner` first
spends its budget on hidden reasoning, as reasoning models do, so that a small ceiling gives an empty
answer. A token is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MODELS = ("echo", "reasoner")
CREATED = 1767225600
"""Seconds since 1970 that every answer gives as its time."""

_REASONING_TOKENS = 1000
_BUDGET = 4096
_REASONING_PIECE = 50
_ASKS_FOR_PONG = re.compile(r"\bpong\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Saying:
    """What will be said, within the budget; `whole` False if that cut it short."""

    model: str
    prompt_tokens: int
    reasoning: list[str]
    words: list[str]
    whole: bool

    @property
    def text(self) -> str:
        """The visible answer."""
        return " ".join(self.words)

    @property
    def tokens(self) -> int:
        """What it cost, reasoning included."""
        return len(self.reasoning) + len(self.words)

    def pieces(self) -> Iterator[str]:
        """The visible answer as a stream gives it."""
        for number, word in enumerate(self.words):
            yield f" {word}" if number else word

    def thoughts(self) -> Iterator[str]:
        """The hidden reasoning as a stream gives it."""
        for start in range(0, len(self.reasoning), _REASONING_PIECE):
            yield " ".join(self.reasoning[start : start + _REASONING_PIECE]) + " "


def said(model: str, prompt: str, budget: object) -> Saying:
    """Answer `prompt`; a `budget` that is no positive number is no limit that anybody meets."""
    tokens = budget if type(budget) is int and budget > 0 else _BUDGET
    words = ["PONG"] if _ASKS_FOR_PONG.search(prompt) else prompt.split() or ["(nothing)"]
    thoughts = [f"step-{n}" for n in range(1, _REASONING_TOKENS + 1)] if model == "reasoner" else []
    reasoning = thoughts[:tokens]
    kept = words[: tokens - len(reasoning)]
    return Saying(model, len(prompt.split()), reasoning, kept, len(kept) == len(words))


def last_text(messages: object) -> str:
    """The text of the last of some messages, in any API's shape; of a plain text, itself."""
    if isinstance(messages, str):
        return messages
    last = messages[-1] if isinstance(messages, list) and messages else {}
    content: Any = last.get("content") if isinstance(last, dict) else ""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
