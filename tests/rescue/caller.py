"""The client: it asks once, and tells what came, how long it took, and whether that was all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.rescue.rungs import CLIENT_KEY, Heard
from tests.support.raw import RawClient, header, post
from tests.support.waiting import Bell

CHAT = "/v1/chat/completions"
_PATIENCE_S = 20.0


class Shown:
    """What the client has of an answer, for a provider that breaks off only when that much of it is there.

    One that closes at once may be seen to have closed before the last of its bytes are looked at. With
    `waits` False, for answers that are held back, nobody is kept waiting.
    """

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self._size = 0
        self._bell = Bell()

    def note(self, piece: bytes) -> None:
        self._size += len(piece)
        self._bell.ring()

    async def all_of(self, size: int) -> None:
        if self._waits:
            await self._bell.until(lambda: self._size >= size, 10.0, lambda: f"{self._size} of {size} bytes")


async def ask(port: int, model: str, *, stream: bool = True, shown: Shown | None = None) -> Heard:
    """Ask on a connection of its own. Raises TimeoutError where the answer hangs."""
    loop = asyncio.get_running_loop()
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    credentials = {"Authorization": f"Bearer {CLIENT_KEY}"}
    pieces: list[bytes] = []
    ended = True
    async with asyncio.timeout(_PATIENCE_S), RawClient(port) as client:
        began = loop.time()
        await client.send(post(CHAT, body, credentials))
        status, headers = await client.read_head()
        try:
            async for piece in _pieces(client, headers):
                pieces.append(piece)
                if shown is not None:
                    shown.note(piece)
        except (asyncio.IncompleteReadError, ConnectionError):
            ended = False
        return Heard(status, headers, loop.time() - began, ended, b"".join(pieces))


async def _pieces(client: RawClient, headers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
    """The body as it comes. Raises IncompleteReadError where it ends before its end."""
    length = header(headers, "content-length")
    if length is None:
        async for _, piece in client.read_chunks():
            yield piece
        return
    left = int(length)
    while left:
        piece = await client.read_some()
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece
