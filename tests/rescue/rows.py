"""The table: what goes wrong, and what the caller gets under each of two commits.

`docs/rescue.md` shows the same rows in the same words, which a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.rescue import faults
from tests.rescue.caller import Shown
from tests.rescue.counted import COUNTED, words
from tests.rescue.faults import refusal
from tests.rescue.rungs import TOKENS, well
from tests.support.upstream import Behaviour, reset_before_head, silent

Rung = Literal["a", "b", "c"]
Calls = tuple[int, int, int]
_NTH = {"a": "first", "b": "second", "c": "third"}


@dataclass(frozen=True)
class Answer:
    """The whole answer of `rung`; `body` where it is not its usual one."""

    rung: Rung
    calls: Calls
    body: bytes | None = None

    @property
    def words(self) -> str:
        as_it_is = ", as it is" if self.body is not None else ""
        return f"the {_NTH[self.rung]} rung's answer{as_it_is}"


@dataclass(frozen=True)
class Error:
    """An error with its status; `rung` is the one that told it."""

    status: int
    code: str
    rung: Rung
    calls: Calls

    @property
    def words(self) -> str:
        return f"{self.status} `{self.code}`, the {_NTH[self.rung]} rung's"


@dataclass(frozen=True)
class Cut:
    """A part of the first rung's answer, `told` by an error event or not at all; never its proper end."""

    told: str | None
    calls: Calls
    tokens: int = 0
    rung: Rung = "a"

    @property
    def words(self) -> str:
        part = f"{self.tokens} tokens" if self.tokens else "what there was"
        event = f", then the error event `{self.told}`" if self.told is not None else ""
        return f"{part}{event}; the connection closed before the answer's end"


Result = Answer | Error | Cut
How = Callable[[Shown], Mapping[Rung, Sequence[Behaviour]]]


@dataclass(frozen=True)
class Row:
    """`how` the rungs behave that are not well, and what comes of it.

    `clocks` are those that run out on the way, `asked_s` is what a provider asked to be left alone for.
    `warm`: a connection to the first rung is kept from an earlier exchange.
    """

    name: str
    how: How
    first_event: Result
    complete: Result
    clocks: tuple[str, ...] = ()
    asked_s: float = 0.0
    stream: bool = True
    warm: bool = False

    def result(self, commit: str) -> Result:
        return self.complete if commit == "complete" else self.first_event

    @property
    def line(self) -> str:
        """The row as the documentation has it."""
        cells = [self.name]
        for result in (self.first_event, self.complete):
            cells += [result.words, ", ".join(map(str, result.calls))]
        cells.append(words(COUNTED[self.name]))
        return "| " + " | ".join(cells) + " |"


def first(*behaviours: Behaviour) -> How:
    """The first rung does one after the other, and the last of them for ever."""
    return lambda _shown: {"a": behaviours}


def breaks(fault: Callable[[Shown], Behaviour]) -> How:
    """The first rung breaks off every time."""
    return lambda shown: {"a": (fault(shown),)}


def both(row: str, how: How, result: Result, **more: object) -> Row:
    """The commit makes no difference to it."""
    return Row(row, how, result, result, **more)  # type: ignore[arg-type]


BUSY = refusal(429, "rate_limit_exceeded")
DOWN = refusal(503, "overloaded")
TOO_LONG = refusal(400, "context_length_exceeded")
POLICY = refusal(400, "content_policy_violation")
BAD = refusal(400, "unsupported_parameter")
_AGAIN: Calls = (2, 0, 0)
_NEXT: Calls = (3, 1, 0)
_AT_ONCE: Calls = (1, 1, 0)

ROWS = [
    both(
        "429 with `Retry-After: 1`, once",
        first(refusal(429, "rate_limit_exceeded", wait="1"), well("a")),
        Answer("a", _AGAIN),
        asked_s=1.0,
    ),
    both(
        "429 with a `Retry-After` above `backoff.max`",
        first(refusal(429, "rate_limit_exceeded", wait="5")),
        Answer("b", _AT_ONCE),
    ),
    both("429 for ever", first(BUSY), Answer("b", _NEXT)),
    both("500 once", first(refusal(500, "server_error"), well("a")), Answer("a", _AGAIN)),
    both("503 for ever", first(DOWN), Answer("b", _NEXT)),
    both("a reset before the head", first(reset_before_head(), well("a")), Answer("a", _AGAIN)),
    both("a reset before the head, for ever", first(reset_before_head()), Answer("b", _NEXT)),
    both(
        "a kept connection that turns out to be dead",
        first(reset_before_head(), well("a")),
        Answer("a", _AGAIN),
        warm=True,
    ),
    both(
        "the request accepted, and silence",
        first(silent()),
        Answer("b", _AT_ONCE),
        clocks=("first_byte",),
    ),
    both(
        "the head at once, the first token too late",
        first(faults.late("a", 0)),
        Answer("b", _AT_ONCE),
        clocks=("first_token",),
    ),
    Row(
        "an empty opening event at once, the first token too late",
        first(faults.late("a", 1)),
        Cut("timeout_first_token", (1, 0, 0)),
        Answer("b", _AT_ONCE),
        clocks=("first_token",),
    ),
    Row(
        "a stream cut after 40 of 60 tokens",
        breaks(lambda shown: faults.cut("a", 40, shown)),
        Cut("upstream_cut", (1, 0, 0), tokens=40),
        Answer("b", _NEXT),
    ),
    Row(
        "a stream cut inside an event",
        breaks(lambda shown: faults.cut("a", 40, shown, and_half=True)),
        Cut(None, (1, 0, 0), tokens=40),
        Answer("b", _NEXT),
    ),
    Row(
        "a stream cut after it told its usage",
        breaks(lambda shown: faults.cut_after_usage("a", 40, shown)),
        Cut("upstream_cut", (1, 0, 0), tokens=40),
        Answer("b", _NEXT),
    ),
    Row(
        "a stream stalled after 20 of 60 tokens",
        first(faults.stalled("a", 20)),
        Cut("timeout_idle", (1, 0, 0), tokens=20),
        Answer("b", _AT_ONCE),
        clocks=("idle",),
    ),
    both(
        "one event of invalid JSON in a good stream",
        first(faults.says(faults.MANGLED)),
        Answer("a", (1, 0, 0), body=faults.MANGLED),
    ),
    both(
        "no `[DONE]` after a `finish_reason`",
        first(faults.says(faults.NO_DONE)),
        Answer("a", (1, 0, 0), body=faults.NO_DONE),
    ),
    Row(
        "neither `[DONE]` nor a `finish_reason`",
        breaks(lambda shown: faults.ends_early("a", shown)),
        Cut("upstream_cut", (1, 0, 0), tokens=TOKENS),
        Answer("b", _NEXT),
    ),
    Row(
        "`[DONE]`, but no terminating chunk",
        breaks(lambda shown: faults.unterminated("a", shown)),
        Cut("upstream_cut", (1, 0, 0), tokens=TOKENS),
        Answer("b", _NEXT),
    ),
    Row(
        "a plain answer cut halfway",
        breaks(lambda shown: faults.cut_plain("a", shown)),
        Cut(None, (1, 0, 0)),
        Answer("b", _NEXT),
        stream=False,
    ),
    both("an error as the first event of a 200", first(faults.opens_with(503)), Answer("b", _NEXT)),
    both("context length exceeded", first(TOO_LONG), Answer("b", _AT_ONCE)),
    both(
        "context length exceeded as the first event of a 200",
        first(faults.opens_with("context_length_exceeded")),
        Answer("b", _AT_ONCE),
    ),
    both(
        "`model_not_found` inside a 502",
        first(refusal(502, "model_not_found")),
        Answer("b", _AT_ONCE),
    ),
    both(
        "context length exceeded on every rung",
        lambda _shown: dict.fromkeys(("a", "b", "c"), (TOO_LONG,)),
        Error(400, "context_length_exceeded", "a", (1, 1, 1)),
    ),
    both("a content policy refusal", first(POLICY), Error(400, "content_policy_violation", "a", (1, 0, 0))),
    both(
        "a content policy refusal as the first event of a 200",
        first(faults.opens_with("content_policy_violation")),
        Error(502, "content_policy_violation", "a", (1, 0, 0)),
    ),
    both(
        "a content policy refusal inside a 500",
        first(refusal(500, "content_policy_violation")),
        Error(500, "content_policy_violation", "a", (1, 0, 0)),
    ),
    both(
        "503 for ever, and the second rung refuses the request",
        lambda _shown: {"a": (DOWN,), "b": (BAD,)},
        Error(400, "unsupported_parameter", "b", _NEXT),
    ),
    Row(
        "a stream cut after 40 of 60 tokens, and the second rung refuses the request",
        lambda shown: {"a": (faults.cut("a", 40, shown),), "b": (BAD,)},
        Cut("upstream_cut", (1, 0, 0), tokens=40),
        Error(400, "unsupported_parameter", "b", _NEXT),
    ),
    both(
        "503 for ever, the second rung resets",
        lambda _shown: {"a": (DOWN,), "b": (reset_before_head(),)},
        Answer("c", (3, 2, 1)),
    ),
    both(
        "every rung fails: 503, resets, silence",
        lambda _shown: {"a": (DOWN,), "b": (reset_before_head(),), "c": (silent(),)},
        Error(503, "overloaded", "a", (3, 2, 1)),
        clocks=("first_byte",),
    ),
]
