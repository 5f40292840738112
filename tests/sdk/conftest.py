"""One real process in front of two simulated providers for all of these tests, which share its event loop.

Each test begins with providers that answer as they should and remember nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.sdk.clients import Sent, anthropic_client, openai_client
from tests.support.anthropic_api import ANTHROPIC_KEY, ANTHROPIC_MODEL, Anthropic
from tests.support.openai_api import OPENAI_KEY, OpenAI
from tests.support.process import Tidegate, write_table
from tests.support.upstream import ScriptedUpstream

MAX_BODY = 256 * 1024


def _routes(openai: ScriptedUpstream, anthropic: ScriptedUpstream) -> dict[str, Any]:
    ours = {"key": {"env": "OPENAI_KEY"}}
    theirs = {"key": {"env": "ANTHROPIC_KEY", "header": "x-api-key"}}
    hasty = {"timeout": {"first_byte": "300ms"}}
    return {
        "up": {"upstream": openai.url, "middlewares": ["prefix_rewrite", ours]},
        "hasty": {"upstream": openai.url, "middlewares": ["prefix_rewrite", ours, hasty]},
        "claude": {
            "upstream": anthropic.url,
            "list": [ANTHROPIC_MODEL],
            "middlewares": ["prefix_rewrite", theirs],
        },
        "claude-hasty": {"upstream": anthropic.url, "middlewares": ["prefix_rewrite", theirs, hasty]},
        "kimi": {
            "upstream": anthropic.url,
            "explicit_only": True,
            "middlewares": ["prefix_rewrite", {"key": {"env": "ANTHROPIC_KEY"}}],
        },
        "keyless": {
            "upstream": openai.url,
            "middlewares": ["prefix_rewrite", {"key": {"env": "MISSING_KEY"}}],
        },
        "dead": {"upstream": "http://127.0.0.1:1/v1", "list": []},
    }


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def providers() -> AsyncIterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    async with ScriptedUpstream(OpenAI()) as openai, ScriptedUpstream(Anthropic()) as anthropic:
        yield openai, anthropic


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def gate(
    providers: tuple[ScriptedUpstream, ScriptedUpstream], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tidegate]:
    table = write_table(
        tmp_path_factory.mktemp("sdk"), _routes(*providers), server={"max_body": f"{MAX_BODY // 1024}KiB"}
    )
    env = {"OPENAI_KEY": OPENAI_KEY, "ANTHROPIC_KEY": ANTHROPIC_KEY}
    async with Tidegate(table, env=env) as gate:
        yield gate


@pytest_asyncio.fixture(loop_scope="package")
async def upstream(
    providers: tuple[ScriptedUpstream, ScriptedUpstream],
) -> AsyncIterator[ScriptedUpstream]:
    """The simulated OpenAI, behind the routes `up` and `hasty`."""
    yield providers[0]
    providers[0].behaviour = OpenAI()
    await providers[0].forget()


@pytest_asyncio.fixture(loop_scope="package")
async def claude(providers: tuple[ScriptedUpstream, ScriptedUpstream]) -> AsyncIterator[ScriptedUpstream]:
    """The simulated Anthropic, behind the routes `claude`, `claude-hasty` and `kimi`."""
    yield providers[1]
    providers[1].behaviour = Anthropic()
    await providers[1].forget()


@pytest.fixture
def sent() -> Sent:
    """What the SDK sent."""
    return Sent()


@pytest_asyncio.fixture(loop_scope="package")
async def client(gate: Tidegate, upstream: ScriptedUpstream, sent: Sent) -> AsyncIterator[Any]:
    """The OpenAI SDK; nothing is retried unless a test asks for it."""
    async with openai_client(gate.base_url + "/v1", sent, max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="package")
async def anthropic(gate: Tidegate, claude: ScriptedUpstream, sent: Sent) -> AsyncIterator[Any]:
    """The Anthropic SDK; nothing is retried unless a test asks for it."""
    async with anthropic_client(gate.base_url, sent, max_retries=0) as client:
        yield client
