"""Several keys for one provider: who rests, who is next, and what the client gets in the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from time import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.secrets import SecretStore
from middlewares.exchange import Deps, Exchange, Reply, Upload
from middlewares.faults import Refusal, UpstreamFault
from middlewares.key import Key, Options
from middlewares.keyring import Keyring
from middlewares.resting import Resting
from middlewares.states import States
from tests.middlewares.fakes import exchange_of, pumped, reply_of

KEYS = {name: f"sk-canary-{name.lower() * 16}" for name in "ABC"}


class Route:
    """A route with the keys A, B and C, whose provider answers each key as `says` has it."""

    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.states = States()
        self.ring = self.states.keep(Keyring, "kimi", lambda: Keyring(Resting(lambda: self.now)))
        self.environ = dict(KEYS)
        self.names = names or ("A", "B", "C")
        self.says: dict[str, Callable[[], Reply]] = {}
        self.asked: list[str] = []
        self.bodies: list[object] = []
        self.held: list[str] = []
        self.made()

    def made(self) -> None:
        """As after a reload: all anew but what outlives it."""
        options = msgspec.convert([{"env": name} for name in self.names], Options)
        store = SecretStore(self.environ, Path("/nowhere"))
        self.key = Key(options, Deps("kimi", "", store, "", states=self.states))

    async def call(self, exchange: Exchange) -> Reply:
        value = exchange.headers["Authorization"].removeprefix("Bearer ")
        name = next(name for name, key in self.environ.items() if key == value)
        self.asked.append(name)
        self.bodies.append(exchange.model)
        exchange.rename_model(f"{exchange.model}+")  # what stands after `key` runs again for each
        exchange.stack.callback(self.held.append, name)
        return self.says.get(name, good)()

    async def ask(self, **request: object) -> Reply:
        self.asked.clear()
        exchange = exchange_of(b'{"model":"m"}', **request)  # type: ignore[arg-type]
        outer = exchange.stack
        reply = await self.key(exchange, self.call)
        assert exchange.stack is outer
        return reply

    def resting(self) -> dict[str, float]:
        return {state.place[4:]: state.resting_for for state in self.key.states() if state.resting_for}


def good() -> Reply:
    return reply_of(b"{}", kind="application/json")


def refused(status: int, wait: str | None = None, body: bytes = b'{"error":{}}') -> Callable[[], Reply]:
    headers = {} if wait is None else {"Retry-After": wait}
    return lambda: reply_of(body, status=status, kind="application/json", headers=headers)


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_a_key_that_is_refused_rests_and_the_next_is_tried_at_once(status: int) -> None:
    route = Route()
    route.says["A"] = refused(status)
    assert (await route.ask()).status == 200
    assert route.asked == ["A", "B"] and route.resting() == {"A": 60.0}
    assert [(await route.ask(), *route.asked)[1:] for _ in range(4)] == [("C",), ("B",), ("C",), ("B",)]
    route.now += 60
    assert route.resting() == {}
    del route.says["A"]
    await route.ask()
    await route.ask()
    assert route.asked == ["A"]


@pytest.mark.parametrize("status", [200, 400, 403, 404, 408, 500, 503])
async def test_no_other_answer_rests_a_key(status: int) -> None:
    route = Route()
    route.says["A"] = refused(status)
    assert (await route.ask()).status == status
    assert route.asked == ["A"] and route.resting() == {}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("86400", 86400.0), ("soon", 60.0), ("-3", 60.0), (None, 60.0), ("0", 0.0)],
)
async def test_it_rests_for_as_long_as_the_provider_says(wait: str | None, seconds: float) -> None:
    route = Route()
    route.says["A"] = refused(429, wait)
    await route.ask()
    assert route.resting().get("A", 0.0) == pytest.approx(seconds)
    assert route.asked == ["A", "B"]


async def test_a_date_is_a_wait_as_well() -> None:
    route = Route()
    route.says["A"] = refused(429, formatdate(time() + 100, usegmt=True))
    await route.ask()
    assert 90 < route.resting()["A"] <= 100


async def test_each_call_begins_from_the_request_as_it_came_and_holds_nothing_of_the_one_before() -> None:
    route = Route()
    route.says = {"A": refused(401), "B": refused(429)}
    await route.ask()
    assert route.bodies == ["m", "m", "m"]
    assert route.held == ["A", "B"]  # C's is held until the exchange is over


async def test_when_all_are_refused_the_answer_that_is_worth_most_passes_whole() -> None:
    for order, wanted in (((429, 401, 402), 429), ((401, 402, 401), 402), ((402, 429, 401), 429)):
        route = Route()
        for name, status in zip("ABC", order, strict=True):
            route.says[name] = refused(status, "5", f'{{"error":"{name}"}}'.encode())
        reply = await route.ask()
        assert reply.status == wanted
        name = "ABC"[order.index(wanted)]
        assert await pumped(reply.body) == [f'{{"error":"{name}"}}'.encode()]
        assert route.asked == ["A", "B", "C"] and set(route.resting()) == set("ABC")


async def test_when_all_rest_the_one_that_wakes_first_is_asked_and_its_answer_passes() -> None:
    route = Route()
    route.says = {"A": refused(429, "30"), "B": refused(429, "10"), "C": refused(429, "20")}
    await route.ask()
    assert (await route.ask()).status == 429
    assert route.asked == ["B"]
    del route.says["B"]
    assert (await route.ask()).status == 200
    assert route.asked == ["B"] and set(route.resting()) == {"A", "C"}  # it is awake


async def test_rests_and_turns_outlive_a_table() -> None:
    route = Route()
    route.says["A"] = refused(401)
    await route.ask()
    route.made()
    await route.ask()
    assert route.asked == ["C"] and route.resting() == {"A": 60.0}


async def test_a_key_that_was_replaced_is_a_new_one() -> None:
    route = Route()
    route.says["A"] = refused(401)
    await route.ask()
    route.environ["A"] = "sk-canary-dddddddddddddddd"
    route.made()
    assert route.resting() == {}


async def test_a_single_key_is_never_left_out() -> None:
    for route in (Route("A"), Route("A", "A")):
        route.says["A"] = refused(429, "50")
        assert [(await route.ask()).status, *route.asked] == [429, "A"]
        assert [(await route.ask()).status, *route.asked] == [429, "A"]


async def test_an_upload_is_gone_after_the_first_call() -> None:
    async def pieces():
        yield b"x"

    route = Route()
    route.says["A"] = refused(401)
    exchange = exchange_of(Upload(pieces(), 1))
    reply = await route.key(exchange, route.call)
    assert (reply.status, route.asked, route.resting()) == (401, ["A"], {"A": 60.0})


async def test_an_error_about_the_request_rests_no_key_whatever_its_status() -> None:
    route = Route()
    route.says["A"] = refused(429, None, b'{"error":{"code":"context_length_exceeded"}}')
    reply = await route.ask()
    assert reply.status == 429 and route.asked == ["A"] and route.resting() == {}
    assert await pumped(reply.body) == [b'{"error":{"code":"context_length_exceeded"}}']


async def test_a_fault_is_no_answer_about_a_key() -> None:
    def fails() -> Reply:
        raise UpstreamFault("upstream_connect", "no")

    route = Route()
    route.says["A"] = fails
    with pytest.raises(UpstreamFault):
        await route.ask()
    assert route.asked == ["A"] and route.resting() == {}


async def test_a_breaker_inside_that_opens_leaves_the_provider_s_own_words() -> None:
    def opened() -> Reply:
        raise Refusal("breaker_open", "no")

    route = Route()
    route.says = {"A": refused(429, "5"), "B": opened, "C": opened}
    assert (await route.ask()).status == 429
    with pytest.raises(Refusal):
        await route.ask()


STATUSES = st.lists(st.sampled_from([200, 401, 402, 403, 429, 500]), min_size=3, max_size=3)


@given(st.lists(st.tuples(STATUSES, st.integers(0, 90))))
async def test_over_any_history_no_key_is_asked_twice_for_one_request_and_one_is_always_asked(
    history: list[tuple[list[int], int]],
) -> None:
    route = Route()
    for statuses, passes in history:
        route.says = {name: refused(status) for name, status in zip("ABC", statuses, strict=True)}
        rested = set(route.resting())
        reply = await route.ask()
        says = dict(zip("ABC", statuses, strict=True))
        about_keys = [name for name in route.asked if says[name] in (401, 402, 429)]
        assert 1 <= len(route.asked) == len(set(route.asked))
        assert rested == set("ABC") or not rested & set(route.asked)
        assert set(about_keys) <= set(route.resting())
        if reply.status in (401, 402, 429):
            assert set(route.resting()) == set("ABC")
        route.now += passes


async def test_the_state_of_each_is_told_by_its_place_and_never_by_its_value(tmp_path) -> None:
    (tmp_path / "A").write_text("sk-canary-eeeeeeeeeeeeeeee")
    (tmp_path / "A").chmod(0o600)
    (tmp_path / "cred").write_text("sk-canary-ffffffffffffffff")
    options = [
        {"env": "A", "file": "A"},
        {"env": "NONE", "credential": "cred"},
        {"env": "NONE", "file": str(tmp_path / "A")},
        {"env": "NONE", "credential": "none", "file": "none"},
        {"pass": True},
    ]
    store = SecretStore({**KEYS, "CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    key = Key(msgspec.convert(options, Options), Deps("kimi", "", store, ""))
    assert key.states() == [
        ("env A", True, 0.0),
        ("credential cred", True, 0.0),
        (f"file {tmp_path / 'A'}", True, 0.0),
        ("env NONE, credential none, file none", False, 0.0),
        ("the client's own", True, 0.0),
    ]
    assert "canary" not in repr(key.states())


async def test_what_was_held_for_a_call_is_let_go_once(tmp_path) -> None:
    route = Route()
    route.says["A"] = refused(401)
    exchange = exchange_of(b'{"model":"m"}')
    async with AsyncExitStack() as stack:
        exchange.stack = stack
        await route.key(exchange, route.call)
        assert route.held == ["A"]
    assert route.held == ["A", "B"]
