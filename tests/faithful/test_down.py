"""What an upstream sent is what the client gets, to the byte, for ten thousand made-up answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from tests.faithful.peers import Caller, Feeder, Message
from tests.faithful.streams import Answer, answers
from tests.support.process import Tidegate, write_table
from tests.support.raw import post

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWERS = 10_000
BODY = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3, "messages": []}
CHAIN: list[Any] = [
    "prefix_rewrite",
    {"headers": {"set": {"X-Operator": "us"}}},
    {"key": {"env": "UP_KEY"}},
    {"token_floor": {"min": 1500}},
    {"timeout": {"connect": "10s", "first_byte": "30s", "first_token": "30s", "idle": "30s", "total": "50s"}},
    "usage",
]


class Scene:
    """A proxy between a client and an upstream that plays one answer."""

    def __init__(self) -> None:
        self.upstream = Feeder(self._play)
        self.writes: list[bytes | None] = []
        self.exchanges = 0

    def _play(self, _request: Message) -> list[bytes | None]:
        return self.writes

    def table(self) -> dict[str, Any]:
        plain = {"upstream": self.upstream.url}
        return {"plain": plain, "chain": {"upstream": self.upstream.url, "middlewares": CHAIN}}

    def connect(self, gate: Tidegate) -> None:
        self.gate = gate
        self.callers = {route: Caller(gate.port) for route in ("plain", "chain")}

    async def relay(self, answer: Answer) -> list[Message]:
        """The answer as it comes down on each route; both at once."""
        self.writes = answer.writes()
        self.exchanges += len(self.callers)
        asks = [
            caller.ask(post(f"/v1/{answer.path}", {"model": f"{route}/x"} | BODY))
            for route, caller in self.callers.items()
        ]
        async with asyncio.timeout(20):
            return await asyncio.gather(*asks)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    scene = Scene()
    async with scene.upstream:
        table = write_table(tmp_path_factory.mktemp("down"), scene.table())
        async with Tidegate(table, env={"UP_KEY": "canary-key-of-the-way-down"}) as gate:
            scene.connect(gate)
            yield scene
            for caller in scene.callers.values():
                caller.close()
    assert not scene.upstream.failures


# Ten thousand exchanges take their time on a machine that does other things as well.
@pytest.mark.timeout(240)
@settings(max_examples=ANSWERS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(answer=answers)
async def test_an_answer_comes_down_as_it_was_sent(scene: Scene, answer: Answer) -> None:
    sent = hashlib.sha256(answer.body).hexdigest()
    for got in await scene.relay(answer):
        assert (got.status, got.whole) == (answer.status, True)
        assert hashlib.sha256(got.body).hexdigest() == sent


async def test_every_one_of_them_was_complete_to_the_log(scene: Scene) -> None:
    entries = await scene.gate.wait_log(scene.exchanges)

    assert {entry["outcome"] for entry in entries} <= {"ok", "upstream_error"}
    assert {entry["error"] for entry in entries} == {None}
