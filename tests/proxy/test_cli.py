"""The command line: what it prints, and how it exits."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ruamel.yaml

from proxy import __version__
from proxy.cli import main
from tests.support.certificates import self_signed
from tests.support.process import ROOT

HEAD = """\
version: 1
routes:
  kimi:
    upstream: https://api.kimi.com/coding/v1
    explicit_only: true
    middlewares: [prefix_rewrite, {headers: {user_agent: pass}}]
  open: {upstream: "https://open.example/v1", middlewares: [prefix_rewrite]}
"""
Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    def run(text: str, *options: str) -> tuple[int, str]:
        table = tmp_path / "routes.yaml"
        table.write_text(text)
        code = main(["check", "-c", str(table), *options])
        return code, capsys.readouterr().out.replace(f"{tmp_path}/", "")

    return run


@pytest.mark.parametrize(
    ("more", "place", "said"),
    [
        (
            "models: {review: [open/a, kimi/b]}\n",
            "8:27",
            "'kimi' is explicit_only: no alias or ladder may lead",
        ),
        (
            "models: {fast: kimi/kimi-for-coding}\n",
            "8:16",
            "'kimi' is explicit_only: no alias or ladder may lead",
        ),
        ("default_route: kimi\n", "8:16", "'kimi' is explicit_only: it cannot be the default_route"),
    ],
)
def test_check_refuses_a_table_that_leads_to_kimi_unasked(
    check: Check, more: str, place: str, said: str
) -> None:
    code, out = check(HEAD + more)

    assert code == 1
    assert f"routes.yaml:{place}: error: {said}" in out


@pytest.mark.parametrize("claims", ['["kimi-for-coding"]', '["kimi*"]'])
def test_check_refuses_names_claimed_by_an_explicit_only_route(check: Check, claims: str) -> None:
    code, out = check(HEAD.replace("explicit_only: true", f"explicit_only: true\n    serves: {claims}"))

    assert code == 1
    assert "routes.yaml:6:" in out and "explicit_only" in out


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("user_agent: pass", "user_agent: KimiCLI/1.0", "6:58"),
        ("user_agent: pass", "set: {User-Agent: KimiCLI/1.0}", "6:"),
        ("routes:\n", "middlewares: [{headers: {user_agent: KimiCLI/1.0}}]\nroutes:\n", "2:"),
    ],
    ids=["route", "set", "top level"],
)
def test_a_fixed_user_agent_for_kimi_is_warned_of_until_the_risk_is_accepted(
    check: Check, old: str, new: str, place: str
) -> None:
    accepted = new.replace("headers: {", "headers: {accept_risk: ours to take, ")
    if accepted == new:
        accepted = f"accept_risk: ours to take, {new}"
    warned, out = check(HEAD.replace(old, new), "--no-secrets")
    strict, _ = check(HEAD.replace(old, new), "--no-secrets", "--strict")
    decided, silent = check(HEAD.replace(old, accepted), "--no-secrets", "--strict")

    assert (warned, strict, decided) == (0, 1, 0)
    assert (
        out.startswith(f"routes.yaml:{place}")
        and "warning: a fixed User-Agent is sent to api.kimi.com" in out
    )
    assert "suspension of the membership" in out
    assert "warning" not in silent


def test_problems_come_as_json_too(check: Check) -> None:
    code, out = check(HEAD + "default_route: kimi\nmodls: {}\n", "--json")
    problems: list[dict[str, Any]] = json.loads(out)

    assert code == 1
    assert [(p["file"], p["line"], p["column"], p["level"]) for p in problems] == [
        ("routes.yaml", 8, 16, "error"),
        ("routes.yaml", 9, 1, "error"),
    ]
    assert all(set(p) == {"file", "line", "column", "level", "code", "message"} for p in problems)
    assert "did you mean 'models'?" in problems[1]["message"]


def test_a_valid_table_is_an_empty_list(check: Check) -> None:
    assert check(HEAD, "--json") == (0, "[]\n")


def test_a_missing_key_is_an_error_unless_keys_are_not_to_be_looked_at(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    table = HEAD.replace("prefix_rewrite", "key: {env: NO_SUCH_KEY}")
    missing, out = check(table)
    without, _ = check(table, "--no-secrets")
    monkeypatch.setenv("NO_SUCH_KEY", "sk-platform-not-kimi")
    wrong, misfit = check(table)
    monkeypatch.setenv("NO_SUCH_KEY", "sk-kimi-right")
    right, _ = check(table)

    assert (missing, without, wrong, right) == (1, 0, 1, 0)
    assert "routes.yaml:6:" in out and "NO_SUCH_KEY is not set" in out
    assert "begin with sk-kimi-" in misfit and "platform" not in misfit


def test_the_shipped_table_is_valid_for_an_independent_validator_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = ROOT / "config/routes.yaml"
    assert main(["check", "--no-secrets", "--strict", "-c", str(shipped)]) == 0
    capsys.readouterr()
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    table = ruamel.yaml.YAML(typ="safe", pure=True).load(shipped)
    validator = jsonschema.Draft202012Validator(schema)

    validator.check_schema(schema)
    validator.validate(table)
    table["routes"]["kimi"]["explicit_onlly"] = True
    assert not validator.is_valid(table)


WHOLE = """\
version: 1
server:
  listen: ["127.0.0.1:8080"]
  admin: "127.0.0.1:8081"
  workers: 1
  max_body: 64MiB
  max_upload: 2GiB
  max_connections: 10000
  timeouts: {header: 15s, body_idle: 30s, keepalive: 75s}
  drain_delay: 0s
  drain_timeout: 15m
  trusted_proxies: []
  tls: {cert: localhost.crt, key: localhost.key, client_ca: localhost.crt}
routes:
  kimi:
    upstream: https://api.kimi.com/coding/v1
    explicit_only: true
    middlewares:
      - prefix_rewrite
      - headers: {user_agent: pass}
      - key: {env: KIMI_API_KEY, credential: kimi, file: kimi.env, expect: sk-kimi-}
      - token_floor: {min: 1500}
      - timeout: {connect: 10s, total: "${KIMI_TIMEOUT_SECS:-600}s"}
  openrouter: {upstream: "https://openrouter.ai/api/v1", middlewares: [prefix_rewrite]}
  ollama: {upstream: "https://ollama.com/v1", middlewares: [prefix_rewrite]}
models:
  gpt-4o: openrouter/openai/gpt-4o
  review: [openrouter/moonshotai/kimi-k2.6, ollama/kimi-k2:1t]
default_route: openrouter
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_table_that_uses_the_whole_format_as_it_is_meant_draws_no_warning(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate without a listener for it is no mistake: the listener may come by --listen."""
    monkeypatch.delenv("KIMI_API_KEY", raising=False)
    self_signed(tmp_path)
    (tmp_path / "kimi.env").write_text("KIMI_API_KEY=sk-kimi-canary-0123456789\n")
    (tmp_path / "kimi.env").chmod(0o600)

    assert check(WHOLE, "--strict") == (0, "routes.yaml: valid, 3 routes, 2 names under models\n")


def test_the_shipped_table_has_the_providers_and_their_limits() -> None:
    text = (ROOT / "config/routes.yaml").read_text()
    routes = ruamel.yaml.YAML(typ="safe", pure=True).load(text)["routes"]

    assert {name: route["upstream"] for name, route in routes.items()} == {
        "demo": "demo",
        "kimi": "https://api.kimi.com/coding/v1",
        "moonshot": "https://api.moonshot.ai/v1",
        "moonshot-cn": "https://api.moonshot.cn/v1",
        "openrouter": "https://openrouter.ai/api/v1",
        "ollama": "https://ollama.com/v1",
        "openai": "https://api.openai.com/v1",
        "local": "${LOCAL_URL:-http://127.0.0.1:8090/v1}",
    }
    assert [name for name, route in routes.items() if route.get("explicit_only")] == ["kimi"]
    assert "accept_risk:" not in text


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["explain"], ["schema"], ["version"]])
def test_help_is_everywhere_and_fits_100_columns(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    out = capsys.readouterr().out

    assert left.value.code == 0
    assert "usage: tidegate" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["check", "--nonsense"], ["serve", "extra"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 2
    assert "usage: tidegate" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"tidegate {__version__}\n"


def test_without_a_table_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)
    if Path("/etc/tidegate/routes.yaml").exists():
        pytest.skip("this machine has a table of its own")
    assert main(["check"]) == 1
    err = capsys.readouterr().err

    assert "TIDEGATE_CONFIG" in err and "config/routes.yaml" in err and "/etc/tidegate/routes.yaml" in err


def test_the_environment_names_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "named.yaml"
    table.write_text(HEAD)
    monkeypatch.setenv("TIDEGATE_CONFIG", str(table))

    assert main(["check"]) == 0
    assert "named.yaml: valid" in capsys.readouterr().out


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", "serve", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def test_an_invalid_table_is_not_served(tmp_path: Path) -> None:
    table = tmp_path / "routes.yaml"
    table.write_text(HEAD + "default_route: kimi\nmodls: {}\n")
    done = serve("-c", str(table))

    assert done.returncode == 1
    assert done.stdout == ""
    assert ":8:16: error:" in done.stderr and ":9:1: error:" in done.stderr
    assert "nothing is served" in done.stderr


def test_an_address_that_is_taken_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    table = tmp_path / "routes.yaml"
    table.write_text("version: 1\nserver: {admin: null}\nroutes: {demo: {upstream: demo}}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = serve("-c", str(table), "--listen", place)

    assert done.returncode == 1
    assert f"cannot listen on {place}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_override_is_judged_like_the_table(tmp_path: Path) -> None:
    table = tmp_path / "routes.yaml"
    table.write_text(HEAD)
    done = serve("-c", str(table), "--listen", "localhost")

    assert done.returncode == 1
    assert "--listen:1:1: error:" in done.stderr


def test_the_command_line_needs_no_http_library() -> None:
    program = "import sys; from proxy.cli import main; main(['version']); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert not {"aiohttp", "uvloop", "structlog"} & set(done.stdout.split())


def test_a_terminal_of_another_encoding_gets_its_messages_all_the_same(tmp_path: Path) -> None:
    table = tmp_path / "routes.yaml"
    table.write_text("version: 1\nroutes:\n  demo: {upstream: demo, middlewares: [key]}\n")
    command = [sys.executable, "-m", "proxy", "check", "-c", str(table)]
    env = {"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "latin1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)

    assert done.returncode == 1
    assert b"error:" in done.stdout and b"Traceback" not in done.stderr
