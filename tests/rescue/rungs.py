"""Three providers on a ladder, the table that leads to them, and what each says when it is well.

The routes exist twice, `first_event-*` and `complete-*`, which differ in their `commit` alone; the ladders
over them are called like that. All clocks are short, and far enough apart to tell which one ran out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.completions import Completion
from tests.support.metrics import ADMIN
from tests.support.process import Tidegate, write_table
from tests.support.raw import header
from tests.support.upstream import DONE, Behaviour, ScriptedUpstream, Seen, Wire, sse_event

COMMITS = ("first_event", "complete")
RUNGS = ("a", "b", "c")
ATTEMPTS = {"a": 3, "b": 2, "c": 1}
"""Calls in all for one request; `c` has no `retry`."""
CLOCKS = {"connect": 3.0, "first_byte": 1.0, "first_token": 1.3, "idle": 1.6}
BACKOFF_S = 0.1
BACKOFF_MAX_S = 2.0
TOKENS = 60

FLOORS = {"a": 101, "b": 102, "c": 103}
KEYS = {f"KEY_{rung.upper()}": f"canary-key-of-rung-{rung}" for rung in RUNGS}
_ONE_SLOT = [{"concurrency": {"limit": 1}}]
CLIENT_KEY = "canary-key-of-the-client"


def chain(rung: str, commit: str, *, outer: Sequence[Any] = (), inner: Sequence[Any] = ()) -> list[Any]:
    """The middlewares of one rung, with more before and after `retry`; nobody else has its key and header."""
    clocks = {name: f"{int(limit * 1000)}ms" for name, limit in CLOCKS.items()} | {"total": "12s"}
    waits = {"initial": f"{int(BACKOFF_S * 1000)}ms", "max": f"{int(BACKOFF_MAX_S * 1000)}ms"}
    retry = {"retry": {"attempts": ATTEMPTS[rung], "backoff": waits, "retry_after_max": "10s"}}
    return [
        "prefix_rewrite",
        *outer,
        *([retry] if ATTEMPTS[rung] > 1 else []),
        *inner,
        {"headers": {"set": {f"X-Rung-{rung}": "canary-of-" + rung}}},
        {"key": {"env": f"KEY_{rung.upper()}"}},
        {"token_floor": {"min": FLOORS[rung]}},
        {"usage": {"include_usage": False}},
        {"timeout": clocks},
        {"stream": {"commit": commit}},
    ]


def route(commit: str, rung: str) -> str:
    return f"{commit}-{rung}"


def write(folder: Path, upstreams: Sequence[ScriptedUpstream]) -> Path:
    """The table with both ladders; on rung `a` the model is called `of-a`.

    There is one slot for each route: a fault that does not give it back has the next call go elsewhere.
    """
    slots = {"first_event": {"outer": _ONE_SLOT}, "complete": {"inner": _ONE_SLOT}}
    routes = {
        route(commit, rung): {"upstream": upstream.url, "middlewares": chain(rung, commit, **slots[commit])}
        for commit in COMMITS
        for rung, upstream in zip(RUNGS, upstreams, strict=True)
    }
    models = {commit: [f"{route(commit, rung)}/of-{rung}" for rung in RUNGS] for commit in COMMITS}
    return write_table(folder, routes, models=models, server=ADMIN)


@dataclass
class Ladder:
    """What a test has: the real process, and its three providers by name."""

    gate: Tidegate
    rungs: dict[str, ScriptedUpstream]

    def calls(self) -> tuple[int, ...]:
        return tuple(len(upstream.seen) for upstream in self.rungs.values())

    def misplaced(self) -> list[str]:
        """What of one rung, or of the client, reached a rung that it is not for."""
        found = []
        for rung, upstream in self.rungs.items():
            for seen in upstream.seen:
                sent = "\n".join(f"{name.lower()}: {value}" for name, value in seen.headers)
                found += [f"{rung}: {text}" for text in _strange_to(rung) if text in sent]
                body = seen.json()
                if (body["model"], body["max_tokens"]) != (f"of-{rung}", FLOORS[rung]):
                    found.append(f"{rung}: {body}")
                if seen.header("authorization") != f"Bearer {KEYS[f'KEY_{rung.upper()}']}":
                    found.append(f"{rung}: no key of its own")
        return found


def _strange_to(rung: str) -> Iterable[str]:
    yield CLIENT_KEY
    for other in RUNGS:
        if other != rung:
            yield from (KEYS[f"KEY_{other.upper()}"], f"x-rung-{other}:")


def events(rung: str) -> list[bytes]:
    """A good answer: the role, 60 tokens, the end, the usage and [DONE]. Its prompt tells the rung."""
    text = " ".join(f"{rung}{number}" for number in range(TOKENS))
    good = Completion(text, f"of-{rung}", prompt_tokens=ord(rung))
    return [*(sse_event(event) for event in good.events(include_usage=True)), DONE]


def whole(rung: str) -> bytes:
    return b"".join(events(rung))


def plain(rung: str) -> bytes:
    text = " ".join(f"{rung}{number}" for number in range(TOKENS))
    return json.dumps(Completion(text, f"of-{rung}", prompt_tokens=ord(rung)).whole()).encode()


def well(rung: str, *, keep: bool = True) -> Behaviour:
    """A good answer, as it is asked for; without `keep` it is the last on its connection."""

    async def behave(seen: Seen, wire: Wire) -> None:
        headers = {} if keep else {"Connection": "close"}
        if not seen.json().get("stream"):
            body = plain(rung)
            own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            await wire.head(200, headers | own)
            await wire.raw(body)
        else:
            await wire.head(200, headers | {"Content-Type": "text/event-stream"})
            for event in events(rung):
                await wire.chunk(event)
        await wire.finish()

    return behave


@dataclass
class Heard:
    """One answer as the client saw it; `ended` is whether its framing says that it is all there."""

    status: int
    headers: list[tuple[str, str]]
    took: float
    ended: bool
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        return header(self.headers, name)

    @property
    def error(self) -> Any:
        """The code of the error that is the body, or the stream's last event."""
        last = self.body.strip().rpartition(b"\n")[2].removeprefix(b"data: ")
        try:
            return json.loads(last)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def tokens(self) -> int:
        """How many events of content came."""
        return self.body.count(b'"delta":{"content":"')
