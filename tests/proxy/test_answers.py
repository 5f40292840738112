"""Answers of providers, fed in any pieces: what the reader gets, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.faults import UpstreamFault
from proxy.answers import Answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


class Line:
    """A connection that notes what its answer wants of it."""

    def __init__(self) -> None:
        self.reading = True
        self.spoilt = False
        self.let_go = 0
        self.rest: bytes | None = None

    def read_no_more(self) -> None:
        self.reading = False

    def read_on(self) -> None:
        self.reading = True

    def spoil(self) -> None:
        self.spoilt = True

    def over(self) -> None:
        self.let_go += 1

    def switched(self, rest: bytes) -> None:
        self.rest = rest


def begun(*, head_only: bool = False) -> tuple[Answer, Line]:
    line = Line()
    return Answer(line, "up", head_only=head_only), line


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if b > a]


async def read(answer: Answer, pieces: list[bytes]) -> bytes:
    """All of its body, fed while it is pumped."""
    got = bytearray()
    pumping = asyncio.create_task(answer.pump(got.extend))
    for piece in pieces:
        await asyncio.sleep(0)
        answer.feed(piece)
    async with asyncio.timeout(5.0):
        assert await pumping is True
    return bytes(got)


@given(st.binary(max_size=300), st.lists(st.integers(0, 2000)), st.booleans(), st.booleans())
def test_any_pieces_make_the_same_answer(
    body: bytes, places: list[int], chunked: bool, announced: bool
) -> None:
    if chunked:
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in parts
        )
        framed += b"0\r\nX-Trailer: x\r\n\r\n"
    else:
        framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    before = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" if announced else b""

    async def run() -> None:
        answer, line = begun()
        assert await read(answer, cut_at(before + HEAD + framed, places)) == body
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
        assert "x-trailer" not in answer.headers and "link" not in answer.headers
        assert (line.let_go, line.spoilt) == (1, False)

    asyncio.run(run())


async def test_a_body_without_a_length_ends_with_its_connection_and_a_reset_is_no_end() -> None:
    for error in (None, ConnectionResetError()):
        answer, _ = begun()
        answer.feed(HEAD + b"\r\nwords")
        got = bytearray()
        pumping = asyncio.create_task(answer.pump(got.extend))
        await asyncio.sleep(0)
        answer.lost(error)
        if error is None:
            assert await pumping is True
        else:
            with pytest.raises(UpstreamFault) as caught:
                await pumping
            assert caught.value.code == "upstream_cut"
        assert got == b"words"


async def test_an_answer_lets_go_of_its_connection_once_and_touches_it_no_more() -> None:
    """By then it may be another answer's."""
    answer, line = begun()
    answer.feed(HEAD + b"Content-Length: 5\r\n\r\nwords")
    assert line.let_go == 1
    answer.pause()
    assert line.reading
    answer.close()
    answer.resume()
    answer.lost(ConnectionResetError())

    assert (line.let_go, line.reading, line.spoilt) == (1, True, False)


async def test_what_comes_behind_an_answer_spoils_the_connection_and_not_the_answer() -> None:
    for behind in (HEAD + b"Content-Length: 5\r\n\r\nstale", b"garbage"):
        answer, line = begun()
        answer.feed(HEAD + b"Content-Length: 5\r\n\r\nwords" + behind)
        got = bytearray()

        assert await answer.pump(got.extend) is True
        assert bytes(got) == b"words" and line.spoilt


async def test_what_is_not_read_halts_the_connection_until_it_is() -> None:
    answer, line = begun()
    answer.feed(HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 100_000)
    assert not line.reading
    got = bytearray()
    pumping = asyncio.create_task(answer.pump(got.extend))
    await asyncio.sleep(0)
    assert line.reading and len(got) == 100_000
    answer.feed(b"x" * 100_000)

    assert await pumping is True and len(got) == 200_000


async def test_halting_keeps_what_follows_for_the_next_reader() -> None:
    answer, _ = begun()
    first, rest = bytearray(), bytearray()

    def take_one(piece: bytes) -> None:
        first.extend(piece)
        answer.halt()

    pumping = asyncio.create_task(answer.pump(take_one))
    await asyncio.sleep(0)
    answer.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert await pumping is False
    assert await answer.pump(rest.extend) is True

    assert (bytes(first), bytes(rest)) == (b"one", b"two")


async def test_what_a_sink_raises_is_raised_to_whoever_pumps() -> None:
    answer, _ = begun()

    def breaks(_piece: bytes) -> None:
        raise ZeroDivisionError

    pumping = asyncio.create_task(answer.pump(breaks))
    await asyncio.sleep(0)
    answer.feed(HEAD + b"Content-Length: 9\r\n\r\nwords")
    with pytest.raises(ZeroDivisionError):
        await pumping


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_the_answer_to_head_is_its_head(status: bytes) -> None:
    answer, line = begun(head_only=True)
    answer.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    await answer.head()

    assert await answer.pump(lambda _: pytest.fail("there is no body")) is True
    assert line.let_go == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"what is this\r\n\r\n", "upstream_protocol"),
        (b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n", "upstream_protocol"),
        (HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n", "upstream_protocol"),
        (HEAD + b"".join(b"X-%d: x\r\n" % i for i in range(200)) + b"\r\n", "upstream_protocol"),
        (HEAD + b"X: " + b"x" * 40_000 + b"\r\n\r\n", "upstream_protocol"),
        (b"HTTP/1.1 103 Hint\r\nX: y\r\n\r\n" * 300_000, "upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\nX: y", "upstream_reset"),
        (b"", "upstream_reset"),
    ],
)
async def test_what_is_no_answer_has_its_code(said: bytes, code: str) -> None:
    answer, line = begun()
    for start in range(0, len(said), 65_536):
        answer.feed(said[start : start + 65_536])
    answer.lost(None)
    with pytest.raises(UpstreamFault) as caught:
        await answer.head()

    assert caught.value.code == code
    answer.close()
    assert line.spoilt and line.let_go == 1


async def test_a_switch_of_protocols_hands_on_what_came_with_it() -> None:
    answer, line = begun()
    answer.feed(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes")
    await answer.head()

    assert (answer.status, line.rest, line.let_go) == (101, b"frames", 0)
