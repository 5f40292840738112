"""Middlewares of others: the documented example, both ways of naming one, and what can be wrong with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.documents import write_modules
from tests.support.process import ROOT, Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import ScriptedUpstream, chat

CHAT = "/v1/chat/completions"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the module path with the module of the documentation in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_modules(folder)
    return folder


def register(folder: Path, distribution: str, lines: str) -> None:
    """What installing a distribution leaves behind of its entry points."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tidegate.middlewares]\n{lines}\n")


def tidegate(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command says where `site` is on the module path."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def checked(folder: Path, site: Path, middlewares: list[Any]) -> list[dict[str, Any]]:
    """What `tidegate check` says of a route with this chain."""
    table = write_table(folder, {"demo": {"upstream": "demo", "middlewares": middlewares}})
    ran = tidegate(site, "check", "--json", "-c", str(table))
    assert ran.stderr == ""
    problems: list[dict[str, Any]] = json.loads(ran.stdout)
    return problems


@pytest.mark.parametrize("name", ["acme_tidegate:Team", "team"])
async def test_the_example_works_by_its_place_and_by_the_name_it_registers(
    tmp_path: Path, site: Path, name: str
) -> None:
    register(site, "acme", "team = acme_tidegate:Team")
    async with ScriptedUpstream(chat("well")) as upstream:
        chain = ["prefix_rewrite", {name: {"name": "research", "models": ["echo"]}}]
        path = write_table(tmp_path, {"up": {"upstream": upstream.url, "middlewares": chain}})
        async with Tidegate(path, env={"PYTHONPATH": str(site)}) as gate:
            async with RawClient(gate.port) as client:
                await client.send(post(CHAT, {"model": "up/echo", "messages": []}))
                served = await client.read_head()
                await client.read_body()
                await client.send(post(CHAT, {"model": "up/other", "messages": []}))
                refused = await client.read_head()
                told = json.loads(await client.read_body())

    assert served[0] == 200
    assert header(served[1], "x-team") == "research"
    assert header(served[1], "x-tidegate-changed") == "model=up/echo->echo, user=->research"
    assert upstream.seen[0].header("X-Team") == "research"
    assert upstream.seen[0].json()["user"] == "research"
    assert (refused[0], header(refused[1], "x-tidegate-error")) == (403, "not_allowed")
    assert told["error"]["message"] == "'other' is not for research."
    assert len(upstream.seen) == 1


async def test_it_may_stand_at_the_top_and_more_than_once(tmp_path: Path, site: Path) -> None:
    top = [{"acme_tidegate:Team": {"name": "one"}}, {"acme_tidegate:Team": {"name": "two"}}]
    async with ScriptedUpstream(chat("well")) as upstream:
        path = write_table(tmp_path, {"up": {"upstream": upstream.url}}, middlewares=top)
        async with Tidegate(path, env={"PYTHONPATH": str(site)}) as gate, RawClient(gate.port) as client:
            await client.send(post("/up" + CHAT, {"model": "x", "messages": []}))
            _, headers = await client.read_head()

    assert upstream.seen[0].header("X-Team") == "two"
    assert header(headers, "x-team") == "one"


async def test_one_that_fails_ends_its_request_and_no_other(tmp_path: Path, site: Path) -> None:
    (site / "faulty.py").write_text(
        "class Faulty:\n"
        "    def __init__(self, options, deps): pass\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        raise RuntimeError('canary')\n"
    )
    routes = {
        "bad": {"upstream": "demo", "middlewares": ["faulty:Faulty"]},
        "good": {"upstream": "demo", "middlewares": ["prefix_rewrite"]},
    }
    answers = []
    gate = Tidegate(write_table(tmp_path, routes), env={"PYTHONPATH": str(site)})
    async with gate, RawClient(gate.port) as client:
        for model in ("bad/echo", "good/echo"):
            await client.send(post(CHAT, {"model": model, "messages": []}))
            status, headers = await client.read_head()
            answers.append((status, header(headers, "x-tidegate-error"), await client.read_body()))
        (told,) = gate.events("unforeseen")
        # What the harness looks for at the end is what this test is about.
        gate.stderr[:] = [line for line in gate.stderr if '"unforeseen"' not in line]

    assert [answer[:2] for answer in answers] == [(500, "internal_error"), (200, None)]
    assert told["where"] == "faulty.py:4 in __call__" and told["exception"] == "RuntimeError"
    assert not any(b"canary" in answer[2] for answer in answers)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("nowhere:Team", "there is no module 'nowhere' here: install it into tidegate's environment"),
        ("acme_tidegate.sub:Team", "there is no module 'acme_tidegate.sub' here: install it into"),
        ("acme_tidegate:Tame", "the module 'acme_tidegate' has no 'Tame'"),
        ("acme_tidegate:Struct", "is no class with async def __call__(self, exchange, call_next)"),
        ("acme_tidegate:Team", "middleware 'acme_tidegate:Team' needs the option 'name'"),
        ({"acme_tidegate:Team": {"nam": "x", "name": "y"}}, "unknown key 'nam', did you mean 'name'?"),
        ({"acme_tidegate:Team": {"name": ["x"]}}, "expected text, found a list"),
        ("teams", "unknown middleware 'teams', did you mean 'team'?"),
        ("twice", "is registered more than once: write one of 'acme_tidegate:Team', 'json:dumps'"),
        ("gone", "middleware 'gone': ModuleNotFoundError: No module named 'nowhere'"),
        ("raises:X", "middleware 'raises:X': ValueError: no luck"),
        ("leaves:X", "middleware 'leaves:X': SystemExit: 3"),
        ("needs:X", "middleware 'needs:X': ModuleNotFoundError: No module named 'nowhere'"),
        ("odd:Dict", "middleware 'odd:Dict': its Options are no msgspec.Struct"),
        ("odd:Sync", "is no class with async def __call__(self, exchange, call_next)"),
        ({"odd:Date": {"at": "2026-01-01"}}, "middleware 'odd:Date': TypeError: no option can have the type"),
        ("odd:Picky", "middleware 'odd:Picky': KeyError: '[redacted]'"),
        ("a b:X", "middleware 'a b:X' is not package.module:Name"),
        ("key:X", "put a space after the colon: write key: {option: value}"),
        ("retry:X", "put a space after the colon: write retry: {option: value}"),
    ],
)
def test_what_is_wrong_with_one_is_told_at_its_line(
    tmp_path: Path, site: Path, item: Any, message: str
) -> None:
    register(site, "acme", "team = acme_tidegate:Team\ntwice = acme_tidegate:Team\ngone = nowhere:X")
    register(site, "other", "twice = json:dumps")
    (site / "raises.py").write_text("raise ValueError('no luck')\n")
    (site / "leaves.py").write_text("raise SystemExit(3)\n")
    (site / "needs.py").write_text("import nowhere\n")
    (site / "odd.py").write_text(
        "import datetime, msgspec\n"
        "class Sync:\n    def __call__(self, exchange, call_next): ...\n"
        "class Right:\n    async def __call__(self, exchange, call_next): ...\n"
        "class Dict(Right):\n    Options = dict\n"
        "class Date(Right):\n    class Options(msgspec.Struct):\n        at: datetime.datetime\n"
        "class Picky(Right):\n    class Options(msgspec.Struct):\n"
        "        def __post_init__(self): raise KeyError('sk-0123456789abcdef0123')\n"
    )
    (problem,) = checked(tmp_path, site, ["prefix_rewrite", item])

    assert problem["level"] == "error" and problem["line"] > 1
    assert message in problem["message"]


def test_one_that_cannot_be_made_keeps_the_program_from_starting_with_a_word(
    tmp_path: Path, site: Path
) -> None:
    (site / "unmade.py").write_text(
        "class Unmade:\n"
        "    def __init__(self, options, deps): raise LookupError('no luck')\n"
        "    async def __call__(self, exchange, call_next): ...\n"
    )
    table = write_table(tmp_path, {"demo": {"upstream": "demo", "middlewares": ["unmade:Unmade"]}})
    ran = tidegate(site, "serve", "-c", str(table))

    assert ran.returncode == 1
    assert ran.stderr == "tidegate: middleware 'unmade:Unmade': LookupError: no luck\n"


def test_the_schema_admits_them_and_knows_the_options_of_what_is_installed(
    tmp_path: Path, site: Path
) -> None:
    register(site, "acme", "team = acme_tidegate:Team\ngone = nowhere:X")
    ran = tidegate(site, "schema")
    validator = Draft202012Validator(json.loads(ran.stdout))

    def valid(*chain: Any) -> bool:
        route = {"upstream": "demo", "middlewares": list(chain)}
        return bool(validator.is_valid({"version": 1, "routes": {"demo": route}}))

    assert valid({"team": {"name": "x"}}, "other.module:Name", {"other.module:Name": {"any": [1]}})
    assert not valid({"team": {"nam": "x"}})
    assert not valid("gone")
    assert not valid("not a name:x")
