"""The harness around the real process, tried on small programs that stand in for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.process import Tidegate, write_table

WELL_BEHAVED = """
import json, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
table = json.load(open(sys.argv[2]))
print("noise", file=sys.stderr, flush=True)
for role, address in (("admin", "127.0.0.1:1"), ("client", "127.0.0.1:4242")):
    print(json.dumps({"event": "listening", "role": role, "address": address}), file=sys.stderr, flush=True)
print(json.dumps({"env": sorted(os.environ), "listen": table["server"]["listen"]}), flush=True)
signal.sigwait({signal.SIGTERM})
print('{"last": true}', flush=True)
sys.exit(3)
"""


def stand_in(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


async def test_waits_for_the_listener_and_collects_the_lines(tmp_path: Path) -> None:
    table = write_table(tmp_path, {"demo": {"upstream": "demo"}})
    async with Tidegate(table, env={"KEY": "v"}, command=stand_in(WELL_BEHAVED)) as tidegate:
        assert tidegate.base_url == "http://127.0.0.1:4242" and tidegate.port == 4242
        assert tidegate.address("admin") == "127.0.0.1:1"
        (entry,) = await tidegate.wait_log(1)
        assert {"KEY", "PATH"} <= set(entry["env"]) <= {"KEY", "PATH", "LC_CTYPE"}
        assert tidegate.stderr[0] == "noise"
        assert await tidegate.terminate() == 3
        assert tidegate.log[-1] == {"last": True}
        with pytest.raises(RuntimeError, match="exit code 3 without 3 lines"):
            await tidegate.wait_log(3)


async def test_leaving_the_context_stops_the_process(tmp_path: Path) -> None:
    async with Tidegate(write_table(tmp_path, {}), command=stand_in(WELL_BEHAVED)) as tidegate:
        pass
    assert tidegate.process.returncode == 3


async def test_an_early_exit_shows_what_was_said(tmp_path: Path) -> None:
    gives_up = stand_in("import sys; sys.exit('routes.yaml:1:1: error: no routes')")
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1 .*routes.yaml:1:1: error: no routes"):
        async with Tidegate(write_table(tmp_path, {}), command=gives_up):
            pass


async def test_a_process_that_never_listens_is_killed(tmp_path: Path) -> None:
    mute = stand_in("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()")
    tidegate = Tidegate(write_table(tmp_path, {}), command=mute, ready_within=0.3)
    with pytest.raises(TimeoutError, match="no event 'listening'"):
        async with tidegate:
            pass
    assert tidegate.process.returncode == -9


async def test_a_stray_line_on_stdout_is_an_error(tmp_path: Path) -> None:
    talkative = stand_in(WELL_BEHAVED.replace("table =", "print('hello', flush=True); table ="))
    async with Tidegate(write_table(tmp_path, {}), command=talkative) as tidegate:
        with pytest.raises(ValueError, match="hello"):
            await tidegate.wait_log(1)


def test_a_table_is_completed_where_it_does_not_say(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "t.yaml", {"a": {"upstream": "demo"}}, default_route="a", server={"admin": "x:1"}
    )
    assert json.loads(path.read_text()) == {
        "version": 1,
        "server": {"listen": ["127.0.0.1:0"], "admin": "x:1"},
        "routes": {"a": {"upstream": "demo"}},
        "default_route": "a",
    }
