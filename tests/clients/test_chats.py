"""Every client of the README's table chats, whole and streamed, set as the table says and no more."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import environment, node, program
from tests.clients.readme import ROWS
from tests.clients.scene import ACME_MODEL, PATIENCE_SECONDS, Scene, scene
from tests.support.completions import Completion, answer_to, complete
from tests.support.providers import kimi
from tests.support.wire import Seen, Wire

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


@dataclass(frozen=True)
class Client:
    """`row` names its line in the README; `command` is its program, to be followed by a model's name.

    `agent` is how its User-Agent begins.
    """

    row: str
    command: Callable[[], list[str]]
    agent: str | tuple[str, ...]


CLIENTS = {
    "langchain": Client(
        "LangChain with langchain-openai",
        lambda: [*program("langchain", "ask_langchain.py"), "openai"],
        "OpenAI/Python ",
    ),
    "litellm": Client(
        "LiteLLM's SDK",
        lambda: program("litellm", "ask_litellm.py"),
        "OpenAI/Python ",
    ),
    "node": Client(
        "openai for Node",
        lambda: [*node("ask_openai.mjs"), "chat"],
        "OpenAI/JS ",
    ),
    "ai-sdk-openai": Client(
        "Vercel AI SDK with @ai-sdk/openai",
        lambda: [*node("ask_ai_sdk.mjs"), "openai"],
        ("ai/", "ai-sdk/openai/"),
    ),
    "ai-sdk-compatible": Client(
        "Vercel AI SDK with @ai-sdk/openai-compatible",
        lambda: [*node("ask_ai_sdk.mjs"), "compatible"],
        ("ai/", "ai-sdk/openai-compatible/"),
    ),
}
# These have a test of their own.
OTHERS = {"LangChain with langchain-anthropic", "llm", "aider"}


async def echo(seen: Seen, wire: Wire) -> None:
    body = seen.json()
    await complete(seen, wire, Completion(answer_to(body), body["model"]))


def test_the_readme_has_a_line_for_each_tested_client_and_for_no_other() -> None:
    assert set(ROWS) == {client.row for client in CLIENTS.values()} | OTHERS


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_set_as_the_readme_says_talks_to_the_demo(tmp_path: Path, name: str) -> None:
    client = CLIENTS[name]
    row = ROWS[client.row]
    command = client.command()
    async with scene(tmp_path, echo) as here:
        told = await ask(here, [*command, row.model()], row.environment(here.gate))

        assert (told["plain"], "".join(told["streamed"])) == ("PONG", "one two three")
        assert [part for part in told["streamed"] if part] == ["one", " two", " three"]
        assert await here.exchanges(2, client.agent) == []


async def test_the_ai_sdk_talks_to_the_demo_by_responses_too(tmp_path: Path) -> None:
    command = [*node("ask_ai_sdk.mjs"), "responses"]
    row = ROWS[CLIENTS["ai-sdk-openai"].row]
    async with scene(tmp_path, echo) as here:
        told = await ask(here, [*command, row.model()], row.environment(here.gate))
        entries = await here.gate.wait_log(2)

    assert (told["plain"], "".join(told["streamed"])) == ("PONG", "one two three")
    assert {entry["path"] for entry in entries} == {"/v1/responses"}
    assert {entry["outcome"] for entry in entries} == {"ok"}


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_reaches_a_provider_as_itself_but_for_the_key_and_the_models_name(
    tmp_path: Path, name: str
) -> None:
    client = CLIENTS[name]
    row = ROWS[client.row]
    command = client.command()
    async with scene(tmp_path, echo) as here:
        told = await ask(here, [*command, row.model(ACME_MODEL)], row.environment(here.gate))

        assert (told["plain"], "".join(told["streamed"])) == ("PONG", "You said: one two three")
        plain, streamed = await here.exchanges(2, client.agent)
    assert (plain.json().get("stream", False), streamed.json()["stream"]) == (False, True)


async def test_langchain_talks_anthropics_messages_to_a_provider_that_does(tmp_path: Path) -> None:
    command = [*program("langchain", "ask_langchain.py"), "anthropic"]
    row = ROWS["LangChain with langchain-anthropic"]
    async with scene(tmp_path, kimi()) as here:
        told = await ask(here, [*command, row.model()], row.environment(here.gate))

        assert (told["plain"], "".join(told["streamed"])) == ("PONG", "You said: one two three")
        await here.exchanges(2, "langchain-anthropic/", path="/messages")


async def test_llm_talks_to_the_demo_with_the_readmes_command(tmp_path: Path) -> None:
    llm = str(environment("llm") / "llm")
    async with scene(tmp_path, echo) as here:
        _, *arguments = shlex.split(ROWS["llm"].command(here.gate))
        said = await here.run([llm, *arguments], {})

        assert said.strip() == "PONG"
        await here.exchanges(1, "OpenAI/Python ")


async def test_llm_reaches_a_provider_streamed_and_whole(tmp_path: Path) -> None:
    llm = str(environment("llm") / "llm")
    async with scene(tmp_path, echo) as here:
        _, *arguments = shlex.split(ROWS["llm"].command(here.gate, ACME_MODEL))
        said = [await here.run([llm, *arguments, *more], {}) for more in ([], ["--no-stream"])]

        assert [text.strip() for text in said] == ["PONG", "PONG"]
        streamed, whole = await here.exchanges(2, "OpenAI/Python ")
    assert (streamed.json()["stream"], whole.json().get("stream", False)) == (True, False)


async def ask(here: Scene, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    said = await here.run(command, environment)
    told = json.loads(said)
    assert isinstance(told, dict), said
    return told
