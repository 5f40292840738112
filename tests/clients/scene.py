"""A real tidegate between a client's own process and a simulated provider."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.behaviours import answer
from tests.support.process import Tidegate, write_table
from tests.support.providers import KIMI_KEY, simulated
from tests.support.upstream import ScriptedUpstream
from tests.support.wire import Behaviour, Seen

PROVIDER_KEY = KIMI_KEY
ACME_MODEL = "acme/gpt-simulated"
# A client's first start after `make clients` compiles all that it imports, on a machine that may be busy.
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Scene:
    """`home` is the client's home, `elsewhere` stands for every other host: the proxy of its environment."""

    home: Path
    gate: Tidegate
    provider: ScriptedUpstream
    elsewhere: ScriptedUpstream

    async def run(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """What a client says on stdout; it must end well."""
        async with self.running(command, environment) as process, asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate(b"")
        if process.returncode:
            pytest.fail(f"{command[0]} ended with {process.returncode}:\n{out.decode()}\n{err.decode()}")
        return out.decode()

    @asynccontextmanager
    async def running(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A client in its home, which knows nothing but PATH, HOME and `environment`."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.home,
            env={**self._surroundings(), **environment},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it started and left behind
            await process.communicate(b"")

    def _surroundings(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "HTTP_PROXY": self.elsewhere.origin,
            "HTTPS_PROXY": self.elsewhere.origin,
            "NO_PROXY": "127.0.0.1",
            # Else LiteLLM, in aider too, asks GitHub for the latest prices whenever it starts.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }

    async def exchanges(
        self, count: int, agent: str | tuple[str, ...], path: str = "/chat/completions"
    ) -> list[Seen]:
        """What the provider saw of them: the client's User-Agent, and the model and the key of the route."""
        entries = await self.gate.wait_log(count)
        assert [entry["outcome"] for entry in entries] == ["ok"] * count
        assert [f"{seen.method} {seen.target}" for seen in self.elsewhere.seen] == []
        key = (
            ("x-api-key", PROVIDER_KEY)
            if path == "/messages"
            else ("authorization", f"Bearer {PROVIDER_KEY}")
        )
        for seen in self.provider.seen:
            assert (seen.method, seen.path) == ("POST", self.provider.base + path)
            assert seen.json()["model"] in (ACME_MODEL.partition("/")[2], "kimi-for-coding")
            assert (seen.header("User-Agent") or "").startswith(agent), seen.header("User-Agent")
            keys = [(name.lower(), value) for name, value in seen.headers if _is_a_key(value)]
            assert keys == [key]
        return self.provider.seen


def _is_a_key(value: str) -> bool:
    return PROVIDER_KEY in value or "unused" in value or value.startswith("Bearer")


@asynccontextmanager
async def scene(folder: Path, behaviour: Behaviour) -> AsyncIterator[Scene]:
    home = folder / "home"
    home.mkdir()
    async with simulated(behaviour) as provider, ScriptedUpstream(answer(403, {})) as elsewhere:
        own = [
            "prefix_rewrite",
            {"key": {"env": "ACME_API_KEY"}},
            {"timeout": {"idle": "30s", "total": "60s"}},
        ]
        table = write_table(
            folder,
            {
                "demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]},
                "acme": {"upstream": provider.url, "middlewares": own},
                "kimi": {"upstream": provider.url, "explicit_only": True, "middlewares": own},
            },
        )
        async with Tidegate(table, env={"ACME_API_KEY": PROVIDER_KEY}) as gate:
            yield Scene(home, gate, provider, elsewhere)
