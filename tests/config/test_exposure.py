# ruff: noqa: E501 (messages are compared whole)
"""Listeners that strangers reach, and keys that strangers read."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.exposure import is_private
from config.loader import Overrides
from config.secrets import SecretStore
from middlewares.registry import catalog
from tests.config.tables import load_text, told

ROUTE = "version: 1\nroutes:\n  acme: {upstream: https://acme.example/v1, middlewares: [%s]}\n"
BUILT = catalog()


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "10.0.0.5:8080", "tidegate.example:8080"])
def test_a_listener_that_other_machines_reach_needs_to_know_its_clients(listen: str, tmp_path: Path) -> None:
    text = ROUTE % "key: {env: KEY}" + f"server: {{listen: ['127.0.0.1:1', '{listen}'], admin: null}}\n"
    before = f"whoever reaches '{listen}' from another machine uses your providers: "

    assert told(load_text(text, tmp_path)) == [(4, 34, before + "add client_keys, or listen on 127.0.0.1")]
    built = load_text(text.replace("[key", "[prefix_rewrite, key"), tmp_path, catalog=BUILT)
    assert told(built) == [(4, 34, before + "add client_keys, or listen on 127.0.0.1")]


GUARDED = "middlewares: [client_keys: {file: clients.yaml}]\n"
OPEN = "server: {listen: ['0.0.0.0:8080'], admin: null}\n"


@pytest.mark.parametrize(
    "text",
    [
        ROUTE % "key: {env: KEY}" + GUARDED + OPEN,
        ROUTE % "client_keys: {file: clients.yaml}, key: {env: KEY}" + OPEN,
        ROUTE % "key: {pass: true}" + OPEN,
        "version: 1\nroutes: {demo: {upstream: demo}}\n" + OPEN,
        ROUTE % "key: {env: KEY}"
        + "server: {listen: ['127.1.2.3:80', '[::1]:80', 'localhost:81', 'unix:/run/t.sock']}",
        ROUTE % "key: {env: KEY}"
        + "server: {listen: ['https://0.0.0.0:8443'], tls: {cert: a, key: b, client_ca: c}, admin: null}",
    ],
    ids=["guarded", "guarded route", "their own keys", "demo", "this machine", "client certificates"],
)
def test_a_listener_that_knows_its_clients_or_has_nothing_to_give_is_fine(text: str, tmp_path: Path) -> None:
    assert told(load_text(text, tmp_path)) == []


def test_what_others_have_made_may_ask_who_a_client_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gatekeeper.py").write_text(
        "class Gatekeeper:\n    def __init__(self, options, deps): ...\n"
        "    async def __call__(self, exchange, call_next):\n        return await call_next(exchange)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = ROUTE % "prefix_rewrite" + OPEN + "middlewares: ['gatekeeper:Gatekeeper']\n"

    assert told(load_text(text, tmp_path, catalog=BUILT)) == []


@pytest.mark.parametrize("admin", ["0.0.0.0:8081", "'[::]:8081'", "192.168.0.2:8081"])
def test_the_admin_listener_is_for_operators_alone(admin: str, tmp_path: Path) -> None:
    text = ROUTE % "" + f"server: {{admin: {admin}}}\n"
    shown = admin.strip("'")

    assert told(load_text(text, tmp_path)) == [
        (
            4,
            17,
            f"other machines can reach '{shown}', which is for operators alone: write 127.0.0.1:8081, or unix:/run/tidegate/admin.sock",
        )
    ]


@pytest.mark.parametrize(
    "admin", ["127.0.0.1:8081", "'[::1]:8081'", "unix:/run/t.sock", "localhost:1", "null"]
)
def test_an_admin_listener_of_this_machine_is_fine(admin: str, tmp_path: Path) -> None:
    assert told(load_text(ROUTE % "" + f"server: {{admin: {admin}}}\n", tmp_path)) == []


def test_an_address_of_the_command_line_is_judged_as_well(tmp_path: Path) -> None:
    loaded = load_text(ROUTE % "", tmp_path, overrides=Overrides(listen="0.0.0.0:80", admin="0.0.0.0:81"))

    assert {(p.file, p.level, p.code) for p in loaded.problems} == {
        ("--admin", "warning", "public-admin"),
        ("--listen", "warning", "public-listener"),
    }


@pytest.mark.parametrize(
    ("upstream", "private"),
    [
        ("http://acme.example/v1", False),
        ("http://8.8.8.8/v1", False),
        ("http://[2a00::1]/v1", False),
        ("https://acme.example/v1", True),
        ("http://127.0.0.1:9/v1", True),
        ("http://[::1]:9/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://[fd00::1]/v1", True),
        ("http://100.64.0.9/v1", True),
        ("http://localhost:9/v1", True),
        ("http://ollama:11434/v1", True),
        ("http://box.lan/v1", True),
        ("http://llm.default.svc.cluster.local/v1", True),
    ],
)
def test_a_key_does_not_go_over_others_networks_in_the_clear(
    upstream: str, private: bool, tmp_path: Path
) -> None:
    text = f"version: 1\nroutes:\n  a: {{upstream: '{upstream}', middlewares: [%s]}}\n"
    host = upstream.removesuffix("/v1").replace("[", "").replace("]", "")
    expected = (
        []
        if private
        else [(3, 17, f"everybody on the way to '{host}' can read this route's key: write https://")]
    )

    assert told(load_text(text % "key: {env: KEY}", tmp_path)) == expected
    assert told(load_text(text % "key: {pass: true}", tmp_path)) == expected
    assert told(load_text(text % "", tmp_path)) == []


@pytest.mark.parametrize("host", ["local.example", "corp.example", "lan.test", "172.32.0.1", "100.128.0.1"])
def test_a_host_is_private_only_where_that_is_certain(host: str) -> None:
    assert not is_private(host)


TWO = """\
version: 1
routes:
  one: {upstream: "https://%s/v1", middlewares: [key: {%s}]}
  two: {upstream: "https://%s/v1", middlewares: [key: {%s}]}
"""
SHARED = "this key goes to another provider too, by the route 'one' on line 3: give each its own"


@pytest.mark.parametrize(
    ("first", "one", "second", "two"),
    [
        ("a.example", "env: KEY", "b.test", "env: KEY"),
        ("a.example", "file: a.env", "b.test", "file: a.env"),
        ("a.example", "env: KEY, file: a.env", "b.test", "env: KEY, file: b.env"),
    ],
)
def test_one_key_for_two_providers_is_told(
    first: str, one: str, second: str, two: str, tmp_path: Path
) -> None:
    ((line, _, message),) = told(load_text(TWO % (first, one, second, two), tmp_path))

    assert (line, message) == (4, SHARED)


@pytest.mark.parametrize(
    ("first", "one", "second", "two"),
    [
        ("a.example", "env: KEY", "b.test", "env: OTHER"),
        ("eu.a.example", "env: KEY", "us.a.example", "env: KEY"),
        ("a.example", "env: KEY", "10.0.0.1:4000", "env: KEY"),
        ("a.example", "env: A, file: keys.env", "b.test", "env: B, file: keys.env"),
        ("a.example", "pass: true", "b.test", "pass: true"),
    ],
)
def test_keys_of_their_own_and_hosts_of_one_owner_are_fine(
    first: str, one: str, second: str, two: str, tmp_path: Path
) -> None:
    assert told(load_text(TWO % (first, one, second, two), tmp_path)) == []


def test_the_only_line_of_a_file_that_another_route_names_is_the_same_key(tmp_path: Path) -> None:
    """What a copied line leads to: its variable was renamed, its file was not."""
    (tmp_path / "keys.env").write_text("A=canary-of-the-first\n")
    (tmp_path / "keys.env").chmod(0o600)
    text = TWO % ("a.example", "env: A, file: keys.env", "b.test", "env: B, file: keys.env")
    store = SecretStore({}, tmp_path)
    loaded = load_text(text, tmp_path, secrets=store)

    assert [(p.line, p.code, p.message) for p in loaded.problems] == [(4, "shared-key", SHARED)]
    assert "canary" not in repr(loaded.problems)
