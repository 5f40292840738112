"""LangChain beyond the chat: tools, whose calls come in pieces, and embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import program
from tests.clients.readme import ROWS
from tests.clients.scene import ACME_MODEL, PATIENCE_SECONDS, scene
from tests.support.behaviours import answer
from tests.support.completions import Completion, complete
from tests.support.wire import Seen, Wire, sse_event

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)
ROW = ROWS["LangChain with langchain-openai"]


async def weather_model(seen: Seen, wire: Wire) -> None:
    """Asks for the tool, its arguments in pieces; says what the tool said once it is told."""
    body = seen.json()
    said = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    completion = Completion(
        f"There is {said[-1]}." if said else "", body["model"], finish_reason="tool_calls"
    )
    if said:
        await complete(seen, wire, Completion(completion.text, body["model"]))
        return
    called: dict[str, Any] = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    await wire.sse(done=False)
    await wire.chunk(
        sse_event(completion.event({"role": "assistant", "tool_calls": [{"index": 0, **called}]}))
    )
    for piece in ('{"ci', 'ty": "Ki', 'el"}'):
        await wire.chunk(
            sse_event(completion.event({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}))
        )
    await wire.chunk(sse_event(completion.event({}, "tool_calls")))
    await wire.chunk(sse_event("[DONE]"))
    await wire.finish()


async def test_langchain_calls_a_tool_and_brings_back_what_it_said(tmp_path: Path) -> None:
    command = [*program("langchain", "ask_langchain.py"), "tools", ROW.model(ACME_MODEL)]
    async with scene(tmp_path, weather_model) as here:
        told = json.loads(await here.run(command, ROW.environment(here.gate)))

        assert told == {"calls": [["weather", {"city": "Kiel"}]], "final": "There is fog in Kiel."}
        first, second = await here.exchanges(2, "OpenAI/Python ")
    assert [tool["function"]["name"] for tool in first.json()["tools"]] == ["weather"]
    assert second.json()["messages"][-1]["tool_call_id"] == "call_1"


async def test_langchain_gets_embeddings(tmp_path: Path) -> None:
    vectors = [[0.25, -0.5], [1.0, 0.0]]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    embedder = answer(200, {"object": "list", "model": "gpt-simulated", "data": data, "usage": usage})
    command = [*program("langchain", "ask_langchain.py"), "embeddings", ROW.model(ACME_MODEL)]
    async with scene(tmp_path, embedder) as here:
        told = json.loads(await here.run(command, ROW.environment(here.gate)))

        assert told == {"vectors": vectors}
        (seen,) = await here.exchanges(1, "OpenAI/Python ", path="/embeddings")
    assert seen.json()["input"] == ["one", "two"]
