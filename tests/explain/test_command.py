"""`tidegate explain` as an operator types it: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from tests.explain.terminal import KEYS, KIMI_KEY, TABLE, Explain, body_file, told, up
from tests.support import disclosure
from tests.support.process import ROOT

CLOCKS: dict[str, Any] = dict.fromkeys(["first_byte", "first_token", "idle", "total"])


def test_a_kimi_call_is_told_from_the_rule_to_the_clocks(explain: Explain, tmp_path: Path) -> None:
    body = body_file(tmp_path, model="another", max_tokens=800, messages=[])
    said = told(explain, "kimi/kimi-for-coding", "--body", body, "--header", "User-Agent: KimiCLI/1.44")

    assert list(said) == "route rule model url chain headers changes clocks ladder".split()
    assert (said["route"], said["rule"], said["model"]) == ("kimi", "prefix", "kimi-for-coding")
    assert said["url"] == "https://api.kimi.com/coding/v1/chat/completions"
    assert [(link["at"], link["name"]) for link in said["chain"]] == [
        ("top", "headers"),
        ("top", "timeout"),
        ("route", "prefix_rewrite"),
        ("route", "headers"),
        ("route", "key"),
        ("route", "token_floor"),
        ("route", "retry"),
        ("route", "timeout"),
    ]
    assert said["chain"][5]["options"] == {"min": 1500, "when_absent": "leave", "cap": None}
    assert said["changes"] == {
        "model": ["kimi/kimi-for-coding", "kimi-for-coding"],
        "max_tokens": ["800", "1500"],
    }
    assert said["clocks"] == CLOCKS | {"connect": 10.0, "total": 600.0, "exchange_total": 300.0}
    assert said["headers"] == [
        line("Accept", "kept", "application/json", "application/json"),
        line("Accept-Encoding", "changed", "gzip, deflate", "identity"),
        line("Content-Type", "kept", "application/json", "application/json"),
        line("User-Agent", "kept", "KimiCLI/1.44", "KimiCLI/1.44"),
        line("X-Team", "added", None, "nobody"),
        line("Authorization", "changed", "Bearer [redacted]", "Bearer [redacted]"),
    ]
    (rung,) = said["ladder"]
    assert rung == {
        "route": "kimi",
        "model": "kimi-for-coding",
        "url": said["url"],
        "usable": True,
        "reason": None,
        "key": "KIMI_API_KEY",
        "explicit_only": True,
        "proxy": None,
        "clocks": said["clocks"],
    }


def line(name: str, change: str, client: str | None, upstream: str | None) -> dict[str, str | None]:
    return {"name": name, "change": change, "client": client, "upstream": upstream}


def test_a_missing_key_is_told_and_does_not_count(explain: Explain) -> None:
    said = told(explain, "kimi/kimi-for-coding", env={})

    (rung,) = said["ladder"]
    assert rung["usable"] is False
    assert rung["reason"].startswith("The route 'kimi' has no usable key: KIMI_API_KEY is not set, ")
    assert "kimi.env does not exist" in rung["reason"] and "KIMI_API_KEY is not set" in rung["key"]
    assert up(said)["Authorization"] == "Bearer [missing]"
    assert said["model"] == "kimi-for-coding"


@pytest.mark.parametrize("key", ["sk-or-canary-0123456789abcdef", "sk-kimi"])
def test_a_key_that_does_not_fit_its_host_is_told_without_it(explain: Explain, key: str) -> None:
    said = told(explain, "kimi/kimi-for-coding", env={"KIMI_API_KEY": key})

    (rung,) = said["ladder"]
    assert rung["usable"] is False and "sk-kimi-" in rung["reason"]
    assert "canary" not in json.dumps(said)


def test_keys_come_from_a_credential_or_a_private_file_by_name(
    explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kimi.env").write_text(f"KIMI_API_KEY={KIMI_KEY}\n")
    (tmp_path / "kimi.env").chmod(0o600)
    from_file = told(explain, "kimi/x", env={})
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "kimi").write_text(KIMI_KEY)
    from_credential = told(explain, "kimi/x", env={"CREDENTIALS_DIRECTORY": str(credentials)})

    assert from_file["ladder"][0]["key"] == "kimi.env"
    assert from_credential["ladder"][0]["key"] == "the credential kimi"


def test_each_rung_of_a_ladder_is_told_with_its_own_state(explain: Explain) -> None:
    said = told(explain, "review", env={})

    assert (said["route"], said["rule"], said["model"]) == ("open", "models", "big")
    assert [(rung["route"], rung["model"], rung["url"], rung["usable"]) for rung in said["ladder"]] == [
        ("open", "big", "https://open.example/v1/chat/completions", False),
        ("plain", "plain/other", "https://plain.example/v1/chat/completions", True),
        ("demo", "echo", "demo", True),
    ]
    assert said["ladder"][0]["reason"] == "The route 'open' has no usable key: OPEN_KEY is not set."
    assert said["ladder"][1]["proxy"] == "http://[redacted]@proxy.example:3128"
    assert up(said)["X-Acme"] == "[missing]"


def test_what_counts_failures_and_waits_is_left_out(explain: Explain) -> None:
    """A dry run reaches nobody; a breaker that saw it, or a retry, would have it fail or take its time."""
    patient = "prefix_rewrite, {breaker: {failures: 1}}, {retry: {backoff: {initial: 10m, max: 10m}}}"
    text = TABLE.replace("prefix_rewrite, breaker", patient).replace(
        "open/big, plain/other", "open/big, open/b"
    )
    said = told(explain, "review", text=text)

    assert [rung["usable"] for rung in said["ladder"]] == [True, True, True]


def test_what_the_environment_gave_is_shown_as_the_table_writes_it(explain: Explain) -> None:
    env = KEYS | {"TEAM": "canary-team", "KIMI_TIMEOUT_SECS": "7351", "OPEN_URL": "https://canary.example/v1"}
    kimi = told(explain, "kimi/x", env=env)
    other = told(explain, "fast", env=env)

    assert up(kimi)["X-Team"] == "${TEAM:-nobody}"
    assert kimi["clocks"]["total"] == "${KIMI_TIMEOUT_SECS:-600}s"
    assert kimi["chain"][-1]["options"]["total"] == "${KIMI_TIMEOUT_SECS:-600}s"
    assert kimi["chain"][0]["options"]["set"] == {"X-Team": "${TEAM:-nobody}"}
    assert other["url"] == "${OPEN_URL:-https://open.example/v1/}/chat/completions"
    for said in (kimi, other):
        assert "canary" not in json.dumps(said) and "7351" not in json.dumps(said)
    for arguments in (["kimi/x"], ["review"], ["fast"]):
        _, out, _ = explain(*arguments, env=env)
        assert "canary" not in out and "7351" not in out


def test_what_a_client_sends_as_a_credential_is_not_shown(explain: Explain) -> None:
    passes = TABLE.replace("{env: OPEN_KEY, header: X-Acme}", "{pass: true}")
    for header in (
        "Authorization: Bearer canary-0123456789",
        "X-Api-Key:canary-0123456789",
        "Cookie: a=canary",
    ):
        code, out, _ = explain("fast", "--header", header, "--path", "/v1/chat?key=canary", text=passes)
        said = told(explain, "fast", "--header", header, "--path", "/v1/chat?key=canary", text=passes)

        assert code == 0 and "canary" not in out + json.dumps(said)
        assert said["url"] == "https://open.example/v1/chat/completions"
        assert said["ladder"][0]["key"] == "the client's own"


def test_a_model_that_no_route_serves_is_told_as_the_client_is_told(explain: Explain) -> None:
    text = TABLE.replace("default_route: plain\n", "")
    said = told(explain, "kimmi/kimi-for-coding", text=text)
    code, out, _ = explain("kimmi/kimi-for-coding", text=text)
    message = (
        "No route serves the model 'kimmi/kimi-for-coding'. Did you mean 'kimi/kimi-for-coding'? "
        "Name one as ROUTE/MODEL; GET /v1/models lists them."
    )

    assert said == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
            "status": 404,
        }
    }
    assert code == 1 and f"404 model_not_found: {message}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["m", "--provider", "nobody"], 404, "model_not_found"),
        (["m", "--path", "/nobody/v1/chat/completions"], 404, "model_not_found"),
        (["m", "--path", "/chat/completions"], 404, "not_found"),
        (["m", "--path", "/v1/../x"], 400, "invalid_request"),
        (["m", "--method", "TRACE"], 400, "invalid_request"),
        ([""], 400, "invalid_request"),
        (["m", "--path", "/v1/models"], 200, None),
        (["m", "--path", "/healthz", "--method", "GET"], 200, None),
        (["m", "--provider", "a", "--header", "x-tidegate-provider: b"], 400, "invalid_request"),
    ],
)
def test_what_no_route_serves_exits_with_1(
    explain: Explain, arguments: list[str], status: int, code: str | None
) -> None:
    error = told(explain, *arguments)["error"]

    assert (error["status"], error["code"]) == (status, code)


@pytest.mark.parametrize(
    ("arguments", "rule", "route"),
    [
        (["m", "--path", "/kimi/v1/chat", "--provider", "open"], "path", "kimi"),
        (["fast", "--provider", "kimi"], "header", "kimi"),
        (["fast"], "models", "open"),
        (["kimi/m"], "prefix", "kimi"),
        (["gpt-4o"], "serves", "open"),
        (["whatever"], "default_route", "plain"),
        ([], "default_route", "plain"),
    ],
)
def test_the_rule_that_decides_is_named(
    explain: Explain, arguments: list[str], rule: str, route: str
) -> None:
    said = told(explain, *arguments)

    assert (said["rule"], said["route"]) == (rule, route)


def test_the_bodys_provider_decides_and_is_taken_out(explain: Explain, tmp_path: Path) -> None:
    said = told(explain, "m", "--body", body_file(tmp_path, provider="kimi"))

    assert (said["rule"], said["route"]) == ("provider", "kimi")
    assert said["changes"] == {"provider": ["kimi", ""]}


def test_what_the_other_rules_say_is_printed(explain: Explain) -> None:
    _, out, _ = explain("review", "--provider", "kimi")
    table = out.partition("Rules, of which the first that names a route decides\n")[2].partition("\n\n")[0]

    assert table.splitlines() == [
        "  1 the route in the path            -",
        "> 2 x-tidegate-provider              kimi",
        "  3 the body's provider              -",
        "  4 a name under models              open/big, plain/other, demo/echo",
        "  5 the route in front of the model  -",
        "  6 a name that a route serves       -",
        "  7 default_route                    plain",
    ]
    _, out, _ = explain("review", "--provider", "nobody")
    assert "  2 x-tidegate-provider              no such route" in out


def test_a_table_with_errors_is_told_as_serve_tells_it(explain: Explain) -> None:
    code, out, err = explain("m", text=TABLE + "modls: {}\n")

    assert (code, out) == (1, "")
    assert "routes.yaml:" in err and ": error: unknown key 'modls', did you mean 'models'?" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["m", "extra"],
        ["m", "--header", "canary-without-a-colon"],
        ["m", "--header", "A: b\r\nC: canary"],
        ["m", "--header", "a b: c"],
        ["m", "--method", "GET /"],
        ["m\udcff"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["explain", *arguments])

    assert left.value.code == 2
    err = capsys.readouterr().err
    assert "usage: tidegate" in err and "canary" not in err


def test_what_would_act_on_a_terminal_is_escaped(explain: Explain) -> None:
    code, out, _ = explain("\x1b[2J", "--header", "X-A: \x9b2J")

    assert code == 0
    assert "\x1b" not in out and "\x9b" not in out


def test_it_waits_for_nothing_and_calls_nobody(tmp_path: Path) -> None:
    """Every socket that it opens is one too many."""
    table = tmp_path / "routes.yaml"
    table.write_text(TABLE)
    program = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, a: seen.append(event) if event in "
        "('socket.connect', 'socket.bind', 'socket.getaddrinfo', 'socket.sendto') else None)\n"
        "from proxy.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not seen, seen\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "explain", "-c", str(table), "review"]
    env = {"PATH": os.environ["PATH"], **KEYS}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Ladder" in done.stdout
    assert not disclosure.told(done.stdout, KEYS.values())
