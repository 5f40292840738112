"""The command, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli import main
from tests.explain.terminal import KEYS, KIMI_KEY, OPEN_KEY, TABLE, Explain
from tests.support import disclosure


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Run it on the table; no key may be printed, whatever it says."""
    table = tmp_path / "routes.yaml"
    table.write_text(TABLE)
    for name in ("TEAM", "KIMI_TIMEOUT_SECS", "OPEN_URL", "CREDENTIALS_DIRECTORY", *KEYS):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, env: dict[str, str] | None = None, text: str = TABLE) -> tuple[int, str, str]:
        table.write_text(text)
        for name, value in (KEYS if env is None else env).items():
            monkeypatch.setenv(name, value)
        code = main(["explain", "-c", str(table), *arguments])
        out, err = capsys.readouterr()
        assert not disclosure.told(
            out + err, disclosure.secrets_in((KIMI_KEY, OPEN_KEY, "canary-of-the-proxy"))
        )
        assert max(map(len, out.splitlines()), default=0) <= 100 or "--json" in arguments
        return code, out.replace(f"{tmp_path}/", ""), err.replace(f"{tmp_path}/", "")

    return run
