"""The unit: well-formed, confined, and patient enough to drain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.schema import Server
from tests.support.process import ROOT

UNIT = ROOT / "systemd/tidegate.service"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


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
def test_the_unit_has_no_mistakes(tmp_path: Path) -> None:
    copy = tmp_path / "tidegate.service"
    copy.write_text(UNIT.read_text().replace("/opt/tidegate/.venv/bin/tidegate", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if "tidegate.service" in line]

    assert (done.returncode, about_it) == (0, [])


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
