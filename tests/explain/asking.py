"""One question put twice: to the dry run, and as a request to a real process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec

from config.loader import load
from config.secrets import SecretStore
from middlewares.registry import catalog
from proxy.explain.explanation import Subject, explained
from proxy.explain.question import Question, Thought, compose
from proxy.explain.redaction import Redactor
from proxy.explain.rehearsal import rehearse
from tests.support.process import Tidegate
from tests.support.raw import RawClient
from tests.support.upstream import ScriptedUpstream, Seen, Wire

FRAMING = {"host", "connection", "content-length", "transfer-encoding", "upgrade"}
UP_KEY = "the-canary-of-a-route-0123456789abcdef"
OTHER_KEY = "the-canary-of-another-0123456789abcdef"
ENV = {"UP_KEY": UP_KEY, "OTHER_KEY": OTHER_KEY}


async def told_of(table: Path, question: Question, env: Mapping[str, str]) -> dict[str, Any]:
    """What `tidegate explain --json` prints, read again."""
    loaded = load(table, catalog(), environ=env)
    assert loaded.table is not None, [str(problem) for problem in loaded.problems]
    secrets = SecretStore(env, table.parent)
    request = compose(question)
    rehearsed = await rehearse(request, loaded.table, secrets)
    redactor = Redactor(loaded, env)
    subject = Subject(request, question.model, loaded.table, rehearsed, secrets, redactor)
    told: dict[str, Any] = json.loads(msgspec.json.encode(explained(subject)))
    return told


async def by_route(seen: Seen, wire: Wire) -> None:
    """Answer as the route's base URL says: `/down/…` cannot, everybody else can."""
    await wire.json(503 if seen.target.startswith("/down") else 200, {"object": "answer"})


@dataclass
class Answer:
    """What a client got, and what arrived at the providers on the way."""

    status: int
    headers: dict[str, str]
    body: Any
    arrived: list[Seen]


async def ask(gate: Tidegate, upstream: ScriptedUpstream, request: Thought) -> Answer:
    """Send the very request that the dry run was given."""
    before = len(upstream.seen)
    framing = [] if request.body is None else [("Content-Length", str(len(request.body)))]
    lines = [f"{name}: {value}" for name, value in (*request.lines, *framing)]
    head = "\r\n".join([f"{request.method} {request.raw_path} HTTP/1.1", *lines, "", ""])
    async with RawClient(gate.port) as client:
        await client.send(head.encode() + (request.body or b""))
        status, headers = await client.read_head(bodiless=request.method == "HEAD")
        said = await client.read_body()
    body = json.loads(said) if said else None
    return Answer(status, {name.lower(): v for name, v in headers}, body, upstream.seen[before:])


def check(told: dict[str, Any], answer: Answer, upstream: ScriptedUpstream) -> None:
    """Whatever the dry run said is what became of the request."""
    if "error" in told:
        check_refusal(told["error"], answer)
        return
    assert list(told) == "route rule model url chain headers changes clocks ladder".split()
    expected = [rung for rung in told["ladder"] if rung["usable"]]
    # A ladder goes on until somebody answers.
    served = next((i for i, rung in enumerate(expected) if "/down" not in rung["url"]), len(expected) - 1)
    assert len(answer.arrived) == served + 1, (told, answer)
    for rung, seen in zip(expected, answer.arrived, strict=False):
        arrived = (upstream.origin + seen.target, model_of(seen))
        assert arrived == (rung["url"], rung["model"]), (seen, rung)
    if not expected:
        check_missing_key(told, answer)
    elif told["ladder"][0]["usable"]:
        check_first(told, answer.arrived[0])
    if len(told["ladder"]) == 1 and expected:
        assert answer.headers["x-tidegate-route"] == told["route"]
        changes = ", ".join(f"{name}={old}->{new}" for name, (old, new) in told["changes"].items())
        assert answer.headers.get("x-tidegate-changed", "") == changes


def check_refusal(error: dict[str, Any], answer: Answer) -> None:
    if answer.headers.get("x-tidegate-error") == "key_missing" and error["code"] == "invalid_json":
        # A key does not count: what is told is what comes of it once there is one.
        return
    assert answer.status == error["status"], (error, answer)
    assert answer.arrived == []
    if answer.body is not None and answer.status != 200:
        said = answer.body["error"]
        assert (said["message"], said["code"]) == (error["message"], error["code"])


def check_missing_key(told: dict[str, Any], answer: Answer) -> None:
    assert answer.status == 503 and answer.headers["x-tidegate-error"] == "key_missing"
    if answer.body is not None:
        assert answer.body["error"]["message"] == told["ladder"][0]["reason"]


def check_first(told: dict[str, Any], seen: Seen) -> None:
    """The headers that arrived, and the fields of the body that were to change."""
    arrived = [(name, hidden(name, value)) for name, value in seen.headers if name.lower() not in FRAMING]
    explained_up = [
        (line["name"], line["upstream"]) for line in told["headers"] if line["upstream"] is not None
    ]
    assert sorted(arrived) == sorted(explained_up), (told, seen)
    if (fields := fields_of(seen)) is None:
        return
    for name, (_, new) in told["changes"].items():
        assert new in ("...", shown(fields, name)), (told, seen)


def hidden(name: str, value: str) -> str:
    if name.lower() not in ("authorization", "x-api-key", "x-acme"):
        return value
    return "Bearer [redacted]" if value.startswith("Bearer ") else "[redacted]"


def shown(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if name not in fields else value if isinstance(value, str) else json.dumps(value)


def fields_of(seen: Seen) -> dict[str, Any] | None:
    try:
        fields = json.loads(seen.body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def model_of(seen: Seen) -> str | None:
    """The model that the provider reads, from wherever it reads it."""
    if (fields := fields_of(seen)) is not None:
        model = fields.get("model")
        return model if isinstance(model, str) else None
    if seen.body.startswith(b"--"):
        found = seen.body.partition(b'name="model"\r\n\r\n')[2].partition(b"\r\n")[0]
        return found.decode() or None
    if seen.header("upgrade") is not None:
        return parse_qs(seen.target.partition("?")[2]).get("model", [None])[0]
    return None
