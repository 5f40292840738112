"""`python -m tests.bench`: measure, print a table, write a file and a picture. `make bench` runs it."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proxy import __version__
from tests.bench.accounting import load_average
from tests.bench.figures import Findings, table
from tests.bench.plot import drawn
from tests.bench.sections import QUICK, SECTIONS, Bench, Plan
from tests.bench.subjects import Ground, cores
from tests.bench.traffic import Stage
from tests.support.process import ROOT


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else Plan()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < plan.open_files:
        sys.stderr.write(
            f"bench: {plan.open_files:,} open files are needed, and `ulimit -Hn` says {hard:,}; see --quick\n"
        )
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = cores()
    places.take_load()
    gc.disable()  # a pause of the load would look like one of the subject
    began, load = time.monotonic(), load_average()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder, closing(Stage()) as stage:
        bench = Bench(Ground(stage, Path(folder), places), plan, peers=options.peers)
        for name in options.only:
            sys.stderr.write(f"bench: {name} …\n")
            SECTIONS[name](bench)
            gc.collect()
    about = _about(options.quick, time.monotonic() - began, load)
    _write(bench.findings, about, options.out)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description="What serving costs, measured.")
    parser.add_argument("--quick", action="store_true", help="2 minutes instead of 10, with more noise")
    parser.add_argument(
        "--peers", action="store_true", help="also nginx, envoy and vllm-router, if they are on the PATH"
    )
    parser.add_argument(
        "--only", type=_sections, default=list(SECTIONS), metavar="A,B", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/bench", help="folder for bench.json and bench.svg"
    )
    return parser.parse_args()


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def _about(quick: bool, seconds: float, load: float) -> dict[str, Any]:
    commit = subprocess.run(
        ("git", "describe", "--always", "--dirty"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    libraries = {
        name: version(name) for name in ("aiohttp", "uvloop", "multidict", "yarl", "msgspec", "structlog")
    }
    return {
        "tidegate": __version__,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "libraries": libraries,
        "machine": f"{os.cpu_count()} × {_processor()}, Linux {platform.release()}",
        "quick": quick,
        "seconds": round(seconds),
        "load_before": load,
        "load_after": load_average(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _write(findings: Findings, about: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(findings.as_data(about), indent=2, ensure_ascii=False) + "\n")
    (out / "bench.svg").write_text(drawn(findings))
    sys.stdout.write(
        f"tidegate {about['tidegate']} ({about['commit']}), Python {about['python']}, {about['machine']}\n"
        f"{about['seconds']} s; load of the machine {about['load_before']:.1f} before, "
        f"{about['load_after']:.1f} after. ± is half the distance of the quartiles.\n"
        f"{table(findings)}\n\n{out / 'bench.json'}\n{out / 'bench.svg'}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
