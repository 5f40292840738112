# ruff: noqa: E501 (messages are compared whole)
from __future__ import annotations

import pytest

from config.problems import Mark
from config.units import Rate
from tests.config.catalog import Clients, Clocks, Floor, Key, Limits, Params, Plain, Rewrite
from tests.config.tables import SOUND, load_text, only_option, route_with, told

# The first column of the chain in `route_with`, and of what stands in `[name: {` after it.
CHAIN = 39

ENVIRON = {
    "N": "7",
    "WORD": "canary",
    "EMPTY": "",
    "ON": "true",
    "NULL": "null",
    "KEY": "sk-canary-0123456789abcdef",
}


@pytest.mark.parametrize(
    ("chain", "options"),
    [
        ("[usage]", Plain()),
        ("[usage: ]", Plain()),
        ("[usage: null]", Plain()),
        ("[usage: ~]", Plain()),
        ("[usage: {}]", Plain()),
        ("[usage: {include_usage: false}]", Plain(include_usage=False)),
        ("[[[usage]]]", Plain()),
        ("[key: {env: A}]", Key(env="A")),
        ("[key: [{env: A}, {env: B}]]", [Key(env="A"), Key(env="B")]),
        ("[key: {pass: true}]", Key(pass_=True)),
        ("[timeout: {connect: 1.5s, hold: 1KiB}]", Clocks(connect=1.5, hold=1024)),
        ("[timeout: {total: null}]", Clocks(total=None)),
        ("[rate_limit: {requests: 60/min, per: route}]", Limits(requests=Rate(60, 60.0), per="route")),
        ("[floor: {min: 5}]", Floor(min=5)),
        ("[floor: {min: 0x10, when_absent: 0o17, cap: +20}]", Floor(min=16, when_absent=15, cap=20)),
        ("[floor: {min: 5, when_absent: leave, ratio: 1}]", Floor(min=5)),
        ("[floor: {min: 5, ratio: .5e1}]", Floor(min=5, ratio=5.0)),
        (
            "[rewrite: {strip: on, map: {yes: no, 1: 'on', 2027-01-01: True}}]",
            Rewrite(strip="on", map={"yes": "no", "1": "on", "2027-01-01": "True"}),
        ),
        ("[rewrite: {strip: 2027-01-01}]", Rewrite(strip="2027-01-01")),
        (
            "[params: {set: {a: [1, 1.5, true, null, '1', {b: yes}]}}]",
            Params(set={"a": [1, 1.5, True, None, "1", {"b": "yes"}]}),
        ),
    ],
)
def test_options_are_read_as_their_types(chain, options, tmp_path):
    assert only_option(load_text(route_with(chain), tmp_path)) == options


@pytest.mark.parametrize(
    ("chain", "options"),
    [
        ('[floor: {min: "${N}"}]', Floor(min=7)),
        (
            '[floor: {min: "${N}5", when_absent: "${N}", ratio: "${N}.5"}]',
            Floor(min=75, when_absent=7, ratio=7.5),
        ),
        ('[floor: {min: 1, when_absent: "${X:-leave}", cap: "${NULL}"}]', Floor(min=1)),
        ('[timeout: {connect: "${N}s", total: "${EMPTY:-1}m"}]', Clocks(connect=7.0, total=60.0)),
        ('[timeout: {total: "${X:-}"}]', Clocks(total=None)),
        ('[usage: {include_usage: "${ON}"}]', Plain(include_usage=True)),
        ('[rewrite: {strip: "${N}", map: {a: "${ON}"}}]', Rewrite(strip="7", map={"a": "true"})),
        ('[rewrite: {strip: "$${N}"}]', Rewrite(strip="${N}")),
        (
            '[params: {set: {a: "${N}", b: "x${N}", c: "$${N}"}}]',
            Params(set={"a": 7, "b": "x7", "c": "${N}"}),
        ),
        (
            '[rate_limit: {requests: "${N}/h", per: "${X:-address}"}]',
            Limits(requests=Rate(7, 3600.0), per="address"),
        ),
    ],
)
def test_interpolated_text_is_read_as_the_fields_type(chain, options, tmp_path):
    assert only_option(load_text(route_with(chain), tmp_path, ENVIRON)) == options


@pytest.mark.parametrize(
    ("chain", "column", "message"),
    [
        ("[floor: {min: '5'}]", 15, "expected a whole number, found the text '5': write 5 without quotes"),
        ("[floor: {min: 5.0}]", 15, "expected a whole number, found the number 5.0: write 5"),
        ("[floor: {min: 5.5}]", 15, "expected a whole number, found the number 5.5"),
        ("[floor: {min: true}]", 15, "expected a whole number, found true"),
        ("[floor: {min: }]", 10, "expected a whole number, found nothing"),
        ("[floor: {min: five}]", 15, "expected a whole number, found the text 'five'"),
        ("[floor: {min: [5]}]", 10, "expected a whole number, found a list"),
        ("[floor: {min: 0}]", 15, "expected a number that is at least 1"),
        ("[floor: {min: 99999999999999999999}]", 15, "the number is too large"),
        (
            "[floor: {min: 1, ratio: '.5'}]",
            25,
            "expected a number, found the text '.5': write .5 without quotes",
        ),
        ("[floor: {min: 1, ratio: .inf}]", 25, "expected a finite number of a usual size"),
        (
            "[floor: {min: 1, when_absent: leav}]",
            31,
            "expected leave or a whole number, found the text 'leav', did you mean 'leave'?",
        ),
        ("[floor: {min: 1, when_absent: 0}]", 31, "expected a number that is at least 1"),
        ("[floor: {min: 1, when_absent: {}}]", 18, "expected leave or a whole number, found a mapping"),
        ("[floor: {min: 9, cap: 3}]", 23, "cap is below min"),
        ("[floor: 5]", 9, "expected a mapping with min, when_absent, cap or ratio, found the number 5"),
        ("[floor: []]", 2, "expected a mapping with min, when_absent, cap or ratio, found a list"),
        ("[floor]", 2, "middleware 'floor' needs the option 'min': write floor: {min: …}"),
        ("[floor: {cap: 3}]", 2, "middleware 'floor' needs the option 'min': write floor: {min: …}"),
        ("[usage: {include_usage: yes}]", 25, "expected true or false, found the text 'yes': write true"),
        (
            "[usage: {include_usage: 'true'}]",
            25,
            "expected true or false, found the text 'true': write true without quotes",
        ),
        ("[usage: {include_usage: Off}]", 25, "expected true or false, found the text 'Off': write false"),
        (
            "[usage: {include_usage: 1}]",
            25,
            "expected true or false, found the number 1: write true or false",
        ),
        ("[usage: {include: true}]", 10, "unknown key 'include': here stand include_usage"),
        ("[usage: {include_usge: true}]", 10, "unknown key 'include_usge', did you mean 'include_usage'?"),
        (
            "[timeout: {connect: 10}]",
            21,
            "'10' is not a duration such as 10s: a bare number has no unit: write 10s",
        ),
        ("[timeout: {connect: null}]", 21, "expected a duration such as 10s, found nothing"),
        ("[timeout: {connect: [1s]}]", 12, "expected a duration such as 10s, found a list"),
        (
            "[timeout: {total: soon}]",
            19,
            "'soon' is not a duration such as 10s: a duration is a number and ms, s, m or h, such as 10s",
        ),
        ("[timeout: {hold: 8MB}]", 18, "'8MB' is not a size such as 64MiB: there is no unit MB: write 8MiB"),
        (
            "[rate_limit: {requests: 60}]",
            25,
            "'60' is not a rate such as 60/min: a bare number has no period: write 60/min",
        ),
        (
            "[rate_limit: {per: clint}]",
            20,
            "expected address, client or route, found the text 'clint', did you mean 'client'?",
        ),
        ("[rewrite: {strip: a, pass: true}]", 28, "pass goes without strip"),
        ("[rewrite: {strip: 5}]", 19, 'expected text, found the number 5: write "5" in quotes'),
        ("[rewrite: {strip: true}]", 19, 'expected text, found true: write "true" in quotes'),
        ("[rewrite: {map: {a: 5}}]", 21, 'expected text, found the number 5: write "5" in quotes'),
        ("[rewrite: {map: {a: }}]", 18, "expected text, found nothing"),
        ("[rewrite: {map: [a]}]", 12, "expected a mapping, found a list"),
        ("[client_keys: {file: null}]", 22, "expected text, found nothing"),
        (
            "[params: {drop: temperature}]",
            17,
            "expected a list of text, found the text 'temperature': write [temperature]",
        ),
        ("[params: {drop: [a, 5]}]", 21, 'expected text, found the number 5: write "5" in quotes'),
        ("[key: 5]", 7, "options stand in braces: write key: {env: NAME}"),
        ("[key: [{env: A}, {evn: B}]]", 19, "unknown key 'evn', did you mean 'env'?"),
        (
            "[{usage: , floor: {min: 1}}]",
            12,
            "'floor' is a second key in the list item of 'usage': indent it to be an option of 'usage', or give it a dash of its own",
        ),
        ("[{}]", 2, "expected a middleware: write a name, or {name: {option: value}}"),
        ("[usge]", 2, "unknown middleware 'usge', did you mean 'usage'?"),
        ("[retr]", 2, "unknown middleware 'retr', did you mean 'retry'?"),
        ("[retry]", 2, "middleware 'retry' is not in this version of tidegate"),
        ("[breaker: {failures: 5}]", 2, "middleware 'breaker' is not in this version of tidegate"),
        ("['${X}']", 2, "a middleware's name is not interpolated: write the name itself"),
        ("[rewrite: {map: {'${X}': a}}]", 18, "a key is not interpolated: write the name itself"),
    ],
)
def test_what_is_wrong_in_a_chain_is_told_with_its_place(chain, column, message, tmp_path):
    assert told(load_text(route_with(chain), tmp_path)) == [(3, CHAIN + column - 1, message)]


def test_a_name_that_is_near_to_none_lists_what_there_is(tmp_path):
    expected = (
        "unknown middleware 'zzzzzz': "
        "there are 'client_keys', 'floor', 'key', 'params', 'rate_limit', 'rewrite', 'timeout', 'usage'"
    )
    assert told(load_text(route_with("[zzzzzz]"), tmp_path)) == [(3, CHAIN + 1, expected)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("routes: {a: {upstream: demo}}", (1, 1, "missing key 'version': write version: 1")),
        ("version: 1", (1, 1, "missing key 'routes'")),
        ("version: 2\nroutes: {a: {upstream: demo}}", (1, 10, "expected 1, found the number 2")),
        (
            "version: '1'\nroutes: {a: {upstream: demo}}",
            (1, 10, "expected 1, found the text '1': write it without quotes"),
        ),
        ("version: 1\nroutes: [a]", (2, 1, "expected a mapping, found a list")),
        ("version: 1\nroutes:\n  a:\n    serves: [b]", (3, 3, "missing key 'upstream'")),
        (
            "version: 1\nroutes:\n  a:\n",
            (
                3,
                3,
                "expected a mapping with upstream, middlewares, explicit_only, serves, list, proxy or tls, found nothing",
            ),
        ),
        (SOUND + "model: {}", (4, 1, "unknown key 'model', did you mean 'models'?")),
        (
            SOUND + "y-mine: {}",
            (
                4,
                1,
                "unknown key 'y-mine': here stand version, server, middlewares, routes, models, default_route",
            ),
        ),
        (
            SOUND + "middlewares: usage",
            (
                4,
                14,
                "expected a list of middlewares, each with its own dash, found the text 'usage': write [usage]",
            ),
        ),
        (SOUND + "models: {a: []}", (4, 10, "a ladder has at least one ROUTE/MODEL")),
        (SOUND + "models: {a: {b: c}}", (4, 10, "expected ROUTE/MODEL, or a list of them, found a mapping")),
        (
            SOUND + "models: {a: [demo/x, 5]}",
            (4, 22, 'expected text, found the number 5: write "5" in quotes'),
        ),
        (SOUND + "models: {a: 5}", (4, 13, 'expected text, found the number 5: write "5" in quotes')),
        (
            SOUND + "server: {listen: '127.0.0.1:1'}",
            (
                4,
                18,
                "expected a list of an address such as 127.0.0.1:8080, found the text '127.0.0.1:1': write [\"127.0.0.1:1\"]",
            ),
        ),
        (
            SOUND + "server: {listen: ['1']}",
            (
                4,
                19,
                "'1' is not an address such as 127.0.0.1:8080: an address is host:port: write 127.0.0.1:1",
            ),
        ),
        (
            SOUND + "server: {workers: many}",
            (4, 19, "expected a whole number or auto, found the text 'many'"),
        ),
        (
            SOUND + "server: {x-mine: 0}",
            (
                4,
                10,
                "unknown key 'x-mine': here stand listen, admin, workers, max_body, max_upload, max_connections, timeouts, drain_delay, drain_timeout, trusted_proxies, tls",
            ),
        ),
        (SOUND + "server: {workers: 0}", (4, 19, "expected a number that is at least 1")),
        (
            SOUND + "server: {max_body: 64}",
            (4, 20, "'64' is not a size such as 64MiB: a bare number has no unit: write 64MiB"),
        ),
        (SOUND + "server: {timeouts: {heder: 1s}}", (4, 21, "unknown key 'heder', did you mean 'header'?")),
        (SOUND + "server: {tls: {cert: a}}", (4, 10, "missing key 'key'")),
    ],
)
def test_what_is_wrong_in_the_table_is_told_with_its_place(text, problem, tmp_path):
    assert told(load_text(text, tmp_path)) == [problem]


def test_one_broken_field_does_not_hide_the_next(tmp_path):
    text = "version: 1\nroutes:\n  a: {upstream: demo, middlewares: [floor: {min: x, cap: y, foo: 1}, usage: {z: 1}]}\n  b: 5\n"
    assert [(line, column) for line, column, _ in told(load_text(text, tmp_path))] == [
        (3, 50),
        (3, 58),
        (3, 61),
        (3, 78),
        (4, 6),
    ]


def test_a_splice_is_counted_into_the_paths(tmp_path):
    text = "version: 1\nx-c: &c [usage, [rewrite]]\nroutes: {demo: {upstream: demo, middlewares: [*c, floor: {min: 3}]}}\n"
    loaded = load_text(text, tmp_path)
    assert loaded.table is not None
    assert [use.name for use in loaded.table.routes["demo"].middlewares] == ["usage", "rewrite", "floor"]
    assert [use.mark.line for use in loaded.table.routes["demo"].middlewares] == [2, 2, 3]
    assert loaded.marks["routes", "demo", "middlewares", 2, "floor", "min"] == Mark(3, 64)


def test_a_problem_behind_an_alias_is_told_once(tmp_path):
    text = "version: 1\nx-c: &c [usage: {foo: 1}]\nroutes:\n  a: {upstream: demo, middlewares: *c}\n  b: {upstream: demo, middlewares: *c}\n"
    assert told(load_text(text, tmp_path)) == [(2, 18, "unknown key 'foo': here stand include_usage")]


@pytest.mark.parametrize(
    ("chain", "column", "message"),
    [
        ('[floor: {min: "${NONE}"}]', 15, "NONE is not set: set it, or give a default: ${NONE:-…}"),
        ('[floor: {min: "${WORD}"}]', 15, "expected a whole number, found the text of '${WORD}'"),
        ('[floor: {min: "${N}", cap: "${X:-3}"}]', 28, "cap is below min (from '${X:-3}')"),
        ('[timeout: {connect: "${WORD}s"}]', 21, "the text of '${WORD}s' is not a duration such as 10s"),
        ('[timeout: {connect: "${N}"}]', 21, "the text of '${N}' is not a duration such as 10s"),
        ('[timeout: {hold: "${ON}"}]', 18, "expected a size such as 64MiB, found the text of '${ON}'"),
        (
            '[usage: {include_usage: "${WORD}"}]',
            25,
            "expected true or false, found the text of '${WORD}': write true or false",
        ),
        (
            '[floor: {min: 1, when_absent: "${WORD}"}]',
            31,
            "expected leave or a whole number, found the text of '${WORD}'",
        ),
        (
            '[rate_limit: {per: "${WORD}"}]',
            20,
            "expected address, client or route, found the text of '${WORD}'",
        ),
        ('[params: {drop: "${WORD}"}]', 17, "expected a list of text, found the text of '${WORD}'"),
        (
            '[floor: {min: "${N"}]',
            15,
            "a ${ is not closed: write ${NAME} or ${NAME:-default}, or $${ for a literal ${",
        ),
    ],
)
def test_a_message_shows_the_source_and_never_an_interpolated_value(chain, column, message, tmp_path):
    assert told(load_text(route_with(chain), tmp_path, ENVIRON)) == [(3, CHAIN + column - 1, message)]


LITERAL = "a literal secret has no place in a table: name a variable or a file with the middleware 'key'"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (route_with("[rewrite: {strip: sk-canary-0123456789}]"), (3, 57)),
        (route_with("[rewrite: {map: {sk-canary-0123456789: a}}]"), (3, 56)),
        (route_with("[rewrite: {map: {a: 'Bearer canary0123456'}}]"), (3, 59)),
        (SOUND + "x-keys: [sk-canary-0123456789]\n", (4, 10)),
        (SOUND + "models: {sk-canary-0123456789: demo/a}\n", (4, 10)),
    ],
)
def test_a_literal_secret_is_told_and_never_repeated(text, place, tmp_path):
    loaded = load_text(text, tmp_path)
    assert (*place, LITERAL) in told(loaded)
    assert "canary" not in repr(loaded.problems)
    assert {problem.code for problem in loaded.problems} == {"literal-secret"}


def test_a_secret_that_interpolation_makes_is_told_too(tmp_path):
    loaded = load_text(route_with('[rewrite: {strip: "${KEY}"}]'), tmp_path, ENVIRON)
    assert told(loaded) == [(3, CHAIN + 18, f"'${{KEY}}' turns into a secret: {LITERAL}")]


def test_expect_may_look_like_a_secret(tmp_path):
    long = "sk-canary-0123456789"
    assert only_option(load_text(route_with(f"[key: {{expect: {long}}}]"), tmp_path)) == Key(expect=long)
    loaded = load_text(route_with('[key: {expect: "${KEY}"}]'), tmp_path, ENVIRON)
    assert only_option(loaded) == Key(expect=ENVIRON["KEY"])


def test_unknown_keys_and_values_of_secret_shape_are_not_repeated(tmp_path):
    text = route_with("[usage: {sk-canary-0123456789: sk-canary-0123456789}, sk-canary-0123456789]")
    assert "canary" not in repr(load_text(text, tmp_path).problems)


def test_an_unquoted_variable_is_told_once_and_its_value_is_not_read(tmp_path):
    text = "version: 1\nroutes:\n  demo:\n    upstream: ${UPSTREAM}\n"
    message = 'a ${ outside quotes: put the whole value in double quotes, such as "${NAME}"'
    assert told(load_text(text, tmp_path)) == [(4, 15, message)]


def test_merged_keys_are_read_like_any_other(tmp_path):
    text = "version: 1\nx-d: &d {upstream: demo, list: [a]}\nroutes:\n  one: {<<: *d, list: ask}\n  two: {<<: *d}\n"
    loaded = load_text(text, tmp_path)
    assert loaded.table is not None
    assert loaded.table.routes["one"].list == "ask"
    assert loaded.table.routes["two"].list == ("a",)


def test_the_top_level_reads_its_chain_the_same_way(tmp_path):
    loaded = load_text(SOUND + "middlewares: [client_keys: {file: a}]\n", tmp_path)
    assert loaded.table is not None
    assert loaded.table.middlewares[0].options == Clients(file="a")
