"""What we say: one line for each exchange on stdout, everything else on stderr.

JSON, or pretty on a terminal. A line is built from an allow-list of facts, so that no header, body,
query or key can come near it; free text from elsewhere is redacted all the same.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from config.secrets import redact
from middlewares.faults import Outcome
from middlewares.observation import Tokens
from proxy import terminal

_LONGEST = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What could steer a terminal on which the log is read."""


@dataclass(slots=True)
class Record:
    """The facts of one exchange, filled in as it goes. Times in milliseconds, sizes in bytes."""

    id: str
    client: str | None = None
    remote: str = ""
    route: str | None = None
    model: str | None = None
    upstream_model: str | None = None
    method: str = ""
    path: str = ""
    status: int = 0
    outcome: Outcome = "ok"
    stream: bool = False
    attempts: int = 0
    ttfb_ms: float | None = None
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    empty_answer: bool = False
    error: str | None = None

    def note(self, tokens: Tokens) -> None:
        """Take in what the answer says that it cost."""
        self.prompt_tokens, self.completion_tokens = tokens.prompt, tokens.completion
        self.reasoning_tokens, self.cached_tokens = tokens.reasoning, tokens.cached

    def facts(self) -> dict[str, Any]:
        """The line's fields, in the order in which they are written."""
        return {name: _shown(getattr(self, name)) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(Record))


class Journal:
    """Both streams of our output."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._exchanges = _logger(out or sys.stdout, exchanges=True)
        self._events = _logger(err or sys.stderr)

    def exchange(self, record: Record) -> None:
        """Write the one line of a finished exchange."""
        write = self._exchanges.warning if record.status >= 500 else self._exchanges.info
        try:
            write("exchange", **record.facts())
        except OSError as error:
            # A full disk or a closed pipe must not cost anybody an answer.
            self.error("log_lost", id=record.id, reason=error.strerror)

    def info(self, event: str, **facts: Any) -> None:
        """Something happened."""
        self._say("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Something happened that somebody may want to look into."""
        self._say("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Something is broken."""
        self._say("error", event, facts)

    def _say(self, level: str, event: str, facts: dict[str, Any]) -> None:
        # There is nowhere left to say that stderr is gone.
        with suppress(OSError):
            getattr(self._events, level)(event, **{name: _shown(value) for name, value in facts.items()})

    def take_over_stdlib(self) -> None:
        """Have what libraries log come out here: redacted, without tracebacks."""
        handler = _Handler(self)
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(True)


class _Handler(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        facts = {"logger": record.name, "message": record.getMessage()}
        if cause is not None:
            # The text of an exception may quote a header; its type cannot.
            facts["exception"] = type(cause).__name__
        write = self._journal.error if record.levelno >= logging.ERROR else self._journal.warning
        write("library", **facts)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", redact(value))
        return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    if isinstance(value, float):
        return round(value, 3)
    return value


def _logger(stream: TextIO, *, exchanges: bool = False) -> FilteringBoundLogger:
    processors: list[Processor] = [structlog.processors.add_log_level]
    if stream.isatty():
        processors += terminal.exchanges() if exchanges else terminal.events()
    else:
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"))
        processors += [_ordered, structlog.processors.JSONRenderer(serializer=_serialize)]
    bare: WrappedLogger = structlog.PrintLogger(stream)
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        bare, processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=True
    )
    return logger


def _ordered(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {"ts": event.pop("ts"), "level": event.pop("level"), "event": event.pop("event")}
    return {**first, **event}


def _serialize(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event).decode()


def where(error: BaseException) -> str:
    """File and line of an unforeseen error; its text may quote what must not be logged."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} in {code.co_name}"
