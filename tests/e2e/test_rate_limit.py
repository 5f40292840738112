"""`rate_limit` in the real process: what is refused, in which words, and what is given back in the end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.metrics import ADMIN, figures
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.scene import CHAT, read_answer, scene_with
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    chat,
    cut_after,
    head_then_silent,
    reset_before_head,
    silent,
    sse_event,
)

BODY = {"model": "up/x", "messages": []}
STREAM = {**BODY, "stream": True}
WayOut = Callable[[RawClient, Tidegate], Awaitable[None]]


def limited(**options: Any) -> dict[str, Any]:
    return {"rate_limit": {"per": "route", **options}}


async def ask(
    port: int, body: Any = BODY, *headers: tuple[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(port) as client:
        await client.send(post(CHAT, body, headers))
        return await read_answer(client)


async def test_the_bucket_is_there_at_once_and_retry_after_is_right_to_the_second(tmp_path: Path) -> None:
    async with scene_with(tmp_path, limited(requests="15/min")) as scene:
        loop = asyncio.get_running_loop()
        async with RawClient(scene.gate.port) as client:

            async def once() -> tuple[int, list[tuple[str, str]], bytes]:
                await client.send(post(CHAT, BODY))
                return await read_answer(client)

            statuses = [(await once())[0] for _ in range(15)]
            status, headers, body = await once()
            refused_at = loop.time()
            after = int(header(headers, "retry-after") or 0)
            await asyncio.sleep(after - 1)  # what is measured
            too_early, later, _ = await once()
            await asyncio.sleep(refused_at + after - loop.time())
            in_time, *_ = await once()

    assert statuses == [200] * 15
    assert (after, too_early, in_time) == (4, 429, 200)
    assert header(later, "retry-after") == "1"
    assert (status, header(headers, "x-tidegate-error")) == (429, "rate_limited")
    assert header(headers, "x-should-retry") is None
    error = json.loads(body)["error"]
    assert error["code"] == "rate_limited" and error["type"] == "rate_limit_error"
    assert error["message"] == "The limit of 15 requests/min for the route 'up' is reached: wait 4 s."


async def test_each_address_has_its_own_and_an_ipv6_network_is_one(tmp_path: Path) -> None:
    limits = [limited(requests="2/h", per="address")]
    server = {"trusted_proxies": ["127.0.0.1"]}
    statuses: dict[str, list[int]] = {}
    async with scene_with(tmp_path, server=server, middlewares=limits) as scene:
        for address in (
            *("10.0.0.1",) * 3,
            "10.0.0.2",
            *("2001:db8::1", "2001:db8:0:0:ffff::7", "2001:db8::3", "2001:db8:0:1::1"),
            *("::ffff:10.0.0.1",),
        ):
            status, *_ = await ask(scene.gate.port, BODY, ("X-Forwarded-For", f"6.6.6.6, {address}"))
            statuses.setdefault(address, []).append(status)

    assert statuses == {
        "10.0.0.1": [200, 200, 429],
        "10.0.0.2": [200],
        "2001:db8::1": [200],
        "2001:db8:0:0:ffff::7": [200],
        "2001:db8::3": [429],
        "2001:db8:0:1::1": [200],
        "::ffff:10.0.0.1": [429],
    }


async def test_at_the_top_level_each_route_has_its_own(tmp_path: Path) -> None:
    async with scene_with(tmp_path, middlewares=[limited(requests="1/h")]) as scene:
        statuses = [
            (await ask(scene.gate.port, {"model": model, "messages": []}))[0]
            for model in ("up/x", "raw/x", "up/x", "raw/x")
        ]

    assert statuses == [200, 200, 429, 429]


async def test_a_ladder_moves_on_from_a_route_that_is_at_its_limit(tmp_path: Path) -> None:
    models = {"both": ["up/a", "raw/b"]}
    async with scene_with(tmp_path, limited(requests="1/h"), models=models, server=ADMIN) as scene:
        routes = []
        for _ in range(2):
            _, headers, _ = await ask(scene.gate.port, {"model": "both", "messages": []})
            routes.append(header(headers, "x-tidegate-route"))
        told = await figures(scene.gate)

    assert routes == ["up", "raw"]
    assert told.value("tidegate_attempts_total", route="up", result="rate_limited") == 1


async def test_before_retry_exchanges_count_and_after_it_every_call(tmp_path: Path) -> None:
    retry = {"retry": {"backoff": {"initial": "1ms", "max": "1ms"}}}
    told = []
    for number, chain in enumerate(([limited(requests="2/h"), retry], [retry, limited(requests="2/h")])):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with scene_with(folder, *chain) as scene:
            scene.upstream.behaviour = answer(500, {"error": {"message": "no"}})
            statuses = [(await ask(scene.gate.port))[0] for _ in range(3)]
            told.append((statuses, len(scene.upstream.seen)))

    assert told == [([500, 500, 429], 6), ([429, 429, 429], 2)]


async def left_tokens(gate: Tidegate) -> int:
    """How many tokens of a thousand an hour are left, by what a request that wants all of them is told."""
    status, headers, _ = await ask(gate.port, {"model": "up/x", "messages": [], "max_tokens": 10**6})
    if status != 429:
        return 1000
    return round(1000 - int(header(headers, "retry-after") or 0) / 3.6)


USAGE = {"prompt_tokens": 30, "completion_tokens": 20}
TEXT = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}


def events(count: int, usage: Any = None) -> Behaviour:
    """A stream of so many pieces of text."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        piece = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
        await wire.sse(*[piece] * count, last)

    return behave


def events_and_silence() -> Behaviour:
    """A stream that stops in the middle."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.sse({"choices": [{"index": 0, "delta": {"content": "a"}}]}, done=False)
        await wire.client_gone()

    return behave


@pytest.mark.parametrize(
    ("behaviour", "body", "left"),
    [
        pytest.param(answer(200, {**TEXT, "usage": USAGE}), BODY, 950, id="what the answer says"),
        pytest.param(
            answer(200, {**TEXT, "usage": USAGE}), {**BODY, "max_tokens": 900}, 950, id="not the ceiling"
        ),
        pytest.param(events(5, USAGE), STREAM, 950, id="what the stream says"),
        pytest.param(answer(200, TEXT), {**BODY, "max_tokens": 400}, 585, id="the guess if it says nothing"),
        pytest.param(events(300), STREAM, 685, id="an event a token if a stream says nothing"),
        pytest.param(answer(200, {**TEXT, "usage": {"prompt_tokens": 10**15}}), BODY, 989, id="no nonsense"),
        pytest.param(
            answer(500, {"error": {}, "usage": USAGE}), {**BODY, "max_tokens": 400}, 1000, id="an error"
        ),
        pytest.param(reset_before_head(), {**BODY, "max_tokens": 400}, 1000, id="no answer"),
        pytest.param(cut_after(40), {**STREAM, "max_tokens": 20}, 940, id="a stream that was cut"),
    ],
)
async def test_tokens_are_charged_by(behaviour: Behaviour, body: Any, left: int, tmp_path: Path) -> None:
    async with scene_with(tmp_path, limited(tokens="1000/h")) as scene:
        scene.upstream.behaviour = behaviour
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, body))
            await read(client, scene.gate)
        await scene.gate.wait_log(1)
        found = await left_tokens(scene.gate)

    assert abs(found - left) <= 12, found


async def test_a_picture_is_not_counted_as_text_and_a_long_prompt_is(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 20_000}}
    text = {"type": "text", "text": "a word " * 300}
    async with scene_with(tmp_path, limited(tokens="1000/h")) as scene:
        scene.upstream.behaviour = answer(200, TEXT)
        left = []
        for part in (picture, text):
            await ask(scene.gate.port, {"model": "up/x", "messages": [{"role": "user", "content": [part]}]})
            left.append(await left_tokens(scene.gate))

    assert left[0] > 900
    assert 480 <= left[0] - left[1] <= 620


WELL = answer(200, {**TEXT, "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


async def read(client: RawClient, _gate: Tidegate) -> None:
    """Take the answer, whatever it is."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await read_answer(client)


async def leave(client: RawClient, _gate: Tidegate) -> None:
    """Do not wait for it."""
    client.close()


async def leave_within(client: RawClient, _gate: Tidegate) -> None:
    """Leave in the middle of it."""
    await client.read_head()
    client.reset()


async def reload(client: RawClient, gate: Tidegate) -> None:
    """Have the table loaded anew meanwhile, and leave."""
    gate.process.send_signal(signal.SIGHUP)
    await gate.wait_event("reloaded")
    client.close()


HELD = {"concurrent": 1}
GUESSED = {"tokens": "1000/h"}


@pytest.mark.parametrize(
    ("limits", "behaviour", "way_out"),
    [
        pytest.param(HELD, events(3, USAGE), read, id="slot, whole"),
        pytest.param(HELD, answer(400, {"error": {"message": "no"}}), read, id="slot, refused"),
        pytest.param(HELD, reset_before_head(), read, id="slot, reset"),
        pytest.param(HELD, cut_after(2), read, id="slot, cut"),
        pytest.param(HELD, silent(), read, id="slot, timed out"),
        pytest.param(HELD, silent(), leave, id="slot, left before the head"),
        pytest.param(HELD, events_and_silence(), leave_within, id="slot, left within the answer"),
        pytest.param(HELD, silent(), reload, id="slot, reload"),
        pytest.param(GUESSED, events(3, USAGE), read, id="tokens, whole"),
        pytest.param(GUESSED, answer(400, {"error": {"message": "no"}}), read, id="tokens, refused"),
        pytest.param(GUESSED, reset_before_head(), read, id="tokens, reset"),
        pytest.param(GUESSED, silent(), read, id="tokens, timed out"),
    ],
)
async def test_what_is_held_while_an_exchange_runs_is_given_back(
    limits: dict[str, Any], behaviour: Behaviour, way_out: WayOut, tmp_path: Path
) -> None:
    """All of it is held: whoever comes next is let in only if it was given back."""
    body = {**STREAM, "max_tokens": 940}
    async with scene_with(tmp_path, limited(**limits), {"timeout": {"first_byte": "500ms"}}) as scene:
        scene.upstream.behaviour = behaviour
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, body))
            await scene.upstream.wait_seen(1)
            await way_out(client, scene.gate)
        await scene.gate.wait_log(1)
        scene.upstream.behaviour = WELL
        next_one, *_ = await ask(scene.gate.port, {**BODY, "max_tokens": 900})

    assert next_one == 200


async def test_whoever_leaves_a_provider_at_work_has_used_the_tokens_all_the_same(tmp_path: Path) -> None:
    async with scene_with(tmp_path, limited(tokens="1000/h")) as scene:
        scene.upstream.behaviour = silent()
        async with RawClient(scene.gate.port) as client:
            await client.send(post(CHAT, {**BODY, "max_tokens": 600}))
            await scene.upstream.wait_seen(1)
        await scene.gate.wait_log(1)
        left = await left_tokens(scene.gate)

    assert abs(left - 385) <= 12


async def test_a_slot_is_held_to_the_last_byte(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.sse({"choices": [{"index": 0, "delta": {"content": "a"}}]}, done=False)
        await release.wait()
        await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await wire.chunk(b"data: [DONE]\n\n")
        await wire.finish()

    async with scene_with(tmp_path, limited(concurrent=2)) as scene, AsyncExitStack() as stack:
        scene.upstream.behaviour = behave
        clients = [await stack.enter_async_context(RawClient(scene.gate.port)) for _ in range(2)]
        for client in clients:
            await client.send(post(CHAT, STREAM))
            await client.read_head()
        status, headers, body = await ask(scene.gate.port)
        release.set()
        for client in clients:
            await client.read_body()
        again, *_ = await ask(scene.gate.port, STREAM)

    assert (status, header(headers, "retry-after"), again) == (429, "1", 200)
    assert (
        json.loads(body)["error"]["message"] == "All 2 exchanges at a time of the route 'up' are under way."
    )


async def test_a_reload_keeps_what_was_used_and_what_is_held(tmp_path: Path) -> None:
    async with ScriptedUpstream(head_then_silent()) as upstream:

        def write(**limits: Any) -> Path:
            chain = ["prefix_rewrite", limited(**limits)]
            return write_table(tmp_path, {"up": {"upstream": upstream.url, "middlewares": chain}})

        async with Tidegate(write(requests="10/h", concurrent=2)) as gate:
            async with RawClient(gate.port) as holds:
                await holds.send(post(CHAT, STREAM))
                await upstream.wait_seen(1)
                upstream.behaviour = chat("well")
                used = [(await ask(gate.port))[0] for _ in range(5)]
                write(requests="8/h", concurrent=1)
                await gate.wait_event("reloaded")
                over_slots, headers, body = await ask(gate.port)
            await gate.wait_log(7)
            rest = [(await ask(gate.port))[0] for _ in range(3)]

    assert used == [200] * 5
    assert over_slots == 429 and b"exchanges at a time" in body and header(headers, "retry-after") == "1"
    # Six of the eight were used, the one that was held among them.
    assert rest == [200, 200, 429]


async def test_no_secret_and_no_address_is_told(tmp_path: Path) -> None:
    server = {"trusted_proxies": ["127.0.0.1"]}
    async with scene_with(
        tmp_path, server=server, middlewares=[limited(requests="1/d", per="address")]
    ) as scene:
        stranger = ("X-Forwarded-For", "203.0.113.77")
        await ask(scene.gate.port, BODY, stranger)
        _, _, body = await ask(scene.gate.port, BODY, stranger)
        fault = await scene.gate.wait_event("fault", code="rate_limited")

    assert b"203.0.113.77" not in body
    assert re.fullmatch(
        r"The limit of 1 requests/d for your address is reached: wait \d+ s\.", fault["message"]
    )
