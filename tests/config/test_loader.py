from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.loader import Overrides, find_table, load
from config.problems import Mark, Problem
from config.reading import MAX_BYTES
from config.secrets import SecretStore, find_literal_secret
from tests.config.catalog import CATALOG
from tests.config.tables import SOUND, load_text, told

CONTRACT_SHAPED = """\
version: 1
x-common: &common [usage, floor: {min: 1500}]
server:
  listen: ["127.0.0.1:8080", "[::1]:8080", "unix:/run/tidegate.sock?mode=0660&group=www-data"]
  admin: null
  workers: 1
  max_body: 64MiB
  max_upload: 2GiB
  max_connections: 10000
  timeouts: {header: 15s, body_idle: 30s, keepalive: 75s}
  drain_delay: 0s
  drain_timeout: 15m
  trusted_proxies: [10.0.0.0/8, unix]
  tls: {cert: /etc/tidegate/tls.crt, key: /etc/tidegate/tls.key}
middlewares:
  - client_keys: {file: /etc/tidegate/clients.yaml}
  - timeout: {total: 1h}
routes:
  kimi:
    upstream: https://api.kimi.com/coding/v1
    explicit_only: true
    list: [k3]
    middlewares:
      - rewrite
      - *common
      - key: {env: KIMI_API_KEY, file: /etc/tidegate/kimi.env, expect: sk-kimi-}
      - timeout: {connect: 10s, total: "${KIMI_TIMEOUT_SECS:-600}s"}
  openrouter: {upstream: https://openrouter.ai/api/v1, serves: ["moonshotai/*"]}
  ollama: {upstream: https://ollama.com/v1, list: ask}
  demo: {upstream: demo}
models:
  gpt-4o: openrouter/openai/gpt-4o
  review: [openrouter/moonshotai/kimi-k2.6, ollama/kimi-k2:1t]
default_route: openrouter
"""


def test_a_table_shaped_like_the_contract_loads_without_a_problem(tmp_path):
    loaded = load_text(CONTRACT_SHAPED, tmp_path)
    assert told(loaded) == []
    assert loaded.ok
    table = loaded.table
    assert table is not None
    assert [use.name for use in table.routes["kimi"].middlewares] == [
        "rewrite",
        "usage",
        "floor",
        "key",
        "timeout",
    ]
    assert table.routes["kimi"].middlewares[4].options.total == 600.0
    assert table.models["review"] == ("openrouter/moonshotai/kimi-k2.6", "ollama/kimi-k2:1t")
    assert table.server.max_body == 64 * 1024**2
    assert table.server.admin is None
    assert [str(address) for address in table.server.listen] == [
        "127.0.0.1:8080",
        "[::1]:8080",
        "unix:/run/tidegate.sock?mode=0660&group=www-data",
    ]


def test_marks_tell_where_values_stand_and_which_are_interpolated(tmp_path):
    loaded = load_text(CONTRACT_SHAPED, tmp_path)
    total = ("routes", "kimi", "middlewares", 4, "timeout", "total")
    assert loaded.marks[total] == Mark(27, 40)
    assert loaded.marks["routes", "kimi", "middlewares", 2, "floor"] == Mark(2, 27)
    assert loaded.marks["routes", "kimi"] == Mark(19, 3)
    assert loaded.interpolated == {total}
    assert loaded.sources == {total: "${KIMI_TIMEOUT_SECS:-600}s"}


def test_problems_come_sorted_and_all_at_once(tmp_path):
    text = "version: 2\nserver: {workrs: 1}\nroutes:\n  a: {}\n  b: {upstream: ftp://x}\ndefault_route: c\n"
    loaded = load_text(text, tmp_path)
    assert loaded.table is None
    assert not loaded.ok
    assert [problem.line for problem in loaded.problems] == [1, 2, 4, 5, 6]
    assert {problem.file for problem in loaded.problems} == {str(tmp_path / "routes.yaml")}


def test_a_problem_reads_like_a_compilers():
    problem = Problem("a.yaml", 3, 5, "error", "type", "expected text")
    assert str(problem) == "a.yaml:3:5: error: expected text"


def test_warnings_do_not_cost_the_table(tmp_path):
    text = (
        "version: 1\nroutes:\n  a: {upstream: https://example.org/v1, middlewares: [key: {env: MISSING}]}\n"
    )
    loaded = load_text(text, tmp_path, secrets=SecretStore({}, tmp_path))
    assert told(loaded) == [(3, 55, "route a: no key: MISSING is not set")]
    assert loaded.ok
    assert told(load_text(text, tmp_path)) == []


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_is_told(text, tmp_path):
    assert told(load_text(text, tmp_path)) == [
        (1, 1, "the file is empty: a table begins with version: 1 and routes:")
    ]


@pytest.mark.parametrize("text", ["just text", "[1, 2]", "42", "'quoted'"])
def test_a_table_that_is_no_mapping_is_told(text, tmp_path):
    ((line, column, message),) = told(load_text(text, tmp_path))
    assert (line, column) == (1, 1)
    assert message.startswith(
        "expected a mapping with version, server, middlewares, routes, models or default_route"
    )


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path):
    def message(path: Path) -> str:
        (problem,) = load(path, CATALOG, environ={}).problems
        assert (problem.file, problem.line, problem.column, problem.code) == (str(path), 1, 1, "unreadable")
        return problem.message

    assert message(tmp_path / "none.yaml") == "the file cannot be read: No such file or directory"
    assert message(tmp_path) == "the file cannot be read: it is not a regular file"
    os.mkfifo(tmp_path / "fifo")
    assert message(tmp_path / "fifo") == "the file cannot be read: it is not a regular file"
    (tmp_path / "latin.yaml").write_bytes(b"version: 1\n# caf\xe9\n")
    (problem,) = load(tmp_path / "latin.yaml", CATALOG, environ={}).problems
    assert (problem.line, problem.column, problem.code) == (2, 6, "unreadable")
    assert problem.message == "the file is not UTF-8 text, from line 2 on: save it as UTF-8"
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    assert message(tmp_path / "large.yaml") == "the file cannot be read: it is larger than 1 MiB"
    assert "embedded null" in message(Path("nul\0byte"))


def test_a_byte_order_mark_is_no_matter(tmp_path):
    assert load_text("\ufeff" + SOUND, tmp_path).ok


def test_overrides_replace_the_addresses_of_the_file(tmp_path):
    overrides = Overrides(listen="0.0.0.0:9000", admin="unix:/run/admin.sock")
    loaded = load_text(SOUND, tmp_path, overrides=overrides)
    assert loaded.table is not None
    assert [str(address) for address in loaded.table.server.listen] == ["0.0.0.0:9000"]
    assert str(loaded.table.server.admin) == "unix:/run/admin.sock"


@pytest.mark.parametrize(
    ("overrides", "file", "message"),
    [
        (
            Overrides(listen="9000"),
            "--listen",
            "'9000' is not an address: an address is host:port: write 127.0.0.1:9000",
        ),
        (
            Overrides(admin="x:y"),
            "--admin",
            "'x:y' is not an address: a port is a number from 0 to 65535: write x:8080",
        ),
    ],
)
def test_a_bad_override_is_a_problem_of_its_option(overrides, file, message, tmp_path):
    loaded = load_text(SOUND, tmp_path, overrides=overrides)
    assert [(p.file, p.line, p.column, p.message) for p in loaded.problems] == [(file, 1, 1, message)]


def test_an_upstream_is_compared_with_the_overridden_address(tmp_path):
    text = "version: 1\nroutes:\n  a: {upstream: http://localhost:9000/v1}\n"
    assert load_text(text, tmp_path).ok
    loaded = load_text(text, tmp_path, overrides=Overrides(listen="127.0.0.1:9000"))
    message = "this upstream is the server's own address '127.0.0.1:9000': requests would go round for ever"
    assert told(loaded) == [(3, 17, message)]


def test_the_table_is_looked_for_in_four_places(tmp_path):
    assert find_table("a.yaml", {"TIDEGATE_CONFIG": "b.yaml"}, tmp_path) == Path("a.yaml")
    assert find_table(None, {"TIDEGATE_CONFIG": "b.yaml"}, tmp_path) == Path("b.yaml")
    if not Path("/etc/tidegate/routes.yaml").exists():
        with pytest.raises(
            FileNotFoundError, match=r"(?s)-c .*TIDEGATE_CONFIG.*config/routes.yaml.*/etc/tidegate"
        ):
            find_table(None, {"TIDEGATE_CONFIG": ""}, tmp_path)
    (tmp_path / "config").mkdir()
    local = tmp_path / "config" / "routes.yaml"
    local.write_text(SOUND)
    assert find_table(None, {}, tmp_path) == local


def test_a_folder_that_may_not_be_looked_into_has_no_table(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(FileNotFoundError, match="no route table"):
        find_table(None, {}, tmp_path)


def test_loading_changes_neither_the_file_nor_the_environment(tmp_path):
    environ = {"X": "1"}
    load_text(SOUND, tmp_path, environ)
    path = tmp_path / "routes.yaml"
    before = path.stat()
    load(path, CATALOG, environ=environ)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(before.st_mode)
    assert environ == {"X": "1"}


# Text that has a chance of getting past the parser: YAML's own signs, our keys, our notations.
SIGNS = [
    "  ",
    "\n",
    "\n  ",
    "\n    ",
    "\t",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ": ",
    ", ",
    "? ",
    "'",
    '"',
    "\\",
    "&a ",
    "*a",
]
MORE = [
    "<<: *a",
    "<<",
    "!!str ",
    "--- ",
    "... ",
    "%YAML 1.1\n---",
    "# c",
    "> ",
    "|\n  ",
    "~",
    "\x85",
    "\\UFFFFFFFF",
]
OURS = [
    "version: 1",
    "routes:",
    "models:",
    "server:",
    "middlewares:",
    "upstream: demo",
    "listen",
    "expect",
    "x-y",
]
VALUES = [
    "key",
    "timeout",
    "floor",
    "min",
    "null",
    "true",
    "1",
    "1.5",
    "10s",
    "64MiB",
    "é",
    "${X}",
    "${X:-1}",
    "$${",
]
SECRETS = ["Bearer aaaaaaaaaaaaaaa", "sk-aaaaaaaaaaaaaaaaaaaa"]
WORDS = st.sampled_from([*SIGNS, *MORE, *OURS, *VALUES, *SECRETS])
ENVIRON = {"X": "7", "SECRET": "sk-" + "q" * 20}
FAST = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(data: bytes) -> None:
    """Loading ends in a table or in problems within the file, and tells no secret."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_text(data, Path(folder), ENVIRON)
    lines = data.decode("utf-8", "replace").count("\n") + data.count(b"\r") + data.count(b"\xc2\x85") + 2
    assert loaded.ok == (not [p for p in loaded.problems if p.level == "error"])
    for problem in loaded.problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert not find_literal_secret(problem.message)
        assert problem.code
        assert problem.message


@FAST
@given(st.binary(max_size=200))
def test_any_bytes_give_a_table_or_problems(data):
    outcome(data)


@FAST
@given(st.text(max_size=200))
def test_any_text_gives_a_table_or_problems(text):
    outcome(text.encode("utf-8", "surrogatepass"))


@settings(FAST, max_examples=600)
@given(st.lists(WORDS, max_size=40).map("".join))
def test_any_heap_of_yaml_gives_a_table_or_problems(text):
    outcome(text.encode())


TABLE_KEYS = [
    "version",
    "server",
    "routes",
    "models",
    "middlewares",
    "upstream",
    "listen",
    "list",
    "serves",
    "kimi",
]
OPTION_KEYS = [
    "key",
    "floor",
    "timeout",
    "min",
    "cap",
    "total",
    "env",
    "expect",
    "x-a",
    "a",
    "set",
    "rate_limit",
]
KEYS = st.sampled_from([*TABLE_KEYS, *OPTION_KEYS, "default_route"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["${X}", "${SECRET}", "${NONE}", "${", "10s", "a/b", "ask", "demo", "https://api.kimi.com", "usage"]
    ),
)
STRUCTURES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@settings(FAST, max_examples=400)
@given(st.dictionaries(KEYS, STRUCTURES, max_size=6))
def test_any_structure_gives_a_table_or_problems(structure):
    # JSON is YAML, but for NaN and the infinities, which are text then.
    outcome(json.dumps(structure).encode())


@settings(FAST, max_examples=300)
@given(st.lists(STRUCTURES, max_size=4), STRUCTURES, STRUCTURES)
def test_any_chain_in_a_sound_table_gives_a_table_or_problems(chain, server, models):
    routes = {"demo": {"upstream": "demo", "middlewares": chain}}
    table = {"version": 1, "routes": routes, "server": server, "models": models}
    outcome(json.dumps(table).encode())
