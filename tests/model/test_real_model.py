"""A real model behind a real tidegate: `make test-model`, which makes .venv-model first."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TIDEGATE = Path(sys.executable).with_name("tidegate")
MODEL = "gemma-3-270m"
# The first start puts the model together and loads it; a slow disk may take its time.
START_SECONDS = 60

pytestmark = pytest.mark.timeout(180)

TABLE = """\
version: 1
server: {{listen: ["127.0.0.1:0"], admin: null}}
routes:
  local:
    upstream: {model_url}
    middlewares:
      - prefix_rewrite
"""


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    command = [model_python(), str(HERE / "serve_model.py")]
    with running(command, MODEL_PORT="0") as lines:
        yield wait_for(lines, model_address)


@pytest.fixture(scope="module")
def client(model_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    table = tmp_path_factory.mktemp("model") / "routes.yaml"
    table.write_text(TABLE.format(model_url=model_url))
    with running([str(TIDEGATE), "serve", "-c", str(table)]) as lines:
        address = wait_for(lines, client_address)
        with openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused", max_retries=0) as sdk:
            yield sdk


def test_a_chat_streams_token_by_token_while_the_model_writes(client: openai.OpenAI) -> None:
    arrivals: list[float] = []
    texts: list[str] = []
    finish_reasons: list[str] = []
    timings: dict[str, float] = {}
    usage = None

    with client.chat.completions.create(
        model=f"local/{MODEL}",
        messages=[{"role": "user", "content": "Tell me about the sea."}],
        max_tokens=48,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ) as stream:
        for chunk in stream:
            timings = (chunk.model_extra or {}).get("timings") or timings
            for choice in chunk.choices:
                if choice.delta.content:
                    arrivals.append(time.monotonic())
                    texts.append(choice.delta.content)
                if choice.finish_reason:
                    finish_reasons.append(choice.finish_reason)
            usage = chunk.usage

    assert len(texts) > 10
    assert "".join(texts).strip()
    assert finish_reasons == ["length"]
    assert usage is not None
    assert usage.completion_tokens == 48
    # The model's own clock says how long it wrote; held back on the way, the chunks would come all at once.
    assert arrivals[-1] - arrivals[0] > timings["predicted_ms"] / 1000 / 2


def test_a_plain_chat_answers_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=f"local/{MODEL}",
        messages=[{"role": "user", "content": "Tell me about the sea."}],
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"


def test_the_model_is_listed_under_its_route(client: openai.OpenAI) -> None:
    assert f"local/{MODEL}" in [model.id for model in client.models.list()]


def model_python() -> str:
    """The interpreter of .venv-model; absolute, and not resolved, which would lead out of the environment."""
    named = os.environ.get("TIDEGATE_MODEL_PYTHON")
    python = ROOT / (named or ".venv-model/bin/python")
    if not python.exists():
        if named:
            pytest.fail(f"TIDEGATE_MODEL_PYTHON names {python}, which does not exist")
        pytest.skip("needs .venv-model: `make test-model`")
    return str(python)


def model_address(line: str) -> str | None:
    return line.rsplit(maxsplit=1)[-1] if line.startswith(f"model {MODEL} ready") else None


def client_address(line: str) -> str | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if isinstance(record, dict) and (record.get("event"), record.get("role")) == ("listening", "client"):
        return str(record["address"])
    return None


@contextmanager
def running(command: list[str], **environment: str) -> Iterator["queue.Queue[str | None]"]:
    """Run a program; its lines arrive in the queue, then None. It must end well on SIGTERM."""
    lines: queue.Queue[str | None] = queue.Queue()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as program:
        assert program.stdout is not None
        pipe = program.stdout

        def drain() -> None:
            for line in pipe:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=drain)
        reader.start()
        try:
            yield lines
            assert program.poll() is None, f"{command[0]} ended by itself with {program.returncode}"
        finally:
            program.terminate()
            try:
                status = program.wait(timeout=30)
            except subprocess.TimeoutExpired:
                program.kill()
                raise
            finally:
                reader.join()
    assert status == 0


def wait_for(lines: "queue.Queue[str | None]", wanted: Callable[[str], str | None]) -> str:
    """The first answer that `wanted` gives for a line."""
    seen: list[str] = []
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            line = lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"not ready after {START_SECONDS} s; it said: {''.join(seen)}")
        if line is None:
            pytest.fail(f"ended before it was ready; it said: {''.join(seen)}")
        if (found := wanted(line)) is not None:
            return found
        seen.append(line)
