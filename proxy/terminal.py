"""The log for a person at a terminal: an exchange in one line, in the order in which one reads it.

Only what there is to say is said; the JSON that a pipe gets has every field. Colours keep to what NO_COLOR
(no-color.org) allows.
"""

from __future__ import annotations

import os

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"


def events() -> list[Processor]:
    """What happened, as the service log has it."""
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="ts"),
        structlog.dev.ConsoleRenderer(
            timestamp_key="ts", sort_keys=False, pad_event_to=0, pad_level=False, colors=_coloured()
        ),
    ]


def exchanges() -> list[Processor]:
    """One exchange a line."""
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="ts"),
        Exchanges(coloured=_coloured()),
    ]


class Exchanges:
    """Renders the line of an exchange."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        """From the facts of `logs.Record`."""
        words = [
            self._in(_DIM, str(event["ts"])),
            self._in(_colour_of(event), str(event["status"])),
            *_asked(event),
            *_took(event),
            *_ended(event),
            self._in(_DIM, str(event["id"])),
        ]
        return " ".join(word for word in words if word)

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._coloured else text


def _coloured() -> bool:
    return not os.environ.get("NO_COLOR")


def _colour_of(event: EventDict) -> str:
    if event["outcome"] != "ok" or event["status"] >= 500:
        return _RED if event["status"] >= 500 else _YELLOW
    return _GREEN


def _asked(event: EventDict) -> list[str]:
    """Method and path, and what became of the model: `review > demo/echo`."""
    words = [event["method"], event["path"], event["model"] or ""]
    if event["route"] is not None:
        sent = f"{event['route']}/{event['upstream_model']}" if event["upstream_model"] else event["route"]
        if sent != event["model"]:
            words += [">", sent]
    return words


def _took(event: EventDict) -> list[str]:
    words = [_in_time(event["duration_ms"])]
    if event["ttft_ms"] is not None:
        words.append(f"(first token {_in_time(event['ttft_ms'])})")
    if event["prompt_tokens"] is not None or event["completion_tokens"] is not None:
        words.append(f"{event['prompt_tokens'] or 0}+{event['completion_tokens'] or 0} tokens")
    if event["attempts"] > 1:
        words.append(f"{event['attempts']} attempts")
    return words


def _ended(event: EventDict) -> list[str]:
    words = [event["client"] or ""]
    if event["empty_answer"]:
        words.append("empty answer")
    if event["outcome"] != "ok":
        words.append(event["error"] or event["outcome"])
    return words


def _in_time(milliseconds: float) -> str:
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
