# ruff: noqa: E501 (messages are compared whole)
"""Clocks, waits and calls that never come to anything are told; what does is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from middlewares.registry import catalog
from tests.config.tables import load_text, told

TABLE = """\
version: 1
middlewares: [%s]
routes:
  acme:
    upstream: https://acme.example/v1
    middlewares:
      - prefix_rewrite
      - %s
"""
REST = "ends the request first: write less, or leave it out"


def problems(chain: str, top: str, folder: Path, **environ: str) -> list[tuple[int, int, str]]:
    text = TABLE % (top, chain.replace("\n", "\n      "))
    loaded = load_text(text, folder, environ, catalog=catalog())
    assert {problem.level for problem in loaded.problems} <= {"warning"}
    return told(loaded)


@pytest.mark.parametrize(
    ("chain", "top", "at", "message"),
    [
        *[
            (
                f"timeout: {{{clock}: 60s, total: 60s}}",
                "",
                "60s",
                f"{clock} of 60s never runs out: total of 60s {REST}",
            )
            for clock in ("connect", "first_byte", "first_token", "idle")
        ],
        (
            "timeout: {first_token: 90s}",
            "timeout: {total: 45s}",
            "90s",
            f"first_token of 90s never runs out: the top level's total of 45s {REST}",
        ),
        (
            "timeout: {total: 20m}",
            "timeout: {total: 15m}",
            "20m",
            f"total of 20m never runs out: the top level's total of 15m {REST}",
        ),
        (
            "timeout: {idle: 50s, total: 40s}",
            "timeout: {total: 45s}",
            "50s",
            f"idle of 50s never runs out: total of 40s {REST}",
        ),
        (
            'timeout: {idle: "${IDLE}", total: "${TOTAL}"}',
            "",
            '"${IDLE}',
            f"idle of '${{IDLE}}' never runs out: total of '${{TOTAL}}' {REST}",
        ),
        (
            "retry: {backoff: {initial: 30s, max: 10s}}\n- timeout: {total: 30s}",
            "",
            "30s, max",
            f"backoff.initial of 30s never runs out: total of 30s {REST}",
        ),
        (
            "retry: {backoff: {max: 2m}}\n- timeout: {total: 30s}",
            "",
            "2m",
            f"backoff.max of 120s never runs out: total of 30s {REST}",
        ),
        (
            "retry: {retry_after_max: 1h}\n- timeout: {total: 30s}",
            "",
            "1h",
            f"retry_after_max of 60m never runs out: total of 30s {REST}",
        ),
        (
            "concurrency: {limit: 1, queue: 1, wait: 1m}\n- timeout: {total: 30s}",
            "",
            "1m",
            f"wait of 60s never runs out: total of 30s {REST}",
        ),
        (
            "stream: {keepalive: 1m}\n- timeout: {total: 30s}",
            "",
            "1m",
            f"keepalive of 60s never runs out: total of 30s {REST}",
        ),
        (
            "concurrency: {limit: 1, wait: 60s}",
            "",
            "60s",
            "nobody waits here, since queue is 0: write queue: N for how many may, or leave wait out",
        ),
        (
            "retry: {attempts: 3}\n- breaker: {failures: 2}",
            "",
            "breaker",
            "2 failures open this breaker before the 3 attempts of retry end: clients get 503 breaker_open, not the provider's error: put breaker before retry",
        ),
        (
            'retry\n- breaker: {failures: "${N}"}',
            "",
            "breaker",
            "'${N}' failures open this breaker before the 3 attempts of retry end: clients get 503 breaker_open, not the provider's error: put breaker before retry",
        ),
        (
            "retry: {attempts: 1}",
            "",
            "1}",
            "attempts counts the first call, so 1 never tries again: write 2 or more, or leave retry out",
        ),
        (
            "retry: {when: []}",
            "",
            "when",
            "when is empty, so nothing is tried again: name causes, or leave it out for all of them",
        ),
    ],
)
def test_what_never_happens_in_time_is_told(
    chain: str, top: str, at: str, message: str, tmp_path: Path
) -> None:
    ((line, column, said),) = problems(chain, top, tmp_path, IDLE="50s", TOTAL="40s", N="1")
    written = (tmp_path / "routes.yaml").read_text().splitlines()[line - 1]

    assert said == message
    assert written[column - 1 :].startswith(at)


@pytest.mark.parametrize(
    ("chain", "top"),
    [
        ("timeout: {total: 5s}", ""),  # shorter than the default of connect, which nobody wrote
        (
            "timeout: {connect: 5s, first_byte: 6s, first_token: 7s, idle: 8s, total: 9s}",
            "timeout: {total: 10s}",
        ),
        ("retry\n- concurrency: {limit: 1, queue: 1}\n- stream: {keepalive: 3s}\n- timeout: {total: 4s}", ""),
        ("timeout: {first_token: 90s, idle: 10s}", ""),
        ("breaker: {failures: 1}\n- retry: {attempts: 9}", ""),
        ("retry: {attempts: 3}\n- breaker: {failures: 3}", ""),
        ("retry: {attempts: 9, when: [rate_limited]}\n- breaker: {failures: 1}", ""),
        ("concurrency: {limit: 1, queue: 2, wait: 60s}", ""),
    ],
)
def test_what_can_happen_is_not_blamed(chain: str, top: str, tmp_path: Path) -> None:
    assert problems(chain, top, tmp_path) == []
