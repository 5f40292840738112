"""What we say, and what we never say."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings

import pytest

from middlewares.observation import Tokens
from proxy.logs import Journal, Record

FIELDS = (
    "ts level event id client remote route model upstream_model method path status outcome stream "
    "attempts ttfb_ms ttft_ms duration_ms bytes_in bytes_out prompt_tokens completion_tokens "
    "reasoning_tokens cached_tokens empty_answer error"
).split()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    """A disk without room."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def journal(out: io.StringIO | None = None) -> tuple[Journal, io.StringIO, io.StringIO]:
    out, err = out or io.StringIO(), io.StringIO()
    return Journal(out, err), out, err


def record(**facts: object) -> Record:
    made = Record(id="id-1", method="POST", path="/v1/chat/completions", status=200)
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def test_a_line_has_exactly_the_fields_of_the_contract_in_their_order() -> None:
    said, out, err = journal()
    said.exchange(record(duration_ms=1.23456789))
    line = json.loads(out.getvalue())

    assert list(line) == FIELDS
    assert (line["event"], line["level"], line["duration_ms"]) == ("exchange", "info", 1.235)
    assert err.getvalue() == ""


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (404, "info"), (500, "warning"), (504, "warning")]
)
def test_a_server_error_is_a_warning(status: int, level: str) -> None:
    said, out, _ = journal()
    said.exchange(record(status=status))

    assert json.loads(out.getvalue())["level"] == level


def test_tokens_are_noted_under_our_names() -> None:
    said, out, _ = journal()
    counted = record()
    counted.note(Tokens(prompt=3, completion=9, reasoning=7, cached=1))
    said.exchange(counted)
    line = json.loads(out.getvalue())

    assert [line[f"{name}_tokens"] for name in ("prompt", "completion", "reasoning", "cached")] == [
        3,
        9,
        7,
        1,
    ]


@pytest.mark.parametrize("secret", ["sk-canary-0123456789abcdef", "Bearer canary0123456789"])
def test_what_looks_like_a_key_is_redacted_wherever_it_stands(secret: str) -> None:
    said, out, err = journal()
    said.exchange(record(model=f"x {secret}", path=f"/v1/{secret}"))
    said.warning("fault", message=secret, cause=secret)

    assert "canary" not in out.getvalue() + err.getvalue()


def test_a_long_text_is_cut_and_control_characters_cannot_steer_a_terminal() -> None:
    said, out, _ = journal(Terminal())
    said.exchange(record(model="\x1b]0;owned\x07" + "x" * 500))
    text = out.getvalue()

    assert "\x1b]0" not in text and "\\x1b]0;owned\\x07" in text
    assert "x" * 300 not in text


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"model": "demo/echo", "route": "demo", "upstream_model": "echo"}, "200 POST {} demo/echo 3.2 s {}"),
        (
            {"model": "nope", "status": 404, "outcome": "proxy_error", "error": "model_not_found"},
            "404 POST {} nope 3.2 s model_not_found {}",
        ),
        (
            {
                "model": "review",
                "route": "ollama",
                "upstream_model": "kimi-k2:1t",
                "ttft_ms": 812.4,
                "prompt_tokens": 12,
                "completion_tokens": 345,
                "attempts": 3,
                "client": "ci",
                "empty_answer": True,
            },
            (
                "200 POST {} review > ollama/kimi-k2:1t 3.2 s (first token 812 ms) 12+345 tokens"
                " 3 attempts ci empty answer {}"
            ),
        ),
        (
            {"status": 499, "outcome": "client_gone", "error": "client_gone"},
            "499 POST {} 3.2 s client_gone {}",
        ),
    ],
)
def test_on_a_terminal_an_exchange_is_one_line_with_what_there_is_to_say(
    facts: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    said, out, _ = journal(Terminal())
    said.exchange(record(duration_ms=3211.0, **facts))

    time, _, rest = out.getvalue().partition(" ")
    assert rest == line.format("/v1/chat/completions", "id-1") + "\n"
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time)


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    said, out, _ = journal(Terminal())
    said.exchange(record(status=502, outcome="upstream_error", error="upstream_reset"))

    assert "\x1b[31m502\x1b[0m" in out.getvalue()


def test_a_log_that_cannot_be_written_is_told_once_and_costs_nobody_an_answer() -> None:
    said, _, err = journal(Full())
    said.exchange(record())
    line = json.loads(err.getvalue())

    assert (line["event"], line["reason"]) == ("log_lost", "No space left on device")
    Journal(Full(), Full()).exchange(record())


def test_what_libraries_log_comes_out_redacted_and_without_what_an_exception_quotes() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    said, _, err = journal()
    try:
        said.take_over_stdlib()
        cause = ValueError("X-Api-Key: canary")
        logging.getLogger("aiohttp.server").error("Error with sk-canary-0123456789abcdef", exc_info=cause)
        logging.getLogger("noise").info("not this")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("look out", stacklevel=1)
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = before
    lines = [json.loads(line) for line in err.getvalue().splitlines()]

    assert "canary" not in err.getvalue() and "not this" not in err.getvalue()
    assert (lines[0]["logger"], lines[0]["level"], lines[0]["exception"]) == (
        "aiohttp.server",
        "error",
        "ValueError",
    )
    assert "look out" in lines[1]["message"]
