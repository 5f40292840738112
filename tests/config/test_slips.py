# ruff: noqa: E501 (messages are compared whole)
"""Slips that are made often: each draws one problem, which says what to write."""

from __future__ import annotations

import pytest

from config.loader import Overrides
from tests.config.catalog import Key
from tests.config.tables import SOUND, load_text, only_option, route_with, told

ROUTES = "version: 1\nroutes:\n  acme: {upstream: https://a.example/v1}\n"
CHAIN = 39
COLON = "put a space after the colon: write "
EMPTY = "an item is empty: write something after its dash, or leave out the dash"
BRACES = "options stand in braces: write "


@pytest.mark.parametrize(
    ("chain", "column", "message"),
    [
        ("[key: ACME_API_KEY]", 7, BRACES + "key: {env: ACME_API_KEY}"),
        ('[key: "${ACME_API_KEY}"]', 7, BRACES + "key: {env: ACME_API_KEY}"),
        ("[key: acme-canary123]", 7, BRACES + "key: {env: NAME}"),
        ("[key: CANARY123]", 7, BRACES + "key: {env: NAME}"),
        ("[timeout: 300s]", 11, BRACES + "timeout: {total: 300s}"),
        (
            "[timeout: soon]",
            11,
            "expected a mapping with connect, total or hold, found the text 'soon'",
        ),
        ("['floor:{min']", 2, COLON + "floor: {option: value}"),
        ("['floor:{min': 5]", 2, COLON + "floor: {option: value}"),
        ("['key:env']", 2, COLON + "key: {option: value}"),
        ("['retry:3']", 2, COLON + "retry: {option: value}"),
        ("[key: {'env:ACME': }]", 8, COLON + "env: …"),
        (
            "['a.b:{c']",
            2,
            "unknown middleware 'a.b:{c': there are 'client_keys', 'floor', 'key', 'params', 'rate_limit', 'rewrite', 'timeout', 'usage'",
        ),
        (
            "prefix_rewrite",
            1,
            "expected a list of middlewares, each with its own dash, found the text 'prefix_rewrite': write [prefix_rewrite]",
        ),
        ("[timeout: {total: 0s}]", 19, "total of 0s would end every request: leave it out to switch it off"),
        (
            "[timeout: {hold: 0B}]",
            18,
            "'0B' is not a size such as 64MiB: a size is at least 1B: leave it out to have none of your own",
        ),
    ],
)
def test_a_slip_in_a_chain_is_told_with_what_to_write(chain, column, message, tmp_path):
    loaded = load_text(route_with(chain), tmp_path, {"ACME_API_KEY": "canary"})
    assert told(loaded) == [(3, CHAIN + column - 1, message)]
    assert "canary" not in repr(loaded.problems).lower()


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        (
            "server: {listen: 8080}",
            18,
            'expected a list of an address such as 127.0.0.1:8080, found the number 8080: write ["127.0.0.1:8080"]',
        ),
        (
            "server: {listen: '[::1]:80'}",
            18,
            "expected a list of an address such as 127.0.0.1:8080, found the text '[::1]:80': write [\"[::1]:80\"]",
        ),
        (
            "server: {listen: 'a b'}",
            18,
            "expected a list of an address such as 127.0.0.1:8080, found the text 'a b'",
        ),
        (
            "server: {max_body: 0B}",
            20,
            "'0B' is not a size such as 64MiB: a size is at least 1B: leave it out to have none of your own",
        ),
        (
            "models: {review: 'acme/x, acme/y'}",
            18,
            "'acme/x, acme/y' has white space or a comma in it: a list stands in brackets: [acme/x, acme/y]",
        ),
        (
            "models: {review: acme/x acme/y}",
            18,
            "'acme/x acme/y' has white space or a comma in it: a list stands in brackets: [acme/x, acme/y]",
        ),
        (
            "models: {review: [acme/x y]}",
            19,
            "'acme/x y' has white space or a comma in it: a target is one ROUTE/MODEL",
        ),
        (
            "models: {fast: small}",
            16,
            "'small' is not ROUTE/MODEL: write ROUTE/MODEL, for example acme/small",
        ),
        ("default_route: acme/large", 16, "a default_route is a route alone: write acme"),
        ("models:\n  a:\n    -\n    - acme/x", None, EMPTY),
        ("models: {' ': acme/x}", 10, "a name under models cannot be empty"),
        (
            'models: {"a\\eb": acme/x}',
            10,
            "a name under models cannot hold control characters or others that are not seen",
        ),
    ],
)
def test_a_slip_in_the_table_is_told_with_what_to_write(text, column, message, tmp_path):
    ((line, found, said),) = told(load_text(ROUTES + text, tmp_path))
    assert said == message
    assert (line, found) == ((4, column) if column else (6, 6))


def test_a_target_from_the_environment_is_not_split_into_a_list(tmp_path):
    ((_, _, message),) = told(load_text(ROUTES + 'models: {a: "${T}"}', tmp_path, {"T": "acme/canary, b"}))
    assert message == "'${T}' has white space or a comma in it: a target is one ROUTE/MODEL"


@pytest.mark.parametrize(
    ("fields", "column", "message"),
    [
        (
            "serves: acme-large",
            37,
            "expected a list of text, found the text 'acme-large': write [acme-large]",
        ),
        ("serves: ['']", 38, "a name in serves cannot be empty"),
        (
            'serves: ["a\\nb"]',
            38,
            "a name in serves cannot hold control characters or others that are not seen",
        ),
        ("list: [' ']", 36, "a name in list cannot be empty"),
        ('list: ["a\\x7f"]', 36, "a name in list cannot hold control characters or others that are not seen"),
    ],
)
def test_a_slip_in_a_route_is_told_with_what_to_write(fields, column, message, tmp_path):
    text = f"version: 1\nroutes:\n  acme: {{upstream: demo, {fields}}}\n"
    assert told(load_text(text, tmp_path)) == [(3, column - 3, message)]


@pytest.mark.parametrize("null", ["", " null", " ~", " Null", " NULL"])
def test_what_is_left_empty_reads_as_nothing_in_it(null, tmp_path):
    text = f"server:{null}\nmodels:{null}\nmiddlewares:{null}\nroutes:\n  demo:\n    upstream: demo\n    serves:{null}\n    middlewares:{null}\n    list:{null}\n"
    loaded = load_text(f"version: 1\n{text}default_route:{null}\n", tmp_path)
    assert told(loaded) == []
    assert loaded.table == load_text(SOUND, tmp_path).table


def test_yaml_knows_three_spellings_of_null_and_one_of_each_boolean(tmp_path):
    assert told(load_text(SOUND + "server: {admin: NULL}", tmp_path)) == []
    assert only_option(load_text(route_with("[key: {file: True, env: FALSE}]"), tmp_path)) == Key(
        file="True", env="FALSE"
    )


def test_a_bare_dash_is_told(tmp_path):
    text = "version: 1\nroutes:\n  demo:\n    upstream: demo\n    serves:\n      - a\n      -\n    middlewares:\n      -\n      - usage\n"
    assert told(load_text(text, tmp_path)) == [(7, 8, EMPTY), (9, 8, EMPTY)]


@pytest.mark.parametrize(
    ("value", "read"), [("null", "null"), ("~", "~"), ("5", "5"), ("true", "true"), ("", None)]
)
def test_interpolated_text_for_a_text_field_is_text_and_only_empty_is_unset(value, read, tmp_path):
    text = route_with('[key: {env: A, expect: "${X:-}"}]')
    assert only_option(load_text(text, tmp_path, {"X": value})) == Key(env="A", expect=read)


@pytest.mark.parametrize("host", ["0x7f000001", "0x7f.1", "2130706433", "127.1", "a.0x10", "127.0.0.1."])
def test_a_host_that_looks_like_a_number_is_four_numbers(host, tmp_path):
    loaded = load_text(f"version: 1\nroutes: {{a: {{upstream: 'http://{host}:9000/v1'}}}}", tmp_path)
    ((_, _, message),) = told(loaded)
    assert message.endswith(
        "a host of numbers is an IPv4 address, four of them: write http://127.0.0.1:8080/v1"
    )


@pytest.mark.parametrize("end", ["chat/completions", "completions", "models", "messages", "models/"])
def test_an_upstream_that_names_one_operation_draws_a_warning(end, tmp_path):
    loaded = load_text(f"version: 1\nroutes: {{a: {{upstream: 'https://a.example/v1/{end}'}}}}", tmp_path)
    (problem,) = loaded.problems
    assert (problem.level, problem.code) == ("warning", "upstream-path")
    assert problem.message.endswith("bring along themselves: write https://a.example/v1")
    assert loaded.ok


@pytest.mark.parametrize(
    ("server", "column"),
    [
        ("{listen: ['127.0.0.1:9000', '127.0.0.1:9000']}", 29),
        ("{listen: ['127.0.0.1:8081']}", None),
        ("{listen: ['127.0.0.1:9000'], admin: 'localhost:9000'}", 37),
        ("{listen: ['0.0.0.0:9000'], admin: '127.0.0.1:9000'}", 35),
        ("{listen: ['unix:/run/a'], admin: 'unix:/run/a?mode=0600'}", 34),
    ],
)
def test_two_listeners_cannot_share_an_address(server, column, tmp_path):
    (problem,) = load_text(SOUND + f"server: {server}", tmp_path).problems
    assert problem.code == "same-listener"
    assert problem.column == (column + 8 if column else 1)


@pytest.mark.parametrize(
    "server",
    [
        "{listen: ['127.0.0.1:0', '127.0.0.1:0']}",
        "{listen: ['127.0.0.1:9000', '[::1]:9000', '127.0.0.2:9000']}",
        "{listen: ['unix:/run/a', 'unix:/run/b']}",
        "{listen: ['0.0.0.0:9000', '[::]:9000']}",
    ],
)
def test_listeners_may_stand_side_by_side(server, tmp_path):
    assert told(load_text(SOUND + f"server: {server}", tmp_path)) == []


OWN = "version: 1\nroutes: {{a: {{upstream: 'http://127.0.0.1:{}/v1'}}}}\nserver: {}\n"


def test_a_server_that_cannot_be_read_has_no_addresses(tmp_path):
    assert [p.code for p in load_text(OWN.format(8080, "[a]"), tmp_path).problems] == ["type"]


def test_a_bad_override_judges_nothing_else_under_its_name(tmp_path):
    text = OWN.format(9000, "{listen: ['127.0.0.1:9000', systemd]}")
    (problem,) = load_text(text, tmp_path, overrides=Overrides(listen="9000")).problems
    assert (problem.file, problem.code) == ("--listen", "address")


@pytest.mark.parametrize("server", ["{listen: [5]}", "[a]"])
def test_a_good_override_is_judged_also_where_the_file_is_broken(server, tmp_path):
    loaded = load_text(OWN.format(9000, server), tmp_path, overrides=Overrides(listen="127.0.0.1:9000"))
    assert "own-address" in {problem.code for problem in loaded.problems}
