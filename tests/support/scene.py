"""A gate with one scripted provider behind it, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import ScriptedUpstream, chat

CHAT = "/v1/chat/completions"
BODY = {"model": "up/x", "messages": []}


@dataclass
class Scene:
    """`up` renames models and so reads its bodies, `raw` changes nothing."""

    gate: Tidegate
    upstream: ScriptedUpstream

    async def say(self, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """One request on a connection of its own, and its answer."""
        async with RawClient(self.gate.port) as client:
            await client.send(request)
            return await read_answer(client, bodiless=request.startswith(b"HEAD"))

    async def serves(self, client: RawClient) -> bool:
        """Whether the next request on this connection gets its own answer, all of it and nothing else."""
        self.upstream.behaviour = chat("the next one")
        await client.send(post(CHAT, BODY))
        status, _, body = await read_answer(client)
        return status == 200 and b"the next one" in body


async def read_answer(
    client: RawClient, *, bodiless: bool = False
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of the next answer."""
    status, headers = await client.read_head(bodiless=bodiless)
    return status, headers, await client.read_body()


@asynccontextmanager
async def scene_with(folder: Path, *chain: Any, **rest: Any) -> AsyncIterator[Scene]:
    """`chain` follows `prefix_rewrite` on the route `up`; the rest is the table's."""
    async with ScriptedUpstream() as upstream:
        routes = {
            "up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", *chain]},
            "raw": {"upstream": upstream.url},
        }
        async with Tidegate(write_table(folder, routes, **rest)) as gate:
            yield Scene(gate, upstream)
