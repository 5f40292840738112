from __future__ import annotations

from middlewares.chain import compile_chain
from middlewares.exchange import Exchange, Handler, Reply
from middlewares.faults import Refusal
from tests.middlewares.fakes import FakeNext, exchange_of, reply_of


class Noting:
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        self._log.append(f"{self._name} before")
        reply = await call_next(exchange)
        self._log.append(f"{self._name} after")
        return reply


class Answering:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        return self._reply


class Persistent:
    """Calls on until it gets an answer."""

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        try:
            return await call_next(exchange)
        except Refusal:
            return await call_next(exchange)


async def test_the_first_listed_sees_the_request_first_and_the_reply_last():
    log: list[str] = []
    innermost = FakeNext()
    exchange = exchange_of()
    handler = compile_chain([Noting("a", log), Noting("b", log), Noting("c", log)], innermost)
    assert await handler(exchange) is innermost.reply
    assert log == ["a before", "b before", "c before", "c after", "b after", "a after"]
    assert innermost.exchange is exchange


async def test_an_empty_chain_is_the_innermost_handler():
    innermost = FakeNext()
    assert compile_chain([], innermost) is innermost


async def test_what_stands_behind_an_answering_middleware_is_not_run():
    log: list[str] = []
    innermost = FakeNext()
    reply = reply_of(b"no", status=403)
    handler = compile_chain([Noting("a", log), Answering(reply), Noting("b", log)], innermost)
    assert await handler(exchange_of()) is reply
    assert log == ["a before", "a after"]
    assert innermost.calls == 0


async def test_one_compiled_chain_serves_many_exchanges():
    log: list[str] = []
    innermost = FakeNext()
    handler = compile_chain([Noting("a", log)], innermost)
    for _ in range(3):
        await handler(exchange_of())
    assert innermost.calls == 3
    assert log == ["a before", "a after"] * 3


async def test_what_stands_after_a_middleware_runs_again_for_each_of_its_calls():
    log: list[str] = []
    calls = 0

    async def failing_once(exchange: Exchange) -> Reply:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Refusal("queue_full", "Later.")
        return reply_of(b"{}")

    handler = compile_chain([Noting("a", log), Persistent(), Noting("b", log)], failing_once)
    assert (await handler(exchange_of())).status == 200
    assert log == ["a before", "b before", "b before", "b after", "a after"]
