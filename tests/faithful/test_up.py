"""What a client sends is what the upstream gets: to the byte, but for exactly the values that are changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faithful.peers import Caller, Feeder, Message, Write
from tests.faithful.requests import (
    UNREADABLE,
    Member,
    Request,
    forms,
    json_requests,
    objects,
    uploads,
)
from tests.support.process import Tidegate, write_table

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 12
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)


class Scene:
    """A proxy between clients and an upstream that keeps what arrives."""

    def __init__(self) -> None:
        self.upstream = Feeder(self._take)
        self._arrived: dict[int, Message] = {}

    def _take(self, request: Message) -> list[Write]:
        self._arrived[int(request.header("x-number") or "")] = request
        return [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"]

    def table(self) -> dict[str, Any]:
        chain = ["prefix_rewrite", {"token_floor": {"min": 1500}}]
        url = self.upstream.url
        return {"plain": {"upstream": url}, "chain": {"upstream": url, "middlewares": chain}}

    def connect(self, gate: Tidegate) -> None:
        self.callers = [Caller(gate.port) for _ in range(AT_ONCE)]

    async def send(self, requests: Sequence[Request]) -> list[Message]:
        """Send these, and see what arrives of them."""
        self._arrived.clear()
        asks = [
            caller.ask(*request.writes(number))
            for number, (request, caller) in enumerate(zip(requests, self.callers, strict=False))
        ]
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*asks)
        for request, answer in zip(requests, answers, strict=True):
            assert answer.status == 200, (request, answer)
        return [self._arrived[number] for number in range(len(requests))]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    scene = Scene()
    async with scene.upstream:
        async with Tidegate(write_table(tmp_path_factory.mktemp("up"), scene.table())) as gate:
            scene.connect(gate)
            yield scene
            for caller in scene.callers:
                caller.close()
    assert not scene.upstream.failures


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def value_of(lines: Sequence[bytes], name: bytes) -> str | None:
    values = [line.partition(b":")[2] for line in lines if line.lower().startswith(name + b":")]
    return values[0].strip().decode() if values else None


UNCHANGED = st.one_of(
    json_requests("/plain/v1/chat/completions", objects().map(lambda made: made[0])),
    json_requests("/plain/v1/responses", objects().map(lambda made: made[0])),
    json_requests("/plain/v1/chat/completions", st.sampled_from(UNREADABLE)),
    json_requests("/chain/v1/things/not/invented", objects().map(lambda made: made[0])),
    forms("/plain/v1/audio/transcriptions").map(lambda pair: pair[0]),
    forms("/plain/v1/images/edits").map(lambda pair: pair[1]),
    uploads("/plain/v1/files"),
    uploads("/chain/v1/files"),
)


@pytest.mark.timeout(500)  # for finding the smallest that fails
@MANY
@given(sent=st.lists(UNCHANGED, min_size=4, max_size=AT_ONCE))
async def test_a_body_that_nothing_changes_arrives_as_it_was_sent(scene: Scene, sent: list[Request]) -> None:
    for request, arrived in zip(sent, await scene.send(sent), strict=True):
        assert sha256(arrived.body) == sha256(request.body), request
        for name in (b"content-type", b"content-encoding"):
            assert arrived.header(name.decode()) == value_of(request.headers, name), request


MODELS = {b'"chain/x"': "x", b'"chain\\/y\\u00e9"': "yé", b'"chain/a/b:c"': "a/b:c", b'"other"': "other"}
BUDGETS = {b"3": b"1500", b"1499": b"1500", b"5000": b"5000", b"3.0": b"3.0", b"null": b"null", b"0": b"0"}


@st.composite
def changed(draw: st.DrawFn) -> tuple[Request, list[Member]]:
    """A request for the chain, and its members in order."""
    model = st.tuples(st.sampled_from([b'"model"', b'"mod\\u0065l"']), st.sampled_from(list(MODELS)))
    budget = st.tuples(st.just(b'"max_tokens"'), st.sampled_from(list(BUDGETS)))
    text, members = draw(objects(model, budget))
    made = json_requests("/chain/v1/chat/completions", st.just(text))
    return draw(made), members


NAME = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*')
NEXT = re.compile(rb"[ \t\r\n]*([,}])")


def check_members(body: bytes, members: list[Member]) -> None:
    """Member by member and byte by byte; no parser is asked for a value."""
    assert body.lstrip().startswith(b"{")
    position = body.index(b"{") + 1
    for name, value in members:
        found = NAME.match(body, position)
        assert found is not None and json.loads(found[1]) == json.loads(name)
        wanted = value
        if json.loads(name) == "model" and MODELS[value] != json.loads(value):
            wanted = json.dumps(MODELS[value], ensure_ascii=False).encode()
        elif json.loads(name) == "max_tokens":
            wanted = BUDGETS[value]
        assert body.startswith(wanted, found.end()), (wanted, body)
        end = NEXT.match(body, found.end() + len(wanted))
        assert end is not None and end[1] == (b"}" if (name, value) == members[-1] else b",")
        position = end.end()
    assert not body[position:].strip()


@pytest.mark.timeout(500)  # for finding the smallest that fails
@MANY
@given(sent=st.lists(changed(), min_size=4, max_size=AT_ONCE))
async def test_of_a_body_that_is_changed_every_other_value_keeps_its_bytes(
    scene: Scene, sent: list[tuple[Request, list[Member]]]
) -> None:
    arrived = await scene.send([request for request, _ in sent])

    for (request, members), message in zip(sent, arrived, strict=True):
        as_it_came = message.body == request.body
        assert message.header("content-encoding") == (
            value_of(request.headers, b"content-encoding") if as_it_came else None
        )
        if not as_it_came:
            check_members(message.body, members)
        else:
            values = {json.loads(name): value for name, value in members}
            assert MODELS[values["model"]] == json.loads(values["model"])
            assert BUDGETS[values["max_tokens"]] == values["max_tokens"]


@pytest.mark.timeout(500)  # for finding the smallest that fails
@settings(MANY, max_examples=70)
@given(sent=st.lists(forms("/v1/audio/transcriptions"), min_size=4, max_size=AT_ONCE))
async def test_of_a_form_only_the_model_is_another(scene: Scene, sent: list[tuple[Request, Request]]) -> None:
    arrived = await scene.send([request for request, _ in sent])

    for (_, wanted), message in zip(sent, arrived, strict=True):
        assert sha256(message.body) == sha256(wanted.body), wanted
