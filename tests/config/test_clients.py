"""What a client may use, and the clients file: judged by itself and against a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.clients import Client, ClientLimits
from config.clients_file import moment_of, read_clients
from config.files import Files
from config.loader import Loaded, load
from config.units import Rate
from middlewares.registry import catalog
from tests.support.clients import KEY, OTHER, hashed

A, B = hashed(KEY), hashed(OTHER)
TABLE = """\
version: 1
middlewares: [client_keys: {file: clients.yaml}]
routes:
  kimi: {upstream: demo, middlewares: [prefix_rewrite]}
  openrouter: {upstream: demo, middlewares: [prefix_rewrite]}
models: {review: [kimi/a, openrouter/b], gpt-4o: openrouter/openai/gpt-4o}
"""
BEGIN = "version: 1\nclients:\n"


def loaded_with(folder: Path, clients: str | None, table: str = TABLE, **options: Any) -> Loaded:
    (folder / "routes.yaml").write_text(table)
    if clients is not None:
        (folder / "clients.yaml").write_text(clients)
        (folder / "clients.yaml").chmod(0o600)
    given = {"files": Files(folder), **options}
    return load(folder / "routes.yaml", catalog(), environ={"CLIENTS": "clients.yaml"}, **given)


def told(loaded: Loaded) -> list[tuple[str, int, int, str, str]]:
    assert KEY not in repr(loaded.problems)
    return [(Path(p.file).name, p.line, p.column, p.code, p.message) for p in loaded.problems]


def test_a_clients_file_is_read_with_all_that_it_may_say(tmp_path: Path) -> None:
    loaded = loaded_with(
        tmp_path,
        f"""{BEGIN}
  - name: ci
    key_sha256: {A}
    allow: [kimi, "openrouter/*", review]
    limits: {{requests: 60/min, tokens: 200000/min, concurrent: 8}}
    expires: 2037-01-01
  - {{name: cd, key_sha256: {B.upper()}}}
""",
    )
    assert told(loaded) == []
    assert loaded.clients == (
        Client(
            name="ci",
            digest=bytes.fromhex(A),
            allow=("kimi", "openrouter/*", "review"),
            limits=ClientLimits(requests=Rate(60, 60.0), tokens=Rate(200000, 60.0), concurrent=8),
            ends=2114380800.0,
        ),
        Client(name="cd", digest=bytes.fromhex(B)),
    )


@pytest.mark.parametrize(
    ("lines", "line", "column", "code", "message"),
    [
        (f"- {{name: ci, key_sha256: {A}, alow: []}}", 3, 92, "unknown-key", "did you mean 'allow'?"),
        ("- {name: ci}", 3, 3, "missing-key", "missing key 'key_sha256'"),
        (f"- {{key_sha256: {A}}}", 3, 3, "missing-key", "missing key 'name'"),
        (f"- {{name: a b, key_sha256: {A}}}", 3, 10, "client-name", "'a b' is no name"),
        (f"- {{name: ci, key_sha256: {A[:63]}}}", 3, 26, "client-key", "64 hexadecimal digits"),
        (f"- {{name: ci, key_sha256: {A[:63]}g}}", 3, 26, "client-key", "64 hexadecimal digits"),
        (f"- {{name: ci, key_sha256: {KEY}}}", 3, 26, "literal-secret", "only its SHA-256"),
        (f"- {KEY}", 3, 3, "literal-secret", "only its SHA-256"),
        (f"- {{name: ci, key_sha256: {hashed('')}}}", 3, 26, "client-key", "whoever sends no key"),
        (
            f"- {{name: ci, key_sha256: {A}}}\n- {{name: ci, key_sha256: {B}}}",
            4,
            10,
            "client-twice",
            "'ci' is a client on line 3 already",
        ),
        (
            f"- {{name: ci, key_sha256: {A}}}\n- {{name: cd, key_sha256: {A.upper()}}}",
            4,
            26,
            "client-twice",
            "the key of 'ci' already",
        ),
        (f"- {{name: ci, key_sha256: {A}, expires: soon}}", 3, 101, "client-expires", "write a date such as"),
        (f"- {{name: ci, key_sha256: {A}, expires: 2027-02-30}}", 3, 101, "client-expires", "no such day"),
        (
            f'- {{name: ci, key_sha256: {A}, expires: "${{X}}"}}',
            3,
            101,
            "interpolation",
            "takes no variables",
        ),
        (f"- {{name: ci, key_sha256: {A}, limits: {{requests: 60}}}}", 3, 111, "rate", "write 60/min"),
        (f"- {{name: ci, key_sha256: {A}, limits: {{concurrent: 0}}}}", 3, 113, "bounds", "at least 1"),
        (f"- {{name: ci, key_sha256: {A}, allow: [kimmi]}}", 3, 100, "allow", "did you mean 'kimi'?"),
        (f"- {{name: ci, key_sha256: {A}, allow: [reviw]}}", 3, 100, "allow", "did you mean 'review'?"),
        (f"- {{name: ci, key_sha256: {A}, allow: [kimmi/x]}}", 3, 100, "allow", "did you mean 'kimi'?"),
        (f"- {{name: ci, key_sha256: {A}, allow: [kimi/]}}", 3, 100, "allow", "write kimi, or kimi/*"),
        (f'- {{name: ci, key_sha256: {A}, allow: ["gem*"]}}', 3, 100, "allow", "fits no route and no name"),
        (f'- {{name: ci, key_sha256: {A}, allow: ["x*/y"]}}', 3, 100, "allow", "fits no route and no name"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_gives_no_clients(
    tmp_path: Path, lines: str, line: int, column: int, code: str, message: str
) -> None:
    loaded = loaded_with(tmp_path, BEGIN + lines + "\n")
    (problem,) = told(loaded)
    assert problem[:4] == ("clients.yaml", line, column, code)
    assert message in problem[4]
    assert loaded.table is None and loaded.clients is None


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "empty", "begins with version: 1 and clients:"),
        ("# nothing yet\n", "empty", "begins with version: 1 and clients:"),
        ("version: 1\n", "missing-key", "missing key 'clients'"),
        ("clients: []\n", "missing-key", "missing key 'version'"),
        ("version: 2\nclients: []\n", "type", "expected 1"),
        ("version: 1\nclients: {}\n", "type", "expected a list"),
        ("version: 1\nclients: [\n", "yaml", "not YAML"),
        ("version: 1\nclients: []\nclients: []\n", "duplicate-key", "already on line 2"),
    ],
)
def test_a_file_that_is_none_is_an_error(tmp_path: Path, text: str, code: str, message: str) -> None:
    loaded = loaded_with(tmp_path, text)
    (problem,) = told(loaded)
    assert problem[0] == "clients.yaml" and problem[3] == code and message in problem[4]
    assert loaded.table is None


def test_several_mistakes_are_told_at_once_and_beside_those_of_the_table(tmp_path: Path) -> None:
    first = f"- {{name: a}}\n- {{name: b c, key_sha256: {A}}}\n"
    second = f"- {{name: d, key_sha256: {A}, allow: [x]}}\n"
    loaded = loaded_with(tmp_path, BEGIN + first + second, TABLE + "default_route: kimy\n")
    assert [(file, line, code) for file, line, _, code, _ in told(loaded)] == [
        ("routes.yaml", 7, "unknown-route"),
        ("clients.yaml", 3, "missing-key"),
        ("clients.yaml", 4, "client-name"),
        ("clients.yaml", 5, "client-twice"),
        ("clients.yaml", 5, "allow"),
    ]


def test_a_file_that_cannot_be_read_is_told_where_the_table_names_it(tmp_path: Path) -> None:
    (missing,) = told(loaded_with(tmp_path, None))
    (tmp_path / "clients.yaml").mkdir()
    (folder,) = told(loaded_with(tmp_path, None))
    (tmp_path / "clients.yaml").rmdir()
    (tmp_path / "clients.yaml").write_bytes(b"# " + b"x" * 1024 * 1024)
    (large,) = told(loaded_with(tmp_path, None))
    assert missing[:4] == folder[:4] == large[:4] == ("routes.yaml", 2, 35, "unreadable")
    assert "No such file" in missing[4] and "`tidegate keys new NAME` makes it" in missing[4]
    assert "it is not a regular file" in folder[4] and "larger than 1 MiB" in large[4]


def test_what_came_from_the_environment_is_shown_as_its_source(tmp_path: Path) -> None:
    table = TABLE.replace("file: clients.yaml", 'file: "${CLIENTS}"')
    (missing,) = loaded_with(tmp_path, None, table).problems
    (broken,) = loaded_with(tmp_path, "version: 1\n", table).problems
    assert "'${CLIENTS}'" in missing.message and "clients.yaml" not in missing.message
    assert broken.file == "${CLIENTS}"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("", "no-clients"),
        (f"- {{name: ci, key_sha256: {A}, allow: []}}", "allows-nothing"),
        (f"- name: ci\n  key_sha256: {A}\n  allow:\n", "allows-nothing"),
        (f"- {{name: ci, key_sha256: {A}, expires: 2026-01-01}}", "client-expired"),
    ],
)
def test_what_is_most_likely_not_meant_is_a_warning(tmp_path: Path, lines: str, code: str) -> None:
    loaded = loaded_with(tmp_path, BEGIN + lines + "\n")
    assert [(problem.level, problem.code) for problem in loaded.problems] == [("warning", code)]
    assert loaded.clients is not None
    assert not any(client.may_name("kimi") for client in loaded.clients) or code == "client-expired"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, False), (0o660, True)])
def test_a_file_that_others_may_write_is_a_warning(tmp_path: Path, mode: int, warned: bool) -> None:
    loaded_with(tmp_path, f"{BEGIN}- {{name: ci, key_sha256: {A}}}\n")
    (tmp_path / "clients.yaml").chmod(mode)
    loaded = loaded_with(tmp_path, None)
    assert [problem.code for problem in loaded.problems] == ["clients-writable"] * warned
    assert loaded.ok


def test_without_files_the_clients_are_not_looked_at(tmp_path: Path) -> None:
    loaded = loaded_with(tmp_path, "garbage: [", files=None)
    assert loaded.ok and loaded.clients is None and told(loaded) == []


@pytest.mark.parametrize(
    ("chain", "code"),
    [("[client_keys: {file: a}]", "not-in-routes"), ("[client_keys]", "missing-key")],
)
def test_in_a_route_client_keys_is_an_error(tmp_path: Path, chain: str, code: str) -> None:
    table = f"version: 1\nroutes:\n  demo: {{upstream: demo, middlewares: {chain}}}\n"
    assert code in [problem.code for problem in loaded_with(tmp_path, None, table).problems]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-01", 1798761600.0),
        ("2027-01-01T00:00:00Z", 1798761600.0),
        ("2027-01-01 00:00Z", 1798761600.0),
        ("2027-01-01t01:00:00+01:00", 1798761600.0),
        ("2026-12-31T23:30:30-00:30", 1798761630.0),
    ],
)
def test_a_date_is_over_at_its_beginning_and_a_time_says_its_zone(text: str, seconds: float) -> None:
    assert moment_of(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["2027-1-1", "2027-13-01", "20270101", "2027-W01-1", "2027-01-01T00:00:00", "0000-00-00", "", "never"],
)
def test_what_says_no_time_or_not_which_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a date|no such"):
        moment_of(text)


NAMES = st.text("ab-", min_size=1, max_size=4)
MODELS = st.text("ab/*?", min_size=1, max_size=5)


def allowing(*entries: str) -> Client:
    return Client(name="c", digest=bytes(32), allow=entries)


@given(NAMES, MODELS)
def test_a_bare_name_allows_all_of_its_route_and_nothing_of_another(route: str, model: str) -> None:
    client = allowing(route)
    assert client.may_use(route, model) and client.may_use(route, None) and client.may_name(route)
    assert not client.may_use(f"{route}x", model) and not client.may_use(f"x{route}", None)


@given(NAMES, MODELS, MODELS)
def test_one_model_allows_itself_and_not_the_route(route: str, model: str, other: str) -> None:
    client = allowing(f"{route}/{model}")
    plain = not set(model) & {"*", "?"}
    assert client.may_use(route, model)
    assert not client.may_use(route, None) and not client.may_name(route)
    assert not plain or client.may_use(route, other) == (model == other)


@given(st.lists(st.text("ab/*?", max_size=5)), NAMES, st.none() | MODELS)
def test_more_entries_never_allow_less_and_none_allow_nothing(
    entries: list[str], route: str, model: str | None
) -> None:
    alone = [allowing(entry).may_use(route, model) for entry in entries]
    assert allowing(*entries).may_use(route, model) == any(alone)
    assert allowing("*").may_use(route, model) and Client(name="c", digest=b"").may_use(route, model)


@given(st.lists(st.text("ab/*?", max_size=5)), NAMES, MODELS)
def test_who_may_use_all_of_a_route_may_use_each_of_its_models(
    entries: list[str], route: str, model: str
) -> None:
    client = allowing(*entries)
    assert not client.may_use(route, None) or client.may_use(route, model)


def test_a_name_beyond_all_length_is_for_those_who_may_use_all(tmp_path: Path) -> None:
    """Matching it would take a time that a client chooses."""
    model = "a" * 1_000_000
    assert not allowing("up/*a*a*a*b").may_use("up", model)
    assert not allowing("up/*").may_use("up", model) and allowing("up").may_use("up", model)


@given(st.binary(max_size=300))
def test_whatever_the_file_holds_the_outcome_is_a_value(data: bytes) -> None:
    clients = read_clients(data, "clients.yaml")
    assert clients.ok == (clients.written != {} or all(p.level == "warning" for p in clients.report.problems))
    msgspec.json.encode(clients.report.problems)
