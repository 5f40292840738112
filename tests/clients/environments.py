"""The environments that `make clients` makes, one a client; elsewhere a missing one skips its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.process import ROOT

HERE = Path(__file__).parent
# Set by `make clients`, which has just made everything that can be made here.
MADE = os.environ.get("TIDEGATE_CLIENTS")
OLDEST_NODE = 20


def environment(name: str) -> Path:
    """The folder of the programs in .venv-clients-NAME."""
    if name == "aider" and sys.version_info >= (3, 13):
        pytest.skip("aider has no build for Python 3.13 and newer")
    programs = ROOT / f"{MADE or '.venv-clients'}-{name}" / "bin"
    if not (programs / "python").exists():
        _missing(programs.parent)
    return programs


def program(name: str, file: str) -> list[str]:
    """The command of a program in this folder, which is no place to import from (-P)."""
    return [str(environment(name) / "python"), "-P", str(HERE / file)]


def node(file: str) -> list[str]:
    """The command of a program in node/."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None or _major(found) < OLDEST_NODE:
        pytest.skip(f"Node {OLDEST_NODE} or newer with npm is not installed")
    modules = HERE / "node/node_modules"
    if not (modules / ".installed").exists():
        _missing(modules)
    return [found, str(HERE / "node" / file)]


def _major(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return int(said.strip().removeprefix("v").partition(".")[0])


def _missing(place: Path) -> NoReturn:
    if MADE:
        pytest.fail(f"`make clients` has not made {place}")
    pytest.skip(f"needs {place.name}: `make clients`")
