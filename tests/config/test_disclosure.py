"""What a table holds that nobody may read in a message, wherever it stands."""

from __future__ import annotations

import pytest

from config.loader import Overrides
from config.secrets import SecretStore
from tests.config.tables import SOUND, load_text, route_with, told

SECRET = "sk-canary-0123456789"
ESCAPED = [
    f"\\n{SECRET}",
    f"\\t{SECRET}",
    f"\\u00a0{SECRET}",
    "Bearer\\tcanary-0123456789",
    f"{'x' * 50} {SECRET}",
]
# A % is where the secret goes.
TABLES = [
    SOUND + "default_route: %",
    SOUND + "models: {a: %}",
    SOUND + "models: {%: demo/a}",
    SOUND + "models: {%: [demo/a, 5]}",
    SOUND + "server: {workers: %}",
    SOUND + "server: {listen: %, %: 1}",
    SOUND + "server: {listen: [%]}",
    SOUND + "server: {trusted_proxies: [%]}",
    SOUND + "server: {drain_delay: %}",
    SOUND + "%: 1\n%: 2",
    "version: %\nroutes: {%: {upstream: %, serves: [%]}, b: {upstream: demo, serves: [%]}}",
    "version: 1\nroutes: {%: {explicit_only: true, upstream: demo, serves: [a]}}\nmodels: {%: %, a: %}",
    route_with("[%, {%: 1}, {usage: {}, %: 1}]"),
    route_with("[usage: {include_usage: %}]"),
    route_with("[rate_limit: {per: %, %: 1}]"),
    route_with("[key: {env: %, expect: sk-}]"),
]


@pytest.mark.parametrize("secret", ESCAPED)
@pytest.mark.parametrize("table", TABLES)
def test_a_secret_behind_white_space_is_told_and_not_repeated(table, secret, tmp_path):
    loaded = load_text(table.replace("%", f'"{secret}"'), tmp_path)
    assert "literal-secret" in {problem.code for problem in loaded.problems}
    assert "canary" not in repr(loaded.problems)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"x-d: &d {{a: 1}}\nx-m: {{<<: [{{a: {SECRET}}}, *d], a: 2}}", 5),
        (f"x-d: {{a: 1, a: {SECRET}}}", 4),
        (f"x-d: {{a: 1, a: [b, {SECRET}]}}", 4),
        (f"x-d: {{expect: {SECRET}}}", 4),
        (f"models: {{expect: {SECRET}}}", 4),
        (f"x-d: {{key: {{expect: {SECRET}}}}}", 4),
        (f"x-d: [{{key: {{expect: [{SECRET}]}}}}]", 4),
    ],
)
def test_a_secret_is_found_also_where_no_value_comes_of_it(text, line, tmp_path):
    found = [
        problem for problem in load_text(SOUND + text, tmp_path).problems if problem.code == "literal-secret"
    ]
    assert [problem.line for problem in found] == [line]


def test_what_a_secret_is_called_says_all_that_is_said_of_it(tmp_path):
    loaded = load_text(SOUND + f"default_route: {SECRET}", tmp_path)
    assert [problem.code for problem in loaded.problems] == ["literal-secret"]


@pytest.mark.parametrize(
    ("upstream", "shown"),
    [
        ("https://me:canary@host/v1", ""),
        ("https://me:can/ary@host/v1", ""),
        ("ftp://canary@host/v1", ""),
        ("//me:canary@host", ""),
        ("https://host/v1?key=canary", " 'https://host'"),
        ("https://host:8443/v1#canary", " 'https://host'"),
        ("host?canary", ""),
        ("https://host /canary", " 'https://host /canary'"),
    ],
)
def test_an_upstream_shows_neither_its_user_nor_its_query(upstream, shown, tmp_path):
    loaded = load_text(f'version: 1\nroutes: {{a: {{upstream: "{upstream}"}}}}', tmp_path)
    ((_, _, message),) = told(loaded)
    assert message.startswith(f"upstream{shown}: ")


def test_the_source_of_an_upstream_shows_no_more(tmp_path):
    text = 'version: 1\nroutes: {a: {upstream: "https://me:canary@${HOST}/v1"}}'
    assert "canary" not in repr(load_text(text, tmp_path, {"HOST": "a.example"}).problems)


@pytest.mark.parametrize(
    "address", ["me:canary@a:80", "http://me:canary@a:80/", "https://canary@a:80", "canary@a"]
)
def test_a_user_in_a_listener_is_not_repeated(address, tmp_path):
    for loaded in (
        load_text(SOUND + f"server: {{listen: ['{address}']}}", tmp_path),
        load_text(SOUND, tmp_path, overrides=Overrides(listen=address)),
    ):
        assert "a listener has no user" in repr(loaded.problems)
        assert "canary" not in repr(loaded.problems)


def test_half_a_character_is_an_error_where_it_stands(tmp_path):
    loaded = load_text(SOUND + 'models: {"a\\ud800": demo/a}\n"\\udfff": 1', tmp_path)
    assert [(line, column) for line, column, _ in told(loaded)][:2] == [(4, 10), (5, 1)]
    assert [problem.message.encode() for problem in loaded.problems]


def test_bytes_of_the_environment_that_are_no_text_are_told(tmp_path):
    loaded = load_text(SOUND + 'default_route: "${X}"', tmp_path, {"X": "a\udcff"})
    assert told(loaded) == [(4, 16, "the text of '${X}' is not UTF-8")]


def test_names_in_a_message_are_quoted_and_not_too_many(tmp_path):
    routes = "".join(f"  r{n}: {{upstream: demo}}\n" for n in range(30))
    head = 'version: 1\nroutes:\n  "a\\eb": {upstream: demo}\n'
    loaded = load_text(f"{head}{routes}default_route: zzzzzz", tmp_path)
    assert "\x1b" not in told(loaded)[-1][2]
    assert told(loaded)[-1][2].endswith("'r7', 'r8' and 21 more")


@pytest.mark.parametrize(
    "text",
    [
        route_with(f"[timeout: {{connect: {'9' * 5000}}}]"),
        route_with(f"[timeout: {{connect: 5{'x' * 5000}}}]"),
        route_with(f"[{'x' * 5000}, usage: {{{'x' * 900}: 1}}]"),
        SOUND + f"server: {{listen: ['{'x' * 5000}']}}",
        SOUND + f"server: {{listen: ['x:{'9' * 5000}']}}",
        SOUND + f"server: {{listen: ['{'x' * 5000}://a:80']}}",
        SOUND + f"default_route: {'x' * 5000}",
        SOUND + f"models: {{demo/{'x' * 900}: demo/a}}",
        SOUND + f"x-a: *{'x' * 5000}",
        SOUND + f'default_route: "${{{"X" * 5000}}}"',
        SOUND + f'default_route: "${{{"X" * 5000}:-${{}}"',
    ],
)
def test_no_message_is_long(text, tmp_path):
    problems = load_text(text, tmp_path).problems
    assert problems
    assert max(len(problem.message) for problem in problems) < 400


def test_the_name_of_a_key_file_stays_in_its_line(tmp_path):
    text = route_with('[key: {file: "a\\nb\\e[31m"}]')
    ((_, _, message),) = told(load_text(text, tmp_path, secrets=SecretStore({}, tmp_path)))
    assert "a\\nb\\x1b[31m does not exist" in message


def test_hints_end_before_they_cost_time(tmp_path):
    routes = "".join(f"  route-number-{n:05}: {{upstream: demo}}\n" for n in range(1500))
    models = "".join(f"  m{n}: route-numbre-{n:05}/x\n" for n in range(1500))
    loaded = load_text(f"version: 1\nroutes:\n{routes}models:\n{models}", tmp_path)
    hinted = [problem for problem in loaded.problems if "did you mean" in problem.message]
    assert 0 < len(hinted) < 100
    assert len(loaded.problems) == 1500
