"""What is measured: tidegate, the minimal relay, and peers that are installed. One process each, on one core.

The core for load and provider is another; the two do not share. A subject's log goes to a file, as in
production, and what it says otherwise too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.bench import accounting, peers
from tests.bench.peers import free_port
from tests.bench.traffic import Broken, Client, Stage
from tests.support.process import ROOT, SERVE, write_table

FULL: tuple[Any, ...] = (
    "prefix_rewrite",
    {"headers": {"user_agent": "pass"}},
    {"key": {"env": "BENCH_KEY"}},
    {"token_floor": {"min": 1500}},
    {"timeout": {"connect": "10s", "idle": "120s", "total": "600s"}},
)
"""The chain that the shipped table has for a provider; `usage` stands in front of it, as there."""
_READY_S = 30.0
_STOP_S = 10.0
_LOOK_S = 0.002
_PROBE = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_KEY = "an-invented-key-of-the-benchmark"


@dataclass(frozen=True)
class Cores:
    """Where what is measured runs, and where load and provider do."""

    subject: int
    load: int

    def take_load(self) -> None:
        """This process is the load from now on."""
        os.sched_setaffinity(0, {self.load})


def cores() -> Cores:
    """The last of those we may use is the subject's: the first tends to have the machine's own work."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[-1], allowed[0])


@dataclass(frozen=True)
class Ground:
    """What all subjects stand on: their provider, a folder for what they read and write, the cores."""

    stage: Stage
    folder: Path
    cores: Cores


@dataclass
class Target:
    """Where load is sent: `model` is what is asked for, `pids` are the processes whose cost it is."""

    name: str
    port: int
    model: str = "m"
    path: str = "/v1/chat/completions"
    pids: tuple[int, ...] = ()


class Subject(Target):
    """One that is measured, running while its context lasts.

    `started` is how many seconds it took from the beginning of its process to its first answer.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        ground: Ground,
        *,
        model: str = "m",
        probe: str = "/v1/models",
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, port, model)
        self.started = 0.0
        self._command = command
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(ground.folder),
            **(env or {}),
        }
        self._output = ground.folder / f"{name}.{port}.log"
        self._ground = ground
        self._probe = probe

    def __enter__(self) -> Self:
        with self._output.open("ab") as output:
            own = os.sched_getaffinity(0)
            began = time.perf_counter()
            os.sched_setaffinity(0, {self._ground.cores.subject})  # it inherits that
            try:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            finally:
                os.sched_setaffinity(0, own)
        try:
            self._await_answer(began)
        except BaseException:
            self._stop()
            raise
        self.pids = tuple(accounting.family(self._process.pid))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._process.poll()
        self._stop()
        if error is not None and ended is not None:
            error.add_note(f"{self.name} had ended with {ended}:\n{self.said}")

    @property
    def said(self) -> str:
        """The end of its output."""
        return self._output.read_text(errors="replace")[-2000:]

    def forget_output(self) -> None:
        """Let what it said so far take no room."""
        os.truncate(self._output, 0)

    def _await_answer(self, began: float) -> None:
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() > began + _READY_S:
                raise RuntimeError(f"{self.name} does not answer:\n{self.said}")
            self._ground.stage.turn(_LOOK_S)  # nobody tells when a port begins to listen
        self.started = time.perf_counter() - began

    def _answers(self) -> bool:
        """Whether it answers 200; where the provider is asked for that, it answers meanwhile."""
        stage, said = self._ground.stage, list[bytes]()
        try:
            client = Client(stage, self.port)
        except OSError:
            return False
        try:
            client.done = lambda answered: said.append(answered.ends.head)
            client.ask(_PROBE.format(self._probe).encode())
            stage.until(lambda: bool(said), "answer to the first question")
        except Broken:
            return False
        finally:
            client.close()
        return True

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)


def tidegate(
    ground: Ground,
    *,
    name: str = "tidegate",
    routes: Mapping[str, Sequence[Any]] | None = None,
    env: dict[str, str] | None = None,
    **server: Any,
) -> Subject:
    """With the route `full`, and those of `routes`, which are chains."""
    port, url = free_port(), f"http://127.0.0.1:{ground.stage.port}/v1"
    chains = {"full": [{"usage": {"include_usage": False}}, *FULL], **(routes or {})}
    table = write_table(
        ground.folder / f"{name}.{port}.yaml",
        {route: {"upstream": url, "middlewares": list(chain)} for route, chain in chains.items()},
        server={"listen": [f"127.0.0.1:{port}"], "admin": None, "max_connections": 20000, **server},
    )
    environment = {"BENCH_KEY": _KEY, **(env or {})}
    command = (*SERVE, "-c", str(table))
    return Subject(name, command, port, ground, model="full/m", probe="/readyz", env=environment)


def minimal(ground: Ground, *, name: str = "minimal relay") -> Subject:
    """The yardstick."""
    port, program = free_port(), Path(__file__).with_name("minimal_relay.py")
    command = (sys.executable, str(program), str(port), str(ground.stage.port))
    return Subject(name, command, port, ground)


def installed_peers(ground: Ground) -> list[Subject]:
    """Those of `peers` that are on the PATH."""
    made: dict[str, Callable[[int, int, Path], Sequence[str]]] = {
        "nginx": peers.nginx,
        "envoy": peers.envoy,
        "vllm-router": peers.vllm_router,
    }
    found = []
    for name, make in made.items():
        program = shutil.which(name)
        if program is not None:
            port = free_port()
            command = (program, *make(port, ground.stage.port, ground.folder))
            found.append(Subject(name, command, port, ground))
    return found
