"""What each row of the table counts as in `tidegate_attempts_total`: the same for both commits.

By rung, the result of each call; the last one stands for all that follow. A rung that is not named answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.rescue.rungs import RUNGS

Results = dict[str, Sequence[str]]

_CUT: Results = {"a": ("upstream_cut",)}
_DOWN: Results = {"a": ("503",)}
_TOO_LONG: Results = {"a": ("400",)}
COUNTED: Mapping[str, Results] = {
    "429 with `Retry-After: 1`, once": {"a": ("429", "ok")},
    "429 with a `Retry-After` above `backoff.max`": {"a": ("429",)},
    "429 for ever": {"a": ("429",)},
    "500 once": {"a": ("500", "ok")},
    "503 for ever": _DOWN,
    "a reset before the head": {"a": ("upstream_reset", "ok")},
    "a reset before the head, for ever": {"a": ("upstream_reset",)},
    "a kept connection that turns out to be dead": {"a": ("ok",)},
    "the request accepted, and silence": {"a": ("timeout_first_byte",)},
    "the head at once, the first token too late": {"a": ("timeout_first_token",)},
    "an empty opening event at once, the first token too late": {"a": ("timeout_first_token",)},
    "a stream cut after 40 of 60 tokens": _CUT,
    "a stream cut inside an event": _CUT,
    "a stream cut after it told its usage": _CUT,
    "a stream stalled after 20 of 60 tokens": {"a": ("timeout_idle",)},
    "one event of invalid JSON in a good stream": {"a": ("ok",)},
    "no `[DONE]` after a `finish_reason`": {"a": ("ok",)},
    "neither `[DONE]` nor a `finish_reason`": _CUT,
    "`[DONE]`, but no terminating chunk": _CUT,
    "a plain answer cut halfway": _CUT,
    "an error as the first event of a 200": _DOWN,
    "context length exceeded": _TOO_LONG,
    "context length exceeded as the first event of a 200": {"a": ("502",)},
    "`model_not_found` inside a 502": {"a": ("502",)},
    "context length exceeded on every rung": dict.fromkeys(RUNGS, ("400",)),
    "a content policy refusal": {"a": ("400",)},
    "a content policy refusal as the first event of a 200": {"a": ("502",)},
    "a content policy refusal inside a 500": {"a": ("500",)},
    "503 for ever, and the second rung refuses the request": _DOWN | {"b": ("400",)},
    "a stream cut after 40 of 60 tokens, and the second rung refuses the request": _CUT | {"b": ("400",)},
    "503 for ever, the second rung resets": _DOWN | {"b": ("upstream_reset",)},
    "every rung fails: 503, resets, silence": _DOWN
    | {"b": ("upstream_reset",), "c": ("timeout_first_byte",)},
}


def counts(results: Sequence[str], calls: int) -> dict[str, int]:
    """How often each result is counted for so many calls."""
    each = [results[min(number, len(results) - 1)] for number in range(calls)]
    return {result: each.count(result) for result in each}


def words(results: Results) -> str:
    """For the documentation: the first rung's, and of the others what is not `ok`."""
    told = [", then ".join(f"`{result}`" for result in results["a"])]
    nth = {"b": "second", "c": "third"}
    told += [f"the {nth[rung]} `{results[rung][0]}`" for rung in RUNGS[1:] if rung in results]
    return "; ".join(told)
