"""Clients written into a file and taken out of it: every other byte stays, and nothing is guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.enrolment import CannotEnrol, clients_of, enrolled, struck
from config.rewriting import rewrite
from tests.support.clients import KEY, OTHER, client, clients_text, hashed
from tests.support.process import ROOT

DIGEST = sha256(b"new").digest()
BY_HAND = f"""\
# Our clients.
version: 1

clients:   # in no order
    # the build machine
    - name: ci
      key_sha256: {hashed(KEY)}   # of 2026
      allow:
        - kimi     # all of it
        - "openrouter/*"

    # people
    - {{name: 'alice', key_sha256: {hashed(OTHER)}, limits: {{requests: 5/s}}}}
# the end
"""


def names(data: bytes) -> list[str]:
    return [client.name for client in clients_of(data, "f")]


def test_a_client_is_added_after_the_last_one_and_nothing_else_changes() -> None:
    written = enrolled(BY_HAND.encode(), "f", "bob", DIGEST).decode()
    added = f'    - name: bob\n      key_sha256: "{DIGEST.hex()}"\n'
    assert written == BY_HAND.replace("# the end", f"{added}# the end")


def test_a_client_is_taken_out_with_its_lines_and_no_others() -> None:
    without_ci = struck(BY_HAND.encode(), "f", "ci").decode()
    begin, end = BY_HAND.index("    - name: ci"), BY_HAND.index("\n    # people")
    assert without_ci == BY_HAND[:begin] + BY_HAND[end:]
    alice = BY_HAND.index("    - {name: 'alice'")
    without_alice = struck(BY_HAND.encode(), "f", "alice").decode()
    assert without_alice == BY_HAND[:alice] + "# the end\n"


SHAPES = {
    "new": None,
    "by hand": BY_HAND,
    "JSON": clients_text(client("ci", KEY), client("alice", OTHER)),
    "JSON without any": '{"version": 1, "clients": []}',
    "in a line": f"version: 1\nclients: [{{name: ci, key_sha256: {hashed(KEY)}}},]\n",
    "an empty list": "version: 1\nclients: []   # none yet\n# the end\n",
    "nothing after the key": "clients:\nversion: 1\n",
    "no line end": f"version: 1\nclients:\n- name: ci\n  key_sha256: {hashed(KEY)}",
    "line ends of another system": BY_HAND.replace("\n", "\r\n"),
    "a mark at its beginning": "\ufeff" + BY_HAND,
    "a dash by itself": f"version: 1\nclients:\n  -\n    name: ci\n    key_sha256: {hashed(KEY)}\n",
    "a block": f"version: 1\nclients:\n- name: ci\n  key_sha256: >-\n    {hashed(KEY)}\n\n# the end\n",
    "an anchor": "version: 1\nclients:\n"
    f"- {{name: ci, key_sha256: {hashed(KEY)}, allow: &all [kimi]}}\n"
    f"- name: alice\n  key_sha256: {hashed(OTHER)}\n  allow: *all\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_in_every_shape_of_file_a_client_comes_and_goes_again(shape: str) -> None:
    text = SHAPES[shape]
    before = None if text is None else text.encode()
    was = [] if before is None else names(before)
    one = enrolled(before, "f", "bob", DIGEST)
    two = enrolled(one, "f", "007", sha256(b"other").digest())
    assert names(two) == [*was, "bob", "007"]
    assert clients_of(two, "f")[len(was)].digest == DIGEST
    gone = struck(struck(two, "f", "007"), "f", "bob")
    assert names(gone) == was
    comments = [line.partition("#")[2] for line in (text or "").splitlines() if "#" in line]
    assert all(comment in gone.decode() for comment in comments)
    for name in was if shape != "an anchor" else was[1:]:
        gone = struck(gone, "f", name)
    assert names(gone) == ([] if shape != "an anchor" else ["ci"])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=12), st.sampled_from(sorted(SHAPES)))
def test_after_any_order_of_changes_the_file_has_what_it_should(
    changes: list[tuple[bool, int]], shape: str
) -> None:
    text = SHAPES[shape]
    data = text.encode() if text is not None else enrolled(None, "f", "first", DIGEST)
    wanted = names(data)
    for new, number in changes:
        name = f"c{number}"
        if new != (name in wanted):
            digest = sha256(name.encode()).digest()
            data = enrolled(data, "f", name, digest) if new else struck(data, "f", name)
            wanted = [*wanted, name] if new else [other for other in wanted if other != name]
            assert names(data) == wanted


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (BY_HAND, "ci", "there is a client 'ci' already"),
        (BY_HAND, "a b", "a name is up to 64 letters"),
        (BY_HAND, "", "a name is up to 64 letters"),
        (BY_HAND, "x" * 65, "a name is up to 64 letters"),
        (BY_HAND, "-x", "a name is up to 64 letters"),
        (BY_HAND + "more: 1\n", "bob", "the file has errors"),
        ("", "bob", "the file has errors"),
        (f"version: 1\nclients: &c\n- {{name: ci, key_sha256: {hashed(KEY)}}}\n", "bob", "only a person can"),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, name: str, message: str) -> None:
    with pytest.raises(CannotEnrol, match=message):
        enrolled(text.encode(), "f", name, DIGEST)


def test_a_client_that_others_lean_on_is_left_to_a_person() -> None:
    with pytest.raises(CannotEnrol, match="only a person can edit"):
        struck((SHAPES["an anchor"] or "").encode(), "f", "ci")


def test_a_name_that_is_not_there_is_told_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(CannotEnrol, match="there is no client 'alic', did you mean 'alice'"):
        struck(BY_HAND.encode(), "f", "alic")


def test_a_file_is_replaced_whole_and_keeps_its_owner_its_mode_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 1234, 2345)
    link.symlink_to(real)
    before = real.stat()
    with real.open() as reader:
        rewrite(link, lambda data: (data or b"") + b" and new")
        assert reader.read() == "old"  # whoever reads it reads one of the two
    after = real.stat()
    assert link.is_symlink() and real.read_text() == "old and new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_new_file_is_its_owners_alone_and_the_folders_owner_s(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 1234, 2345)
    rewrite(folder / "new", lambda _: b"text")
    status = (folder / "new").stat()
    assert status.st_mode & 0o777 == 0o600
    assert (status.st_uid, status.st_gid) == (folder.stat().st_uid, folder.stat().st_gid)


def test_a_change_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fails(_: bytes | None) -> bytes:
        raise CannotEnrol("no")

    with pytest.raises(CannotEnrol):
        rewrite(file, fails)
    rewrite(file, lambda data: data or b"")
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """Real processes, which read while others write."""
    file = tmp_path / "clients.yaml"
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
    code = (
        "import sys; from proxy.cli import main\n"
        "for i in range(5): assert main(['keys', 'new', f'{sys.argv[1]}-{i}', '--file', sys.argv[2]]) == 0\n"
        "assert main(['keys', 'revoke', f'{sys.argv[1]}-3', '--file', sys.argv[2]]) == 0\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"p{n}", str(file)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(6)
    ]
    for process in running:
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err.decode()
        assert len(out.split()) == 5
    wanted = {f"p{n}-{i}" for n in range(6) for i in (0, 1, 2, 4)}
    assert set(names(file.read_bytes())) == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["clients.yaml"]
