"""aider edits a file in a repository of its own, told what to write by a simulated model."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.environments import environment
from tests.clients.readme import ROWS
from tests.clients.scene import ACME_MODEL, PATIENCE_SECONDS, scene
from tests.support.completions import Completion, complete
from tests.support.wire import Seen, Wire

pytestmark = [
    pytest.mark.timeout(2 * PATIENCE_SECONDS),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]
ROW = ROWS["aider"]
# What keeps it on this machine, and from asking.
QUIET = """
--yes-always --no-check-update --no-show-release-notes --no-show-model-warnings --analytics-disable
--no-pretty --no-fancy-input --no-gitignore --no-suggest-shell-commands --no-detect-urls
""".split()
EDIT = """\
Here it is.

hello.py
```
print("Hello, tidegate")
```
"""


async def editor(seen: Seen, wire: Wire) -> None:
    """Streams the edited file; whoever asks whole is aider, which wants a message for the commit."""
    body = seen.json()
    text = EDIT if body.get("stream") else "feat: greet tidegate"
    await complete(seen, wire, Completion(text, body["model"]))


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@tidegate.example"]
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


async def test_aider_commits_the_edit_that_a_model_behind_tidegate_wrote(tmp_path: Path) -> None:
    aider = str(environment("aider") / "aider")
    async with scene(tmp_path, editor) as here:
        home = here.home
        (home / ".gitconfig").write_text("[user]\nname = Somebody\nemail = somebody@tidegate.example\n")
        # About a model that it does not know aider asks GitHub, if nothing here says more.
        known = {"max_input_tokens": 32768, "max_output_tokens": 4096, "mode": "chat"}
        model = ROW.model(ACME_MODEL)
        (home / ".aider.model.metadata.json").write_text(json.dumps({model: known}))
        (home / "hello.py").write_text('print("Hello")\n')
        git(home, "init", "--quiet")
        git(home, "add", "hello.py")
        git(home, "commit", "--quiet", "--message", "begin")

        _, *arguments = shlex.split(ROW.command(here.gate, ACME_MODEL))
        command = [aider, *arguments, *QUIET, "--message", "Greet tidegate.", "hello.py"]
        said = await here.run(command, ROW.environment(here.gate))

        assert "Applied edit to hello.py" in said
        assert (home / "hello.py").read_text() == 'print("Hello, tidegate")\n'
        assert git(home, "log", "-1", "--format=%s").strip() == "feat: greet tidegate"
        edit, commit = await here.exchanges(2, "OpenAI/Python ")
    assert (edit.json()["stream"], commit.json().get("stream", False)) == (True, False)
    assert "Greet tidegate." in edit.json()["messages"][-1]["content"]
