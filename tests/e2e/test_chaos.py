"""Five hundred exchanges at a time, random faults on random rungs: each ends as promised, nothing is left.

Some seconds of it with chances that always fall the same; `make chaos` is a minute of others.
TIDEGATE_CHAOS_S and TIDEGATE_CHAOS_SEED say how long, and which.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faithful.memory import MIB, open_files, resident
from tests.support.completions import Completion
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT
from tests.support.upstream import (
    DONE,
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
    sse_event,
)

LASTS_S = float(os.environ.get("TIDEGATE_CHAOS_S", "8"))
SEED = int(os.environ.get("TIDEGATE_CHAOS_SEED", "20260707"))
AT_A_TIME = 500
SLOTS = 100
CLOCKS = {"connect": "2s", "first_byte": "800ms", "first_token": "1s", "idle": "800ms", "total": "2s"}
RUNGS_S = 3 * 2.0
"""The clocks of a whole ladder; what is allowed beyond them is for a machine that has other things to do."""
ENDS_WITHIN_S = 40.0
PING = b": ping\n"
STREAMS = [{"commit": "first_event", "keepalive": "150ms"}, {"commit": "complete"}, {"commit": "first_token"}]
ERRORS = {400, 429, 500, 502, 503, 504}


def table(folder: Path, upstreams: list[ScriptedUpstream]) -> Path:
    def route(number: int) -> dict[str, Any]:
        chain = [
            "prefix_rewrite",
            {"concurrency": {"limit": SLOTS, "queue": AT_A_TIME, "wait": "1s"}},
            {"breaker": {"failures": 8, "cooldown": "200ms"}},
            {"retry": {"attempts": 2, "backoff": {"initial": "20ms", "max": "50ms"}}},
            {"timeout": CLOCKS},
            {"stream": STREAMS[number]},
        ]
        return {"upstream": upstreams[number].url, "middlewares": chain}

    models = {"ladder": ["a/x", "b/x", "c/x"], "short": ["c/x", "a/x"]}
    return write_table(folder, {name: route(n) for n, name in enumerate("abc")}, models=models)


# ---- providers


def text_for(seen: Seen) -> str:
    """An answer that belongs to one question, so that no client can be given another's."""
    return said_to(seen.json()["messages"][0]["content"])


def said_to(asked: str) -> str:
    return " ".join(f"{asked}-{number}" for number in range(12))


async def well(seen: Seen, wire: Wire, *, pause: float = 0.0, stop_after: int | None = None) -> None:
    """A whole answer; with `stop_after` it stands still after so many events, or within its body."""
    completion = Completion(text_for(seen), "x")
    if not seen.json().get("stream"):
        body = json.dumps(completion.whole()).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        await wire.pause(pause * 5)
        await wire.head(200, head)
        await wire.raw(body[:40])
        if stop_after is not None:
            await wire.client_gone()
        await wire.raw(body[40:])
        await wire.finish()
        return
    await wire.sse(done=False)
    for number, event in enumerate(completion.events()):
        if number == stop_after:
            await wire.client_gone()
        await wire.chunk(sse_event(event))
        await wire.pause(pause)
    await wire.chunk(DONE)
    await wire.finish()


async def stalls(seen: Seen, wire: Wire) -> None:
    await well(seen, wire, stop_after=4)


async def breaks_off(seen: Seen, wire: Wire) -> None:
    """In the middle of an event, or of a plain body."""
    if seen.json().get("stream"):
        await wire.sse(*list(Completion(text_for(seen), "x").events())[:3], b"data: {half", done=False)
    else:
        await wire.head(200, {"Content-Type": "application/json", "Content-Length": "500"})
        await wire.raw(b'{"half":')
    wire.reset()


async def tells_an_error(seen: Seen, wire: Wire) -> None:
    await wire.sse({"error": {"message": "overloaded", "code": 503}}, done=True)


FAULTS: list[Behaviour] = [
    answer(500, {"error": {"message": "no"}}),
    answer(503, {"error": {"message": "no"}}),
    answer(429, {"error": {"message": "burst"}}, {"Retry-After": "0.03"}),
    answer(400, {"error": {"message": "what", "code": "odd"}}),
    reset_before_head(),
    garbage(),
    silent(),
    head_then_silent(),
    cut_after(0),
    cut_after(3),
    cut_after(3, "reset"),
    cut_after(3, "unterminated"),
    stalls,
    breaks_off,
    tells_an_error,
]


class Moody:
    """A provider that has a fault every so often."""

    def __init__(self, chance: random.Random, share: float) -> None:
        self._chance = chance
        self._share = share
        self.met: Counter[int] = Counter()

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        if self._chance.random() < self._share:
            number = self._chance.randrange(len(FAULTS))
            self.met[number] += 1
            await FAULTS[number](seen, wire)
        else:
            await well(seen, wire, pause=self._chance.choice([0.0, 0.005, 0.02]))


# ---- clients


@dataclass
class Tally:
    """What became of all exchanges, and what was not as promised."""

    ends: Counter[str] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0

    def note(self, end: str, headers: list[tuple[str, str]] | None) -> None:
        self.ends[end] += 1
        ident = header(headers, "x-tidegate-id") if headers is not None else None
        if ident is not None:
            self.ids[ident] = end


async def ask(gate: Tidegate, tally: Tally, chance: random.Random) -> None:
    """One exchange, and how it ended."""
    tally.asked += 1
    asked = f"q{tally.asked}"
    model = chance.choice(["ladder", "ladder", "short", "a/x", "b/x", "c/x"])
    streams = chance.random() < 0.7
    body = {"model": model, "stream": streams, "messages": [{"role": "user", "content": asked}]}
    try:
        async with asyncio.timeout(ENDS_WITHIN_S), RawClient(gate.port) as client:
            await client.send(post(CHAT, body))
            if chance.random() < 0.1:
                await _leave(client, tally, chance)
                return
            end, headers = await _judge(client, asked, tally, streams=streams)
    except TimeoutError:
        tally.wrong.append(f"{model}: no end within {ENDS_WITHIN_S} s")
        return
    tally.note(end, headers)


async def _leave(client: RawClient, tally: Tally, chance: random.Random) -> None:
    try:
        async with asyncio.timeout(chance.choice([0.0, 0.01, 0.1, 0.4])):
            await client.read_some()
    except TimeoutError:
        pass
    chance.choice([client.close, client.reset])()
    tally.note("left", None)


async def _judge(
    client: RawClient, asked: str, tally: Tally, *, streams: bool
) -> tuple[str, list[tuple[str, str]]]:
    status, headers = await client.read_head()
    try:
        body = await client.read_body()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        if status != 200:
            tally.wrong.append(f"{asked}: an error answer, {status}, was cut")
        return "cut", headers
    if status != 200:
        if status not in ERRORS or "error" not in json.loads(body):
            tally.wrong.append(f"{asked}: {status} {body[:200]!r}")
        return "error", headers
    whole = _words(body) if streams else json.loads(body)["choices"][0]["message"]["content"]
    if whole != said_to(asked):
        tally.wrong.append(f"{asked}: looked complete and was {body[-300:]!r}")
    return "whole", headers


def _words(body: bytes) -> str:
    """What a properly ended stream said; nothing if it does not say that it is complete."""
    body = body.replace(PING, b"")
    if not body.endswith(DONE):
        return ""
    events = [json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n")[:-2]]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


async def chaos(gate: Tidegate, tally: Tally, chance: random.Random, until: float) -> None:
    while time.monotonic() < until:
        await ask(gate, tally, chance)


# ---- what must be left, and what not


async def every_slot_is_free(gate: Tidegate, upstreams: list[ScriptedUpstream]) -> None:
    """As many calls at one time as each route has slots, all of which have to be there together."""
    for name, upstream in zip("abc", upstreams, strict=True):
        go = asyncio.Event()

        async def held(seen: Seen, wire: Wire, go: asyncio.Event = go) -> None:
            await go.wait()
            await well(seen, wire)

        await upstream.forget()
        upstream.behaviour = held
        async with asyncio.TaskGroup() as calls:
            made = [calls.create_task(_call(gate, name, f"slot{n}")) for n in range(SLOTS)]
            await upstream.wait_seen(SLOTS, within=20)
            go.set()
        assert all(call.result() == 200 for call in made)


async def _call(gate: Tidegate, route: str, asked: str) -> int:
    async with RawClient(gate.port) as client:
        body = {"model": f"{route}/x", "messages": [{"role": "user", "content": asked}]}
        await client.send(post(CHAT, body))
        status, _ = await client.read_head()
        await client.read_body()
        return status


async def all_are_well(gate: Tidegate, upstreams: list[ScriptedUpstream]) -> int:
    """Until each breaker has let a probe through and is closed: the calls that it took."""
    calls = 0
    for name, upstream in zip("abc", upstreams, strict=True):
        upstream.behaviour = well
        async with asyncio.timeout(10):
            while True:
                calls += 1
                if await _call(gate, name, "well") == 200:
                    break
                await asyncio.sleep(0.05)  # the cooldown's turn
    return calls


async def settled(gate: Tidegate, at_most: int) -> int:
    """Open files, once there are no more than so many, or after a while."""
    deadline = time.monotonic() + 10
    while (files := open_files(gate.process.pid)) > at_most and time.monotonic() < deadline:
        await asyncio.sleep(0.1)  # the kernel's turn: nothing tells when a descriptor is gone
    return files


@pytest.mark.timeout(LASTS_S + 150)  # as long as it is told to last, and the rounds before and after
async def test_every_exchange_ends_as_promised_and_nothing_is_left_over(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    tally = Tally()
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream(well)) for _ in "abc"]
        gate = await stack.enter_async_context(Tidegate(table(tmp_path, upstreams)))
        await every_slot_is_free(gate, upstreams)
        files, memory = open_files(gate.process.pid), resident(gate.process.pid)

        moods = [Moody(chance, share) for share in (0.5, 0.35, 0.2)]
        for upstream, mood in zip(upstreams, moods, strict=True):
            upstream.behaviour = mood
        until = time.monotonic() + LASTS_S
        await asyncio.gather(*(chaos(gate, tally, chance, until) for _ in range(AT_A_TIME)))

        calls = await all_are_well(gate, upstreams)
        await every_slot_is_free(gate, upstreams)
        files_after, memory_after = await settled(gate, files + 10), resident(gate.process.pid)
        lines = await gate.wait_log(tally.asked + calls + 2 * len(upstreams) * SLOTS, within=10)
        # An exchange or a task that was left over would be waited for.
        assert await gate.terminate() == 0
        for upstream in upstreams:
            await upstream.wait_open(0)

    grown = memory_after - memory
    longest = max(line["duration_ms"] for line in lines) / 1000
    told = (
        f"chaos of {LASTS_S:g} s, seed {SEED}: {tally.asked} exchanges, "
        f"{', '.join(f'{count} {end}' for end, count in sorted(tally.ends.items()))}; "
        f"{sum(mood.met.total() for mood in moods)} faults; "
        f"the longest {longest:.2f} s, memory {grown / MIB:+.1f} MiB, files {files_after - files:+d}"
    )
    print("\n" + told)
    assert tally.wrong == [], told
    assert longest < RUNGS_S + 10, told
    assert all(len(mood.met) == len(FAULTS) for mood in moods), f"a fault never came up: {told}"
    assert len(lines) == tally.asked + calls + 2 * len(upstreams) * SLOTS, f"lines for exchanges: {told}"
    agrees(tally, lines)
    assert files_after <= files + 10, told
    assert grown < 64 * MIB, told


def agrees(tally: Tally, lines: list[dict[str, Any]]) -> None:
    """The log says of each exchange what its client saw."""
    outcomes = {line["id"]: line["outcome"] for line in lines}
    assert len(outcomes) == len(lines)
    for ident, end in tally.ids.items():
        assert (outcomes[ident] == "ok") == (end == "whole"), (ident, end, outcomes[ident])
    assert {"whole", "cut", "error", "left"} <= tally.ends.keys()
