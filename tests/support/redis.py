"""A real Redis on a free port of 127.0.0.1, which can be stopped, killed and started anew."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

_READY_WITHIN_S = 20.0


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips where one of these programs is not installed; in CI, where all of them have to be, nothing is."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(
        bool(missing) and not os.environ.get("CI"), reason=f"{' and '.join(missing)}: not installed"
    )


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """Keeps nothing on the disk: one that was killed has forgotten everything."""

    def __init__(self, folder: Path, *options: str, login: str = "", tls: bool = False) -> None:
        self.port = free_port()
        self._folder = folder
        place = "--tls-port" if tls else "--port"
        closed = ("--port", "0") if tls else ()
        self._options = (*closed, place, str(self.port), *options)
        self._login = login
        self._tls = tls
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """For a table."""
        return f"{'rediss' if self._tls else 'redis'}://{self._login}127.0.0.1:{self.port}/0"

    @property
    def name(self) -> str:
        """By which a store is told of."""
        return f"127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Until it answers."""
        log = (self._folder / "redis.log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *("redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--dir", str(self._folder), *self._options),
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                while not await self._answers():
                    assert self._process.returncode is None, (self._folder / "redis.log").read_text()
                    await asyncio.sleep(0.01)
        except BaseException:
            await self.kill()
            raise

    async def _answers(self) -> bool:
        if self._tls:
            return "Ready to accept connections" in (self._folder / "redis.log").read_text()
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except ResponseError:
                return True  # a user that may not ask so
            except RedisError:
                return False

    def client(self) -> Redis:
        """To look into it."""
        return Redis.from_url(self.url, decode_responses=True, retry=None)

    async def kill(self) -> None:
        """Without a word, as a machine that loses its power."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def stand_still(self) -> None:
        """Its connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()


async def keys_of(server: RedisServer) -> Sequence[str]:
    """Every key that is there."""
    async with server.client() as client:
        return sorted(str(key) for key in await client.keys())
