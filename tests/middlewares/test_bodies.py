from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from middlewares.bodies import FixedBody, Gate, HeldBody, PiecesBody, read_up_to
from tests.middlewares.fakes import FakeBody, pumped, settle


async def made(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 1_000_000])
async def test_a_fixed_body_comes_in_one_piece_and_once(data):
    body = FixedBody(data)
    assert await pumped(body) == ([data] if data else [])
    assert await pumped(body) == []
    body.close()


async def test_a_halted_fixed_body_ends_with_the_next_pump():
    body = FixedBody(b"{}")
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        body.halt()

    assert not await body.pump(take)
    assert await body.pump(take)
    assert pieces == [b"{}"]


async def test_a_held_body_comes_with_its_rest_behind_it():
    rest = FakeBody(b"c", b"d")
    assert await pumped(HeldBody([b"a", b"b"], rest)) == [b"a", b"b", b"c", b"d"]


async def test_a_held_body_hands_on_to_its_rest_what_it_is_told():
    rest = FakeBody(b"b", b"c")
    body = HeldBody([b"a"], rest)
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if piece == b"b":
            body.halt()

    assert not await body.pump(take)
    assert pieces == [b"a", b"b"]
    assert await pumped(body) == [b"c"]
    body.pause()
    body.resume()
    body.close()
    assert rest.calls == ["pause", "resume"] and rest.closed


async def test_a_held_body_can_be_halted_at_a_piece_that_was_held():
    body = HeldBody([b"a", b"b"], FakeBody(b"c"))
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        body.halt()

    assert not await body.pump(take)
    assert pieces == [b"a"]
    assert await pumped(body) == [b"b", b"c"]


async def test_a_made_body_comes_as_it_is_made_and_goes_on_after_a_halt():
    body = PiecesBody(made(b"a", b"b", b"c"))
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if piece == b"b":
            body.halt()

    assert not await body.pump(take)
    assert pieces == [b"a", b"b"]
    assert await pumped(body) == [b"c"]
    body.close()


async def test_a_made_body_waits_while_its_reader_is_slow():
    body = PiecesBody(made(b"a", b"b"))
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if piece == b"a":
            body.pause()

    task = asyncio.create_task(body.pump(take))
    await settle(task)
    assert pieces == [b"a"] and not task.done()
    body.resume()
    assert await task
    assert pieces == [b"a", b"b"]


async def test_a_gate_opens_for_all_who_wait_and_may_close_and_open_at_will():
    gate = Gate()
    await gate.passed()
    gate.resume()
    gate.pause()
    waiting = [asyncio.create_task(gate.passed()) for _ in range(3)]
    await settle(waiting[-1])
    gate.pause()
    await settle(waiting[-1])
    assert not any(task.done() for task in waiting)
    gate.resume()
    await asyncio.gather(*waiting)
    await gate.passed()


async def test_a_gate_that_closes_again_at_once_stays_closed():
    gate = Gate()
    gate.pause()
    task = asyncio.create_task(gate.passed())
    await settle(task)
    gate.resume()
    gate.pause()
    await settle(task)
    assert not task.done()
    gate.resume()
    await task


async def test_reading_up_to_a_limit_stops_once_it_is_passed_and_can_go_on():
    body = FakeBody(b"aa", b"bb", b"cc")

    assert await read_up_to(3, body) == ([b"aa", b"bb"], False)
    assert await read_up_to(3, body) == ([b"cc"], True)
