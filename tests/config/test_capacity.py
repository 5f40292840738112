"""What several workers make of a limit, and what a process may open."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from config.catalog import Catalog
from middlewares.registry import catalog
from tests.config.catalog import CATALOG
from tests.config.tables import load_text
from tests.support.process import ROOT

# The limits that are here, and the made-up one of a rate.
BOTH = Catalog({**catalog().entries, "rate_limit": CATALOG.entries["rate_limit"]})
TABLE = """\
version: 1
server: {workers: %s}
middlewares:
  - rate_limit: {requests: 60/min, per: route}
routes:
  acme:
    upstream: https://acme.example/v1
    middlewares:
      - prefix_rewrite
      - concurrency: {limit: "${SLOTS:-4}"}
      - concurrency: {limit: 4}
      - breaker
"""


def told(workers: str, folder: Path) -> list[tuple[int, str]]:
    problems = load_text(TABLE % workers, folder, catalog=BOTH).problems
    return [(problem.line, problem.message) for problem in problems if problem.code == "per-worker"]


def test_limits_are_named_with_what_all_workers_together_make_of_them(tmp_path: Path) -> None:
    each = "each worker counts for itself: "
    assert told("3", tmp_path) == [
        (4, each + "rate_limit.requests of 60/min is up to 180/min with 3 workers"),
        (10, each + "concurrency.limit of '${SLOTS:-4}' is up to 3 times that with 3 workers"),
        (11, each + "concurrency.limit of 4 is up to 12 with 3 workers"),
        (12, each + "breaker.failures of 5 is up to 15 with 3 workers"),
    ]
    assert told("auto", tmp_path)[2] == (
        11,
        each + "concurrency.limit of 4 is that for each of the cores with workers: auto",
    )


def test_one_worker_counts_for_all(tmp_path: Path) -> None:
    assert told("1", tmp_path) == []


CHECK = """
import resource, sys
from proxy.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
sys.exit(main(["check", "-c", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    ("most", "options", "warned"), [(999, [], True), (1000, [], False), (999, ["--no-secrets"], False)]
)
def test_more_connections_than_a_process_may_have_files_are_told(
    most: int, options: list[str], warned: bool, tmp_path: Path
) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1000, (
        "this machine allows too little for the test"
    )
    table = tmp_path / "routes.yaml"
    table.write_text("version: 1\nserver: {max_connections: 1000}\nroutes: {demo: {upstream: demo}}\n")
    command = [sys.executable, "-c", CHECK, str(most), str(table), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    message = (
        f"{table}:2:27: warning: 1000 connections are more than the 999 files that a process may have open "
        "here: raise that limit (LimitNOFILE, ulimit -Hn), or write less\n"
    )

    assert done.stdout.startswith(message) == warned
    assert ("warning" in done.stdout) == warned
