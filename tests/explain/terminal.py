"""The table that the tests of the command explain, and what they read of its output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TABLE = """\
version: 1
middlewares:
  - headers: {set: {X-Team: "${TEAM:-nobody}"}}
  - timeout: {total: 5m}
routes:
  kimi:
    upstream: https://api.kimi.com/coding/v1
    explicit_only: true
    middlewares:
      - prefix_rewrite
      - headers: {user_agent: pass}
      - key: {env: KIMI_API_KEY, credential: kimi, file: kimi.env, expect: sk-kimi-}
      - token_floor: {min: 1500}
      - retry: {attempts: 2}
      - timeout: {total: "${KIMI_TIMEOUT_SECS:-600}s"}
  open:
    upstream: "${OPEN_URL:-https://open.example/v1/}"
    serves: ["gpt-*"]
    middlewares: [prefix_rewrite, breaker, {key: {env: OPEN_KEY, header: X-Acme}}, {concurrency: {limit: 1}}]
  plain: {upstream: "https://plain.example/v1", proxy: "http://me:canary-of-the-proxy@proxy.example:3128"}
  demo: {upstream: demo, middlewares: [prefix_rewrite]}
models:
  fast: open/mini
  review: [open/big, plain/other, demo/echo]
default_route: plain
"""
KIMI_KEY = "sk-kimi-canary-0123456789abcdef"
OPEN_KEY = "the-canary-of-open-0123456789"
KEYS = {"KIMI_API_KEY": KIMI_KEY, "OPEN_KEY": OPEN_KEY}
Explain = Callable[..., tuple[int, str, str]]


def told(explain: Explain, *arguments: str, **rest: Any) -> dict[str, Any]:
    code, out, err = explain(*arguments, "--json", **rest)
    explained: dict[str, Any] = json.loads(out)
    assert (code, err) == (1 if "error" in explained else 0, "")
    return explained


def up(explained: dict[str, Any]) -> dict[str, Any]:
    return {line["name"]: line["upstream"] for line in explained["headers"] if line["upstream"] is not None}


def body_file(folder: Path, **fields: Any) -> str:
    file = folder / "body.json"
    file.write_text(json.dumps(fields))
    return str(file)
