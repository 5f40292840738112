"""The suite's watch over what every process says, on small programs that stand in for one that talks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import disclosure
from tests.support.process import Tidegate, write_table

SAYS = """
import json, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
listening = {"event": "listening", "role": "client", "address": "127.0.0.1:1"}
print(json.dumps(listening), file=sys.stderr, flush=True)
print(%r, file=sys.%s, flush=True)
signal.sigwait({signal.SIGTERM})
"""
KEY = "sk-watched-0123456789-abcdef"
TABLE: dict[str, Any] = {"up": {"upstream": "demo"}}


def saying(text: str, stream: str = "stdout") -> tuple[str, ...]:
    return (sys.executable, "-c", SAYS % (text, stream))


@pytest.mark.parametrize(
    "text",
    [
        f"x{KEY}y",
        json.dumps({"a": KEY}),
        "sk-w...0123456789-abcdef",
        "c2std2F0Y2hlZC0wMTIzNDU2Nzg5LWFiY2RlZg==",
    ],
    ids=["whole", "in JSON", "its end", "in base64"],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_key_of_the_environment_is_seen_in_any_form(tmp_path: Path, text: str, stream: str) -> None:
    with pytest.raises(AssertionError, match="holds the secrets"):
        async with Tidegate(write_table(tmp_path, TABLE), env={"UP_KEY": KEY}, command=saying(text, stream)):
            pass


@pytest.mark.parametrize(
    "middleware",
    [
        {"key": {"file": "up.env"}},
        {"key": [{"env": "NONE"}, {"file": "up.env"}]},
        {"headers": {"set": {"X-Api-Key": KEY}}},
        {"headers": {"default": {"Authorization": f"Bearer {KEY}"}}},
    ],
)
@pytest.mark.parametrize("line", [KEY, f"UP_KEY={KEY}", f'export UP_KEY="{KEY}"'])
async def test_a_key_of_the_table_or_of_a_file_is_seen(tmp_path: Path, middleware: Any, line: str) -> None:
    (tmp_path / "up.env").write_text(f"# the key\n{line}\n")
    table = write_table(tmp_path, {"up": {"upstream": "demo", "middlewares": [middleware]}})
    with pytest.raises(AssertionError, match="holds the secrets"):
        async with Tidegate(table, command=saying(KEY)):
            pass


async def test_a_key_of_a_yaml_table_or_of_systemd_or_named_by_a_test_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "up").write_text(KEY)
    (tmp_path / "up.env").write_text(f"UP_KEY={KEY}")
    table = tmp_path / "routes.yaml"
    plain = write_table(tmp_path / "plain.yaml", TABLE)
    table.write_text("routes:\n  up:\n    middlewares:\n      - key: {env: X, file: up.env}\n")
    for arguments in (
        {"table": table},
        {"table": plain, "env": {"CREDENTIALS_DIRECTORY": str(folder)}},
        {"table": plain, "secrets": [KEY]},
    ):
        with pytest.raises(AssertionError, match="holds the secrets"):
            async with Tidegate(**arguments, command=saying(KEY)):
                pass


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nAuthorization: Bearer %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx_api-key:%b\r\n\r\nbody",
        b"GET / HTTP/1.1\r\nCookie: %b",
    ],
)
async def test_what_a_client_sent_as_a_credential_is_seen(
    tmp_path: Path, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disclosure, "sent", set())
    disclosure.note_sent(head % KEY.encode())
    with pytest.raises(AssertionError, match="holds the secrets"):
        async with Tidegate(write_table(tmp_path, TABLE), command=saying(f"so {KEY}")):
            pass


async def test_a_leak_is_told_where_the_test_fails_by_something_else(tmp_path: Path) -> None:
    table = write_table(tmp_path, TABLE)
    with pytest.raises(AssertionError, match="holds the secrets") as told:
        async with Tidegate(table, env={"UP_KEY": KEY}, command=saying(KEY)) as gate:
            await gate.wait_log(1)
            raise ValueError("of the test")
    assert isinstance(told.value.__cause__, ValueError)
    assert KEY not in str(told.value)

    stops = (sys.executable, "-c", f"import sys; sys.exit({KEY!r})")
    with pytest.raises(AssertionError, match="holds the secrets"):
        async with Tidegate(table, env={"UP_KEY": KEY}, command=stops):
            pass


async def test_who_keeps_quiet_is_not_accused(tmp_path: Path) -> None:
    table = write_table(tmp_path, TABLE)
    async with Tidegate(table, env={"UP_KEY": KEY}, secrets=["short", KEY], command=saying("sk-watched")):
        pass
