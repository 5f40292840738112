"""What a breaker makes of 429: a burst is waited out elsewhere, a quota opens it for as long as it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from middlewares.breaker import Breaker, Options
from middlewares.exchange import Exchange, Reply
from middlewares.faults import UpstreamFault
from tests.middlewares.breakers import FAILURES, RESET, Scene, limited
from tests.middlewares.fakes import deps_of, exchange_of, pumped, reply_of, settle

OLLAMA = b'{"error":"you (someone) have reached your session usage limit, upgrade for higher limits"}'


@pytest.mark.parametrize(
    ("make", "seconds"),
    [
        (lambda: limited(headers={"Retry-After": "61"}), 61),
        (lambda: limited(headers={"retry-after-ms": "90000"}), 90),
        (lambda: limited(OLLAMA), 3600),
        (lambda: limited(OLLAMA.upper()), 3600),
        (lambda: limited(OLLAMA, {"Retry-After": "20"}), 20),
        (lambda: limited(OLLAMA, {"Retry-After": "900"}), 900),
        (lambda: limited(b'{"error":{"code":"insufficient_quota"}}'), 3600),
    ],
)
async def test_a_quota_opens_it_for_as_long_as_it_lasts(make: Callable[[], Reply], seconds: float) -> None:
    scene = Scene(cooldown=5.0)
    await scene.ask(make())
    scene.now += seconds - 0.5
    assert scene.state == "open"
    assert await scene.ask(200) == "breaker_open"
    scene.now += 0.5
    assert scene.state == "half_open"


async def test_an_answer_to_what_was_asked_before_a_quota_does_not_end_it() -> None:
    scene = Scene()
    early = await scene.begin(200)
    await scene.ask(limited(headers={"Retry-After": "3000"}))
    await scene.end(*early)
    assert scene.state == "open"
    for _ in range(FAILURES):
        assert await scene.ask(RESET) == "breaker_open"
    scene.now += 2999
    assert scene.state == "open", "a cooldown shortened the quota"


async def test_a_shorter_quota_that_is_told_later_does_not_shorten_the_longer() -> None:
    scene = Scene()
    told = asyncio.Event()

    async def late(_exchange: Exchange) -> Reply:
        await told.wait()
        return limited(headers={"Retry-After": "61"})

    waiting = asyncio.create_task(scene.breaker(exchange_of(), late))
    await settle(waiting)
    await scene.ask(limited(headers={"Retry-After": "3000"}))
    told.set()
    await waiting
    scene.now += 2999
    assert scene.state == "open"


async def test_the_routes_own_bound_tells_a_quota_from_a_burst() -> None:
    now = 0.0
    deps = replace(deps_of(), retry_after_max=5.0)
    breaker = Breaker(Options(), deps, now=lambda: now)

    async def rest(_exchange: Exchange) -> Reply:
        return limited(headers={"Retry-After": "6"})

    await breaker(exchange_of(), rest)
    assert breaker.circuit.state == "open"


@pytest.mark.parametrize("header", ["60", "0", "soon", "-1"])
async def test_a_burst_does_not_open_it(header: str) -> None:
    scene = Scene(failures=1)
    for _ in range(5):
        await scene.ask(limited(b'{"error":{"message":"slow down"}}', {"Retry-After": header}))
    assert scene.state == "closed"


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 300_000])
async def test_a_limits_body_passes_whole_after_it_was_read(size: int) -> None:
    scene = Scene()
    body = (b'{"error":"wait"}' + b"0123456789" * (size // 10 + 1))[:size]
    pieces = [body[start : start + 5000] for start in range(0, size, 5000)]
    reply = reply_of(*pieces, status=429, kind="application/json")
    _, passed = await scene.begin(reply)
    assert b"".join(await pumped(passed.body)) == body
    assert scene.state == "closed"


async def test_a_limit_whose_body_breaks_off_is_a_failure() -> None:
    scene = Scene(failures=1)
    cut = UpstreamFault("upstream_cut", "cut")
    assert await scene.ask(reply_of(b'{"err', cut, status=429)) == "upstream_cut"
    assert scene.state == "open"
