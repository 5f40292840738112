"""What the documents show is run here, and what can be configured is in the documents."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from config.files import Files
from config.loader import load
from middlewares.faults import STATUS
from middlewares.registry import BUILT_IN, catalog
from proxy.cli import main
from tests.support.documents import PAGES, blocks, write_modules
from tests.support.process import ROOT, Tidegate, write_table


def completed(text: str) -> str:
    """A list of middlewares, made into a table."""
    if not text.startswith("- "):
        return text
    if "prefix_rewrite" not in text:
        text = f"- prefix_rewrite\n{text}"
    indented = "".join(f"      {line}\n" for line in text.splitlines())
    return (
        f"version: 1\nroutes:\n  acme:\n    upstream: https://acme.example/v1\n    middlewares:\n{indented}"
    )


# The tables of check.md are mistakes: tests/test_check_document.py has them told.
YAML = [block for block in blocks("yaml") if not block[0].startswith("check.md")]
CLIENTS = [text for _, text in YAML if "\nclients:" in text]
SOUND = [block for block in YAML if block[1] not in CLIENTS]


@pytest.mark.parametrize(("place", "text"), [pytest.param(*block, id=block[0]) for block in SOUND])
def test_every_table_shown_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str
) -> None:
    write_modules(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "routes.yaml"
    file.write_text(completed(text))
    loaded = load(file, catalog(), environ={})

    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.ok


def test_the_clients_file_that_is_shown_is_valid_and_is_listed_as_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = CLIENTS
    (table,) = [
        table for place, table in SOUND if place.startswith("access.md") and table.startswith("version: 1")
    ]
    (tmp_path / "clients.yaml").write_text(text)
    (tmp_path / "clients.yaml").chmod(0o600)
    (tmp_path / "routes.yaml").write_text(table.replace("/etc/tidegate/clients.yaml", "clients.yaml"))
    loaded = load(tmp_path / "routes.yaml", catalog(), environ={}, files=Files(tmp_path))
    shown = [block for place, block in blocks("console") if place.startswith("access.md") and "list" in block]

    assert [str(problem) for problem in loaded.problems] == []
    assert main(["keys", "list", "-c", str(tmp_path / "routes.yaml")]) == 0
    assert shown == ["$ tidegate keys list\n" + capsys.readouterr().out]


def demo(folder: Path) -> Path:
    return write_table(folder, {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}})


async def test_the_readmes_python_works_as_shown(tmp_path: Path) -> None:
    (python,) = [text for place, text in blocks("python") if place.startswith("README")]
    async with Tidegate(demo(tmp_path)) as gate:
        env = {"OPENAI_BASE_URL": gate.base_url + "/v1", "OPENAI_API_KEY": "unused", "PATH": "/usr/bin:/bin"}
        said = await run(sys.executable, "-c", python, env=env)

    assert said == "one two three"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_readmes_commands_work_as_shown(tmp_path: Path) -> None:
    shown = [text for place, text in blocks("sh") if place.startswith("README") and "curl" in text]
    async with Tidegate(demo(tmp_path)) as gate:
        said = [
            await run("bash", "-euc", text.replace("http://127.0.0.1:8080", gate.base_url)) for text in shown
        ]

    plain, stream, models = said
    assert '"content":"PONG"' in plain
    assert stream.count("data: ") == 7 and stream.rstrip().endswith("data: [DONE]")
    assert '"demo/echo"' in models


def test_the_explanation_that_is_shown_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "docs/operation.md").read_text().partition("## What would happen")[2]
    table, console = (
        section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("yaml", "console")
    )
    command, _, printed = console.partition("\n")
    said = re.fullmatch(r"\$ echo '(.*)' \| tidegate (.*)", command)
    assert said is not None
    file = tmp_path / "routes.yaml"
    file.write_text(table)
    monkeypatch.setenv("TIDEGATE_CONFIG", str(file))
    monkeypatch.setenv("KIMI_API_KEY", "sk-kimi-canary-0123456789abcdef")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said[1].encode())))

    assert main(said[2].split()) == 0
    assert capsys.readouterr().out == printed


async def run(*command: str, env: dict[str, str] | None = None) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_option_of_a_middleware_has_its_line_in_the_reference(name: str) -> None:
    text = (ROOT / "docs/table.md").read_text()
    section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    options = BUILT_IN[name].entry.options
    struct = options if isinstance(options, type) else options.__args__[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    assert documented == {field.encode_name for field in msgspec.structs.fields(struct)}
    assert f"- {name}" in section


def test_every_code_in_the_table_of_errors_is_real_and_has_its_status() -> None:
    section = (ROOT / "docs/operation.md").read_text().partition("## Errors")[2]
    rows = re.findall(r"^\| (\d{3}) \| ([^|]*) \|", section, re.MULTILINE)
    documented = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}

    assert len(documented) > 15
    assert documented == {code: STATUS[code] for code in documented}


def test_no_page_links_to_a_file_that_is_not_there() -> None:
    broken = [
        f"{page.name}: {link}"
        for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []
