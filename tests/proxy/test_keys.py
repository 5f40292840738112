"""`tidegate keys`: what it prints, where it writes, and what it never does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.enrolment import clients_of
from proxy.cli import main
from tests.support.clients import KEY, OTHER, client, hashed, write_clients
from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.scene import CHAT, read_answer

GATED = """\
version: 1
middlewares: [client_keys: {file: who/clients.yaml}]
routes: {demo: {upstream: demo, middlewares: [prefix_rewrite]}}
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(GATED)
    (tmp_path / "who").mkdir()
    monkeypatch.setenv("TIDEGATE_CONFIG", str(path))
    return path


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "ci"]) == 0
    assert main(["keys", "new", "cd"]) == 0
    said = capsys.readouterr()
    one, two = said.out.splitlines()
    file = table.parent / "who" / "clients.yaml"
    assert one.startswith("tg-") and len(one) == 46 and one != two
    assert [(c.name, c.digest.hex()) for c in clients_of(file.read_bytes(), "f")] == [
        ("ci", hashed(one)),
        ("cd", hashed(two)),
    ]
    assert one not in file.read_text() + said.err and str(file) in said.err
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_list_shows_each_client(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"requests": "60/min", "tokens": "200000/d", "concurrent": 8}
    write_clients(
        table.parent / "who",
        client("ci", KEY, allow=["kimi", "openrouter/*"], limits=limits, expires="2037-01-01"),
        client("old", OTHER, allow=[], expires="2026-01-01T12:30:00Z"),
        client("any", "x"),
    )
    assert main(["keys", "list"]) == 0
    said = capsys.readouterr()
    rows = [re.split("  +", line) for line in said.out.splitlines()]
    assert rows == [
        ["NAME", "SHA-256", "EXPIRES", "LIMITS", "ALLOW"],
        [
            "ci",
            f"{hashed(KEY)[:8]}…",
            "2037-01-01",
            "60/min requests, 200000/d tokens, 8 at once",
            "kimi, openrouter/*",
        ],
        ["old", f"{hashed(OTHER)[:8]}…", "2026-01-01 12:30Z (over)", "none", "nothing"],
        ["any", f"{hashed('x')[:8]}…", "never", "none", "everything"],
    ]
    lines = said.out.splitlines()
    columns = {tuple(line.index(cell) for cell in row) for line, row in zip(lines, rows, strict=True)}
    assert len(columns) == 1 and said.err == ""


def test_a_revoked_client_is_gone(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_clients(table.parent / "who", client("ci", KEY), client("cd", OTHER))
    assert main(["keys", "revoke", "ci"]) == 0
    assert [c.name for c in clients_of(file.read_bytes(), "f")] == ["cd"]
    assert main(["keys", "revoke", "ci"]) == 1
    assert "there is no client 'ci', did you mean 'cd'?" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "ci", "--file", "/nowhere/at/all.yaml"], "its folder does not exist"),
        (["list", "--file", "/nowhere/at/all.yaml"], "there is no such file"),
        (["revoke", "ci"], "there is no such file"),
        (["new", "a b"], "a name is up to 64 letters"),
        (["list", "--file", "/"], "it is not a regular file"),
    ],
)
def test_what_cannot_be_done_is_told_and_exits_1(
    table: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("tidegate: ") and message in said.err
    assert [*(table.parent / "who").iterdir()] == []


def test_a_file_with_errors_is_told_as_check_tells_it_and_not_touched(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table.parent / "who" / "clients.yaml"
    file.write_text("version: 1\nclients: [{nam: ci}]\n")
    assert main(["keys", "new", "cd"]) == 1
    said = capsys.readouterr()
    assert f"{file}:2:12: error: unknown key 'nam', did you mean 'name'?" in said.err
    assert "the file has errors, and is not touched" in said.err and said.out == ""
    assert file.read_text() == "version: 1\nclients: [{nam: ci}]\n"


def test_a_table_with_errors_does_not_say_which_file_and_none_is_guessed(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(GATED.replace("file:", "fil:"))
    assert main(["keys", "new", "ci"]) == 1
    assert "say --file FILE" in capsys.readouterr().err


def test_a_file_that_no_table_names_is_told_with_what_to_write(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table.write_text(GATED.replace("middlewares: [client_keys: {file: who/clients.yaml}]\n", ""))
    monkeypatch.setattr("proxy.keys.SYSTEM", tmp_path / "clients.yaml")
    assert main(["keys", "new", "ci"]) == 0
    assert f"middlewares: [client_keys: {{file: {tmp_path}/clients.yaml}}]" in capsys.readouterr().err


@pytest.mark.parametrize("action", [[], ["new"], ["list"], ["revoke"]])
def test_help_needs_no_other_page(action: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keys", *action, "--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(word in said for word in ("client_keys", "Authorization: Bearer KEY", "allow:", "expires:"))
    assert max(map(len, said.splitlines())) <= 100


async def test_a_server_that_runs_takes_a_new_key_and_drops_a_revoked_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clients.yaml"
    keys = ["keys", "--file", str(file)]
    assert main([*keys[:1], "new", "first", *keys[1:]]) == 0
    routes = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
    table = write_table(tmp_path, routes, middlewares=[{"client_keys": {"file": "clients.yaml"}}])
    async with Tidegate(table) as gate:

        async def ask(key: str) -> int:
            async with RawClient(gate.port) as raw:
                body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]}
                await raw.send(post(CHAT, body, [("Authorization", f"Bearer {key}")]))
                return (await read_answer(raw))[0]

        main(["keys", "new", "second", "--file", str(file)])
        await gate.wait_event("reloaded", within=10.0)
        first, second = capsys.readouterr().out.split()
        both = [await ask(first), await ask(second)]
        main(["keys", "revoke", "first", "--file", str(file)])
        await gate._until(lambda: len(gate.events("reloaded")) == 2, 10.0, "the second edit")
        one = [await ask(first), await ask(second)]

    assert (both, one) == ([200, 200], [401, 200])
