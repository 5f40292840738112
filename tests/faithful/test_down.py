"""What an upstream sent is what the client gets, to the byte, for ten thousand made-up answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faithful.peers import Caller, Feeder, Message, Write
from tests.faithful.streams import Answer, answers
from tests.support.process import Tidegate, write_table
from tests.support.raw import post

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWERS = 10_000
AT_ONCE = 12
EXAMPLES = 1_500  # of eight answers or so; few enough are left when the one that fails is looked for
BODY: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 3,
    "messages": [],
}
CHAIN: list[Any] = [
    "prefix_rewrite",
    {"headers": {"set": {"X-Operator": "us"}}},
    {"key": {"env": "UP_KEY"}},
    {"token_floor": {"min": 1500}},
    {"timeout": {"connect": "10s", "first_byte": "30s", "first_token": "30s", "idle": "30s", "total": "50s"}},
    "usage",
]


class Scene:
    """A proxy between clients and an upstream that plays the answer that a request names."""

    def __init__(self) -> None:
        self.upstream = Feeder(self._play)
        self.exchanges = 0
        self._playing: Sequence[Answer] = ()

    def _play(self, request: Message) -> list[Write]:
        return self._playing[int(request.header("x-number") or "")].writes()

    def table(self) -> dict[str, Any]:
        plain = {"upstream": self.upstream.url}
        return {"plain": plain, "chain": {"upstream": self.upstream.url, "middlewares": CHAIN}}

    def connect(self, gate: Tidegate) -> None:
        self.gate = gate
        self.callers = [Caller(gate.port) for _ in range(AT_ONCE)]

    async def relay(self, answers: Sequence[Answer]) -> list[Message]:
        """The answers as they come down, two of three through the whole chain; all at once."""
        self._playing = answers
        self.exchanges += len(answers)
        async with asyncio.timeout(20):
            return await asyncio.gather(*map(self._ask, range(len(answers)), self.callers))

    async def _ask(self, number: int, caller: Caller) -> Message:
        answer = self._playing[number]
        body = {"model": f"{('plain', 'chain', 'chain')[number % 3]}/x"} | BODY
        if number % 3 == 2 and b'"usage"' not in answer.body:
            # Its stream passes through what takes an event out that only the proxy has asked for.
            del body["stream_options"]
        return await caller.ask(post(f"/v1/{answer.path}", body, {"X-Number": str(number)}))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    scene = Scene()
    async with scene.upstream:
        table = write_table(tmp_path_factory.mktemp("down"), scene.table())
        async with Tidegate(table, env={"UP_KEY": "canary-key-of-the-way-down"}) as gate:
            scene.connect(gate)
            yield scene
            for caller in scene.callers:
                caller.close()
    assert not scene.upstream.failures


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Minutes are for finding the smallest of the answers that fail, and for a machine that does other things.
@pytest.mark.timeout(500)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(sent=st.lists(answers, min_size=4, max_size=AT_ONCE))
async def test_answers_come_down_as_they_were_sent(scene: Scene, sent: list[Answer]) -> None:
    got = await scene.relay(sent)

    for answer, message in zip(sent, got, strict=True):
        assert (message.status, message.whole) == (answer.status, True), answer
        assert sha256(message.body) == sha256(answer.body), answer


async def test_every_one_of_them_was_complete_to_the_log(scene: Scene) -> None:
    """In the order of the file: the exchanges of the test above have been made."""
    entries = await scene.gate.wait_log(scene.exchanges)

    assert len(entries) >= ANSWERS
    assert {entry["outcome"] for entry in entries} <= {"ok", "upstream_error"}
    assert {entry["error"] for entry in entries} == {None}
