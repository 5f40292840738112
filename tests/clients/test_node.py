"""The clients for Node leave a stream in its middle, and the provider sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.clients.environments import node
from tests.clients.readme import ROWS
from tests.clients.scene import ACME_MODEL, PATIENCE_SECONDS, scene
from tests.support.completions import Completion
from tests.support.wire import Seen, Wire

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


async def endless(seen: Seen, wire: Wire) -> None:
    """One word, and the rest never comes."""
    await wire.sse(Completion("", seen.json()["model"]).event({"content": "word "}), done=False)
    await wire.client_gone()


@pytest.mark.parametrize(
    ("file", "row"),
    [
        pytest.param("ask_openai.mjs", "openai for Node", id="openai, by break"),
        pytest.param(
            "ask_ai_sdk.mjs", "Vercel AI SDK with @ai-sdk/openai-compatible", id="AI SDK, by an abort signal"
        ),
    ],
)
async def test_a_stream_that_a_node_client_leaves_ends_at_the_provider(
    tmp_path: Path, file: str, row: str
) -> None:
    command = [*node(file), "leave", ROWS[row].model(ACME_MODEL)]
    async with scene(tmp_path, endless) as here:
        async with here.running(command, ROWS[row].environment(here.gate)) as process:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_SECONDS):
                said = await process.stdout.readline()
            assert said == b"left\n"
            await here.provider.wait_gone(1)
            assert process.returncode is None  # it was the leaving that ended the call, not the client's end
            (entry,) = await here.gate.wait_log(1)

    assert (entry["outcome"], entry["status"], entry["stream"]) == ("client_gone", 499, True)
