"""The units: well-formed, confined, patient enough to drain, and installed by six commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.addresses import parse_address
from config.loader import load
from config.schema import Server
from middlewares.registry import catalog
from proxy.listeners import BACKLOG
from tests.support.process import ROOT

UNITS = ROOT / "systemd"
UNIT = UNITS / "tidegate.service"
SOCKET = UNITS / "tidegate.socket"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def said_in(unit: Path) -> dict[str, list[str]]:
    """What a unit assigns, by name."""
    lines = (line.partition("=") for line in unit.read_text().splitlines() if not line.startswith("#"))
    found: dict[str, list[str]] = {}
    for name, equals, value in lines:
        if equals:
            found.setdefault(name, []).append(value)
    return found


@needs_systemd
def test_the_unit_exposes_little() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
    )
    level = re.search(r"Overall exposure level for tidegate\.service: ([\d.]+)", done.stdout)

    assert level is not None
    assert float(level[1]) <= 1.5


@needs_systemd
@pytest.mark.parametrize("name", ["tidegate.service", "tidegate.socket"])
def test_the_units_have_no_mistakes(tmp_path: Path, name: str) -> None:
    for unit in (UNIT, SOCKET):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/tidegate/.venv/bin/tidegate", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    about_them = [line for line in done.stderr.splitlines() if "tidegate" in line]

    assert (done.returncode, about_them) == (0, [])


def test_systemd_is_told_when_it_is_ready_and_that_it_lives_by_the_main_process_only() -> None:
    said = said_in(UNIT)

    assert (said["Type"], said["NotifyAccess"]) == (["notify"], ["main"])
    assert said["ExecReload"] == ["kill -HUP $MAINPID"]
    assert said["KillMode"] == ["mixed"]
    seconds = re.fullmatch(r"(\d+)s", said["WatchdogSec"][0])
    assert seconds is not None and int(seconds[1]) >= 10
    # A stuck one is killed by a signal, and that is a failure.
    assert said["Restart"] == ["on-failure"]


def test_the_socket_is_where_the_shipped_table_listens() -> None:
    said = said_in(SOCKET)
    shipped = load(ROOT / "config/routes.yaml", catalog(), environ={}).table

    assert shipped is not None
    assert said["ListenStream"] == [str(address) for address in shipped.server.listen]
    assert said["Backlog"] == [str(BACKLOG)]
    assert "Accept" not in said, "each connection would be a process of its own"
    assert parse_address("systemd").kind == "systemd"
    assert 'listen: ["systemd"]' in SOCKET.read_text()


def _shown(page: str) -> list[str]:
    """The commands in a page's section on the service."""
    section = (ROOT / page).read_text().partition("\n## As a service\n")[2].partition("\n## ")[0]
    block = re.search(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None, page
    return block[1].splitlines()


def test_six_commands_make_a_service_the_same_wherever_they_are_shown() -> None:
    commands = _shown("README.md")

    assert len(commands) == 6 and all(command.startswith("# ") for command in commands)
    assert commands[-1].endswith("systemctl enable --now tidegate")
    assert commands == _shown("docs/operation.md")


def test_what_the_commands_install_is_there_and_goes_where_the_unit_looks() -> None:
    words = " ".join(_shown("README.md")).split()
    sources = [word for word in words if re.fullmatch(r"(systemd|config)/\S+", word)]
    table = "/etc/tidegate/routes.yaml"

    assert sorted(sources) == [
        "config/routes.yaml",
        "systemd/kimi.env.example",
        "systemd/tidegate.service",
        "systemd/tidegate.sysusers",
    ]
    assert all((ROOT / source).is_file() for source in sources)
    assert table in words and said_in(UNIT)["ExecStart"][0].endswith(f"serve -c {table}")
    assert "/etc/tidegate/kimi.env" in words
    assert said_in(UNIT)["EnvironmentFile"] == ["-/etc/tidegate/kimi.env"]


def test_the_commands_install_on_a_system_that_has_no_such_folders_yet(tmp_path: Path) -> None:
    # What Debian has. Owners and systemd itself are left out: both need a machine that may be changed.
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    for command in _shown("README.md"):
        bare = command.removeprefix("# ").partition(" && ")[0].replace(" -o tidegate -g tidegate", "")
        if bare.startswith("install "):
            subprocess.run(bare.replace("/etc/", f"{tmp_path}/etc/").split(), cwd=ROOT, check=True)
    installed = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777
        for path in tmp_path.rglob("*")
        if path.is_file() or path.name == "tidegate"
    }

    assert installed == {
        "etc/sysusers.d/tidegate.conf": 0o644,
        "etc/tidegate": 0o700,
        "etc/tidegate/routes.yaml": 0o600,
        "etc/tidegate/kimi.env": 0o600,
        "etc/systemd/system/tidegate.service": 0o644,
    }


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
def test_the_user_of_the_unit_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    copy = shutil.copy(UNITS / "tidegate.sysusers", tmp_path / "tidegate.conf")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(copy)], check=True, capture_output=True)

    assert re.search(r"^tidegate:", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert (said_in(UNIT)["User"], said_in(UNIT)["Group"]) == (["tidegate"], ["tidegate"])


def test_systemd_waits_longer_than_draining_may_take() -> None:
    minutes = re.search(r"^TimeoutStopSec=(\d+)min$", UNIT.read_text(), re.MULTILINE)

    assert minutes is not None
    assert int(minutes[1]) * 60 > Server().drain_timeout


def test_the_unit_looks_for_the_key_where_the_shipped_table_does() -> None:
    unit, table = UNIT.read_text(), (ROOT / "config/routes.yaml").read_text()

    assert "LoadCredential=kimi\n" in unit and "SetCredential=kimi:\\n\n" in unit
    assert "EnvironmentFile=-/etc/tidegate/kimi.env" in unit
    assert "credential: kimi, file: /etc/tidegate/kimi.env" in table
    assert re.search(r"^KIMI_API_KEY=$", (ROOT / "systemd/kimi.env.example").read_text(), re.MULTILINE)
