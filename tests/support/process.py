"""The real program as a process: started, listened to line by line, and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import disclosure
from tests.support.waiting import Bell

ROOT = Path(__file__).resolve().parents[2]
SERVE = (sys.executable, "-m", "proxy", "serve")
_LONGEST_LINE = 16 << 20


class Tidegate:
    """A running `tidegate serve -c TABLE`. Its environment is PATH and `env`, nothing inherited besides.

    `stdout` and `stderr` hold the lines so far; `log` is the exchange log. Neither may hold a key of the
    environment or of the table's files, a credential that a test's client sent, or one of `secrets`:
    that fails the test even where it fails, or expects to fail, by something else. With `own_group` a
    signal may be sent to all its processes, as a terminal does.
    """

    process: asyncio.subprocess.Process

    def __init__(
        self,
        table: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        command: Sequence[str] = SERVE,
        ready_within: float = 15.0,
        secrets: Iterable[str] = (),
        own_group: bool = False,
    ) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._command = (*command, "-c", str(table), *arguments)
        self._env = {"PATH": os.environ.get("PATH", os.defpath), **(env or {})}
        self._table = table
        self._secrets = {*secrets} | self._configured_secrets()
        self._ready_within = ready_within
        self._own_group = own_group
        self._bell = Bell()
        self._addresses: dict[str, str] = {}
        self._watch: list[asyncio.Task[None]] = []
        self._ended = False

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            limit=_LONGEST_LINE,
            start_new_session=self._own_group,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self._watch = [
            asyncio.create_task(self._read(self.process.stdout, self.stdout)),
            asyncio.create_task(self._read(self.process.stderr, self.stderr)),
            asyncio.create_task(self._await_end()),
        ]
        try:
            await self.wait_event("listening", within=self._ready_within, role="client")
        except BaseException as error:
            await self._stop(signal.SIGKILL)
            self._check_disclosure(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop(signal.SIGTERM)
        self._check_disclosure(error)
        if error is None:
            self._check_output()
        elif self.events("unforeseen"):
            error.add_note(self._told())

    def _check_output(self) -> None:
        """Whatever the test was about: nothing that nobody foresaw."""
        text = "\n".join(self.stdout + self.stderr)
        assert "Traceback" not in text, text
        assert not self.events("unforeseen"), self._told()

    def _check_disclosure(self, error: BaseException | None) -> None:
        """No key in the output, however the test ends. The files may have got other keys meanwhile."""
        secrets = self._secrets | self._configured_secrets() | disclosure.sent
        leaked = disclosure.told("\n".join(self.stdout + self.stderr), secrets)
        if leaked:
            raise AssertionError(f"the output holds the secrets {leaked}") from error

    def _configured_secrets(self) -> set[str]:
        return disclosure.of_environment(self._env) | disclosure.of_table(self._table)

    def address(self, role: str = "client") -> str:
        """Where the first listener of that role stands: "127.0.0.1:PORT"."""
        if role not in self._addresses:  # there may be very many lines to look through
            listening = self.events("listening")
            self._addresses[role] = next(
                str(event["address"]) for event in listening if event["role"] == role
            )
        return self._addresses[role]

    @property
    def port(self) -> int:
        return int(self.address().rpartition(":")[2])

    @property
    def base_url(self) -> str:
        return f"http://{self.address()}"

    @property
    def log(self) -> list[dict[str, Any]]:
        """The exchange log so far; anything on stdout that is not a JSON object raises ValueError."""
        entries = [_parsed(line) for line in self.stdout]
        if None in entries:
            raise ValueError(f"not an exchange log line: {self.stdout[entries.index(None)]!r}")
        return [entry for entry in entries if entry is not None]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines on stderr so far whose `event` has that name."""
        parsed = (_parsed(line) for line in self.stderr)
        return [event for event in parsed if event is not None and event.get("event") == name]

    async def wait_log(self, count: int, within: float = 5.0) -> list[dict[str, Any]]:
        """Wait until the exchange log has `count` lines, and return them all."""
        await self._until(lambda: len(self.stdout) >= count, within, f"{count} lines of exchange log")
        return self.log

    async def log_entry(self, headers: Sequence[tuple[str, str]], within: float = 5.0) -> dict[str, Any]:
        """The log line of the exchange whose answer had these headers."""
        wanted = next(value for name, value in headers if name.lower() == "x-tidegate-id")

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.log if entry["id"] == wanted]

        await self._until(lambda: bool(found()), within, f"log line of {wanted}")
        return found()[0]

    async def wait_event(self, name: str, within: float = 5.0, **fields: Any) -> dict[str, Any]:
        """Wait until stderr has an event of that name with these fields; the first that fits."""

        def fitting() -> list[dict[str, Any]]:
            return [event for event in self.events(name) if fields.items() <= event.items()]

        await self._until(lambda: bool(fitting()), within, f"event {name!r} {fields or ''}")
        return fitting()[0]

    async def terminate(self, within: float = 10.0) -> int:
        """SIGTERM, and the exit code; the process is killed, and TimeoutError raised, if it does not obey."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.wait(within)

    async def wait(self, within: float = 10.0) -> int:
        """Wait for the process to end by itself and for its last lines; the exit code."""
        try:
            await self._bell.until(lambda: self._ended, within, lambda: "the process still runs")
        except TimeoutError:
            await self._stop(signal.SIGKILL)
            raise
        await asyncio.gather(*self._watch)
        assert self.process.returncode is not None
        return self.process.returncode

    async def _until(self, holds: Any, within: float, wanted: str) -> None:
        """Wait for a condition; RuntimeError with the stderr text if the process ends without it."""
        await self._bell.until(lambda: holds() or self._ended, within, lambda: f"no {wanted}\n{self._told()}")
        if not holds():
            raise RuntimeError(f"exit code {self.process.returncode} without {wanted}\n{self._told()}")

    def _told(self) -> str:
        return "\n".join(self.stderr)

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode(errors="replace").rstrip("\n"))
            self._bell.ring()

    async def _await_end(self) -> None:
        await self.process.wait()
        await asyncio.gather(*self._watch[:2])
        self._ended = True
        self._bell.ring()

    async def _stop(self, with_signal: signal.Signals, grace: float = 10.0) -> None:
        if self.process.returncode is None:
            self.process.send_signal(with_signal)
        _, running = await asyncio.wait(self._watch, timeout=grace)
        if running and self.process.returncode is None:
            self.process.kill()
            _, running = await asyncio.wait(self._watch, timeout=grace)
        for task in running:
            task.cancel()  # somebody else holds the pipes open
        await asyncio.gather(*self._watch, return_exceptions=True)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_table(path: Path, routes: Mapping[str, Any], **rest: Any) -> Path:
    """Write a route table to `path`, or to routes.yaml in it if it is a directory; JSON is YAML.

    The server listens on a free port of 127.0.0.1, without the admin listener, where `server` does not say.
    """
    server = {"listen": ["127.0.0.1:0"], "admin": None, **rest.pop("server", {})}
    table = {"version": 1, "server": server, "routes": routes, **rest}
    target = path / "routes.yaml" if path.is_dir() else path
    target.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return target
