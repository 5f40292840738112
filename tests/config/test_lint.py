# ruff: noqa: E501 (messages are compared whole)
from __future__ import annotations

import pytest

from config.catalog import Catalog, Entry
from config.secrets import SecretStore
from tests.config.catalog import CATALOG, Clients, Key, Plain
from tests.config.tables import SOUND, load_text, told

TWO = """\
version: 1
routes:
  kimi: {upstream: https://api.kimi.com/coding/v1, explicit_only: true}
  open: {upstream: https://openrouter.ai/api/v1}
"""


def codes(loaded):
    return [problem.code for problem in loaded.problems]


@pytest.mark.parametrize(
    ("line", "column", "code", "message"),
    [
        (
            "models: {a: kimi/k3}",
            13,
            "explicit-only",
            "'kimi' is explicit_only: no alias or ladder may lead to it",
        ),
        (
            "models: {a: [open/x, kimi/k3]}",
            22,
            "explicit-only",
            "'kimi' is explicit_only: no alias or ladder may lead to it",
        ),
        (
            "default_route: kimi",
            16,
            "explicit-only",
            "'kimi' is explicit_only: it cannot be the default_route",
        ),
        ("default_route: opne", 16, "unknown-route", "there is no route 'opne', did you mean 'open'?"),
        ("default_route: zzzz", 16, "unknown-route", "there is no route 'zzzz': there are 'kimi', 'open'"),
        ("models: {a: opne/x}", 13, "unknown-route", "there is no route 'opne', did you mean 'open'?"),
        (
            "models: {a: [open/x, zzzz/x]}",
            22,
            "unknown-route",
            "there is no route 'zzzz': there are 'kimi', 'open'",
        ),
        (
            "models: {a: gpt-4o}",
            13,
            "target",
            "'gpt-4o' is not ROUTE/MODEL: write ROUTE/MODEL, for example open/gpt-4o",
        ),
        ("models: {a: Open}", 13, "target", "'Open' is not ROUTE/MODEL, did you mean 'open'?"),
        ("models: {a: open}", 13, "target", "'open' has no model: write ROUTE/MODEL"),
        ("models: {a: open/}", 13, "target", "'open/' has no model: write ROUTE/MODEL"),
        ("models: {a: /x}", 13, "target", "'/x' is not ROUTE/MODEL"),
        ("models: {a: ''}", 13, "target", "'' is not ROUTE/MODEL"),
        (
            "models: {a: open/x, b: a}",
            24,
            "target",
            "'a' is a name under models itself, and those do not chain: write its ROUTE/MODEL",
        ),
        (
            "models: {a/b: open/x, c: [a/b]}",
            27,
            "target",
            "'a/b' is a name under models itself, and those do not chain: write its ROUTE/MODEL",
        ),
        (
            "models: {a: a}",
            13,
            "target",
            "'a' is a name under models itself, and those do not chain: write its ROUTE/MODEL",
        ),
        (
            "models: {open: kimi}",
            10,
            "shared-name",
            "'open' is a route on line 4 already: choose another name",
        ),
        (
            "models: {open/x: open/y}",
            10,
            "shared-name",
            "'open/x' means a model of the route 'open': do not begin the name so",
        ),
        ("models: {'': open/y}", 10, "model-name", "a name under models cannot be empty"),
    ],
)
def test_names_that_lead_nowhere_are_told(line, column, code, message, tmp_path):
    loaded = load_text(TWO + line, tmp_path)
    assert (5, column, message) in told(loaded)
    assert code in codes(loaded)


@pytest.mark.parametrize(
    "line",
    ["models: {a: open/x, b: [open/y, open/z/w:1t]}", "default_route: open", "models: {opened/x: open/y}"],
)
def test_names_that_lead_somewhere_are_fine(line, tmp_path):
    assert told(load_text(TWO + line, tmp_path)) == []


def test_what_came_from_the_environment_is_shown_as_its_source(tmp_path):
    environ = {"R": "kimi", "Z": "canary", "U": "ftp://canary"}
    text = (
        "version: 1\nroutes:\n"
        "  kimi: {upstream: demo, explicit_only: true}\n"
        '  a: {upstream: "${U}", serves: ["${Z}"]}\n'
        '  b: {upstream: demo, serves: ["${Z}"]}\n'
        'models: {x: "${R}/m", y: "${Z}/m", z: "${Z}"}\n'
        'default_route: "${R}"\n'
        'server: {trusted_proxies: ["${Z}"]}\n'
    )
    assert told(load_text(text, tmp_path, environ)) == [
        (4, 17, "upstream '${U}': write a URL that begins with https:// or http://, or demo"),
        (5, 32, "'${Z}' is claimed by 'a' already"),
        (6, 13, "'${R}/m' is explicit_only: no alias or ladder may lead to it"),
        (6, 26, "'${Z}/m' names no route"),
        (6, 39, "'${Z}' is not ROUTE/MODEL"),
        (7, 16, "'${R}' is explicit_only: it cannot be the default_route"),
        (8, 28, "'${Z}' is no network: write 10.0.0.0/8, an address, or unix"),
    ]


@pytest.mark.parametrize(
    ("route", "column", "code", "message"),
    [
        (
            "a: {upstream: demo, explicit_only: true, serves: [x]}",
            44,
            "explicit-only",
            "'a' is explicit_only, so it cannot claim bare names with serves",
        ),
        (
            "a: {upstream: demo, explicit_only: true, list: ask}",
            50,
            "explicit-only",
            "'a' is explicit_only, so it is never asked for its models: list names, or nothing",
        ),
        (
            "v1: {upstream: demo}",
            3,
            "route-name",
            "'v1' is a path of tidegate's own and no route's name: choose another",
        ),
        (
            "healthz: {upstream: demo}",
            3,
            "route-name",
            "'healthz' is a path of tidegate's own and no route's name: choose another",
        ),
        (
            "readyz: {upstream: demo}",
            3,
            "route-name",
            "'readyz' is a path of tidegate's own and no route's name: choose another",
        ),
        (
            "metrics: {upstream: demo}",
            3,
            "route-name",
            "'metrics' is a path of tidegate's own and no route's name: choose another",
        ),
        (
            "status: {upstream: demo}",
            3,
            "route-name",
            "'status' is a path of tidegate's own and no route's name: choose another",
        ),
        (
            "a/b: {upstream: demo}",
            3,
            "route-name",
            "'a/b' is no route's name: use letters, digits, and after the first also . _ -",
        ),
        (
            "-a: {upstream: demo}",
            3,
            "route-name",
            "'-a' is no route's name: use letters, digits, and after the first also . _ -",
        ),
        (
            "'': {upstream: demo}",
            3,
            "route-name",
            "'' is no route's name: use letters, digits, and after the first also . _ -",
        ),
        (
            "é: {upstream: demo}",
            3,
            "route-name",
            "'é' is no route's name: use letters, digits, and after the first also . _ -",
        ),
        (
            "a: {upstream: ftp://a/v1}",
            17,
            "upstream-url",
            "upstream 'ftp://a/v1': write a URL that begins with https:// or http://, or demo",
        ),
        (
            "a: {upstream: openrouter.ai}",
            17,
            "upstream-url",
            "upstream 'openrouter.ai': write a URL that begins with https:// or http://, or demo",
        ),
        (
            "a: {upstream: Demo}",
            17,
            "upstream-url",
            "upstream 'Demo': write a URL that begins with https:// or http://, or demo",
        ),
        (
            "a: {upstream: 'https://me:pw@a/v1'}",
            17,
            "upstream-url",
            "upstream: a URL with a user or a password in it: name the key with the middleware 'key'",
        ),
        (
            "a: {upstream: 'https://a/v1?k=1'}",
            17,
            "upstream-url",
            "upstream 'https://a': an upstream has no query: set what it says with a middleware",
        ),
        (
            "a: {upstream: 'https://a/v1?'}",
            17,
            "upstream-url",
            "upstream 'https://a': an upstream has no query: set what it says with a middleware",
        ),
        (
            "a: {upstream: 'https://a/v1#x'}",
            17,
            "upstream-url",
            "upstream 'https://a': an upstream has no fragment: leave out the # and what follows",
        ),
        (
            "a: {upstream: 'https:///v1'}",
            17,
            "upstream-url",
            "upstream 'https:///v1': the host or the port is malformed: write https://host:port/v1",
        ),
        (
            "a: {upstream: 'https://a:0'}",
            17,
            "upstream-url",
            "upstream 'https://a:0': the host or the port is malformed: write https://host:port/v1",
        ),
        (
            "a: {upstream: 'https://a/v1\\x'}",
            17,
            "upstream-url",
            "upstream 'https://a/v1\\\\x': a URL has no white space, backslashes or characters beyond ASCII",
        ),
        (
            "a: {upstream: 'https://a:99999'}",
            17,
            "upstream-url",
            "upstream 'https://a:99999': the host or the port is malformed: write https://host:port/v1",
        ),
        (
            "a: {upstream: 'https://a:'}",
            17,
            "upstream-url",
            "upstream 'https://a:': the host or the port is malformed: write https://host:port/v1",
        ),
        (
            "a: {upstream: 'https://[::1/v1'}",
            17,
            "upstream-url",
            "upstream 'https://[::1/v1': the host or the port is malformed: write https://host:port/v1",
        ),
        (
            "a: {upstream: 'https://1.2.3/v1'}",
            17,
            "upstream-url",
            "upstream 'https://1.2.3/v1': a host of numbers is an IPv4 address, four of them: write http://127.0.0.1:8080/v1",
        ),
        (
            "a: {upstream: 'https://a b/v1'}",
            17,
            "upstream-url",
            "upstream 'https://a b/v1': a URL has no white space, backslashes or characters beyond ASCII",
        ),
        (
            "a: {upstream: http://127.0.0.1:8080/v1}",
            17,
            "own-address",
            "this upstream is the server's own address '127.0.0.1:8080': requests would go round for ever",
        ),
        (
            "a: {upstream: 'http://localhost:8081/v1'}",
            17,
            "own-address",
            "this upstream is the server's own address '127.0.0.1:8081': requests would go round for ever",
        ),
    ],
)
def test_what_is_wrong_with_a_route_is_told(route, column, code, message, tmp_path):
    loaded = load_text(f"version: 1\nroutes:\n  {route}\n", tmp_path)
    assert told(loaded) == [(3, column, message)]
    assert codes(loaded) == [code]


@pytest.mark.parametrize(
    "upstream",
    [
        "demo",
        "https://a/v1",
        "HTTP://A.example:8080/v1",
        "https://[2001:db8::1]:8443/v1/",
        "http://10.0.0.1:8080/",
    ],
)
def test_an_upstream_is_a_url_or_the_demo(upstream, tmp_path):
    assert told(load_text(f"version: 1\nroutes: {{a: {{upstream: '{upstream}'}}}}\n", tmp_path)) == []


def test_a_password_in_an_upstream_is_not_repeated_when_it_is_a_secret(tmp_path):
    loaded = load_text(
        "version: 1\nroutes: {a: {upstream: 'https://x:sk-canary-0123456789@a/v1'}}\n", tmp_path
    )
    assert "canary" not in repr(loaded.problems)


def test_two_routes_cannot_claim_one_name(tmp_path):
    text = "version: 1\nroutes:\n  a: {upstream: demo, serves: [x, 'g*']}\n  b: {upstream: demo, serves: [y, 'g*', x]}\n"
    assert told(load_text(text, tmp_path)) == [
        (4, 35, "'g*' is claimed by 'a' already"),
        (4, 41, "'x' is claimed by 'a' already"),
    ]


def test_a_table_has_a_route(tmp_path):
    message = "there is no route: write at least one under routes, such as demo: {upstream: demo}"
    assert told(load_text("version: 1\nroutes: {}\n", tmp_path)) == [(2, 1, message)]


@pytest.mark.parametrize(
    ("server", "column", "code", "message"),
    [
        ("{listen: []}", 10, "no-listeners", "listen is empty: write 127.0.0.1:8080"),
        (
            "{trusted_proxies: [unix, 10.0.0.0/33]}",
            34,
            "trusted-proxies",
            "'10.0.0.0/33' is no network: write 10.0.0.0/8, an address, or unix",
        ),
        (
            "{trusted_proxies: [localhost]}",
            28,
            "trusted-proxies",
            "'localhost' is no network: write 10.0.0.0/8, an address, or unix",
        ),
    ],
)
def test_what_is_wrong_with_the_server_is_told(server, column, code, message, tmp_path):
    loaded = load_text(f"{SOUND}server: {server}\n", tmp_path)
    assert told(loaded) == [(4, column, message)]
    assert codes(loaded) == [code]


def test_networks_and_addresses_may_be_trusted(tmp_path):
    text = SOUND + "server: {trusted_proxies: [10.0.0.1/8, 192.168.1.1, '::1', fd00::/8, unix]}"
    assert told(load_text(text, tmp_path)) == []


def test_an_https_listener_needs_a_certificate(tmp_path):
    listen = SOUND + "server: {listen: ['https://0.0.0.0:8443'], admin: 'https://[::1]:8444'"
    message = "an https:// listener needs a certificate: write server.tls: {cert: FILE, key: FILE}"
    assert told(load_text(listen + "}", tmp_path)) == [(4, 19, message), (4, 51, message)]
    assert told(load_text(listen + ", tls: {cert: a, key: b}}", tmp_path)) == []


@pytest.mark.parametrize(
    ("chain", "column", "code", "message"),
    [
        (
            "[usage]",
            15,
            "not-at-top",
            "'usage' works on one attempt at a route: move it into the routes; here may stand client_keys, rate_limit, timeout",
        ),
        (
            "[timeout: {connect: 1s, total: 1s}]",
            25,
            "not-at-top",
            "here 'timeout' takes 'total' only: move 'connect' into the routes",
        ),
        (
            "[rate_limit: {requests: 5/s}]",
            15,
            "limit-without-clients",
            "a limit per client needs 'client_keys' before it: add that, or write per: address or route",
        ),
        (
            "[rate_limit, client_keys: {file: a}]",
            15,
            "limit-without-clients",
            "a limit per client needs 'client_keys' before it: add that, or write per: address or route",
        ),
        (
            "[timeout: {total: 1s}, timeout]",
            37,
            "listed-twice",
            "'timeout' stands in this list already, on line 4",
        ),
    ],
)
def test_what_is_wrong_with_the_top_levels_chain_is_told(chain, column, code, message, tmp_path):
    loaded = load_text(f"{SOUND}middlewares: {chain}\n", tmp_path)
    assert told(loaded) == [(4, column, message)]
    assert codes(loaded) == [code]


@pytest.mark.parametrize(
    "chain",
    [
        "[client_keys: {file: a}, rate_limit]",
        "[rate_limit: {per: address}, rate_limit: {per: route}]",
        "[timeout: {total: 1s}]",
        "[timeout]",
    ],
)
def test_what_may_stand_at_the_top_level_may_stand_there(chain, tmp_path):
    assert told(load_text(f"{SOUND}middlewares: {chain}\n", tmp_path)) == []


def in_route(chain: str, top: str = "[]", upstream: str = "demo") -> str:
    return (
        f"version: 1\nmiddlewares: {top}\nroutes:\n  a:\n    upstream: {upstream}\n    middlewares: {chain}\n"
    )


@pytest.mark.parametrize(
    ("text", "place", "code", "message"),
    [
        (
            in_route("[usage, rewrite, usage]"),
            (6, 35),
            "listed-twice",
            "'usage' stands in this list already, on line 6",
        ),
        (
            in_route("[usage, [rewrite, [usage]]]"),
            (6, 37),
            "listed-twice",
            "'usage' stands in this list already, on line 6",
        ),
        (
            in_route("[rate_limit]"),
            (6, 19),
            "limit-without-clients",
            "a limit per client needs 'client_keys' before it: add that, or write per: address or route",
        ),
        (
            in_route("[key: {pass: true}]", "[client_keys: {file: a}]"),
            (6, 31),
            "pass-behind-clients",
            "route a: pass: true behind client_keys",
        ),
        (
            in_route("[key: [{env: A}, {pass: true}]]", "[client_keys: {file: a}]"),
            (6, 42),
            "pass-behind-clients",
            "route a: pass: true behind client_keys",
        ),
        (
            in_route("[client_keys: {file: a}, key: {pass: true}]"),
            (6, 55),
            "pass-behind-clients",
            "route a: pass: true behind client_keys",
        ),
        (
            in_route("[key: {expect: sk-kimi-}]", upstream="https://OpenRouter.ai/api/v1"),
            (6, 33),
            "key-host",
            "route a: a key that begins with sk-kimi- belongs to api.kimi.com, not to openrouter.ai",
        ),
        (
            in_route("[key: {expect: sk-or-}]", upstream="https://api.kimi.com/coding/v1"),
            (6, 33),
            "key-host",
            "route a: a key that begins with sk-or- belongs to openrouter.ai, not to api.kimi.com",
        ),
    ],
)
def test_what_is_wrong_with_the_order_or_the_place_is_told(text, place, code, message, tmp_path):
    loaded = load_text(text, tmp_path)
    assert told(loaded) == [(*place, message)]
    assert codes(loaded) == [code]


@pytest.mark.parametrize(
    "text",
    [
        in_route("[params, usage, params]"),
        in_route("[rate_limit]", "[client_keys: {file: a}]"),
        in_route("[key: {pass: true}]"),
        in_route("[key: {pass: true}, client_keys: {file: a}]"),
        in_route("[key: {expect: sk-kimi-}]", upstream="https://api.kimi.com/coding/v1"),
        in_route("[usage]", "[client_keys: {file: a}]"),
    ],
)
def test_what_is_in_order_is_not_blamed(text, tmp_path):
    assert told(load_text(text, tmp_path)) == []


def test_a_review_never_shows_what_came_from_the_environment(tmp_path):
    text = in_route('[key: {expect: "${PREFIX}"}]', upstream='"${UPSTREAM}"')
    environ = {"PREFIX": "sk-kimi-", "UPSTREAM": "https://openrouter.ai/api/v1"}
    ((line, column, message),) = told(load_text(text, tmp_path, environ))
    assert (line, column) == (6, 33)
    assert "sk-kimi- " not in message
    assert "${PREFIX}" in message


def test_keys_are_looked_at_only_when_there_is_a_store(tmp_path):
    text = in_route("[key: {file: none.env}]")
    loaded = load_text(text, tmp_path, secrets=SecretStore({}, tmp_path))
    assert told(loaded) == [(6, 19, f"route a: no key: {tmp_path}/none.env does not exist")]
    assert [problem.level for problem in loaded.problems] == ["warning"]
    assert told(load_text(text, tmp_path)) == []


def test_a_broken_route_does_not_hide_the_rules_about_the_others(tmp_path):
    text = (
        "version: 1\n"
        "routes:\n"
        "  a: {upstream: demo, middlewares: [floor: {min: x}, usage, usage, unknown, retry]}\n"
        "  b: {serves: [x]}\n"
        "  c: 5\n"
        "  d: {upstream: 'https://a/?b', serves: [x]}\n"
        "models: {m: [c/x, b/x, e/x, 5], b: a/x}\n"
        "default_route: c\n"
    )
    assert told(load_text(text, tmp_path)) == [
        (3, 50, "expected a whole number, found the text 'x'"),
        (3, 61, "'usage' stands in this list already, on line 3"),
        (
            3,
            68,
            "unknown middleware 'unknown': there are 'client_keys', 'floor', 'key', 'params', 'rate_limit', 'rewrite', 'timeout', 'usage'",
        ),
        (3, 77, "middleware 'retry' is not in this version of tidegate"),
        (4, 3, "missing key 'upstream'"),
        (
            5,
            6,
            "expected a mapping with upstream, middlewares, explicit_only, serves, list, proxy or tls, found the number 5",
        ),
        (6, 17, "upstream 'https://a': an upstream has no query: set what it says with a middleware"),
        (6, 42, "'x' is claimed by 'b' already"),
        (7, 24, "there is no route 'e': there are 'a', 'b', 'c', 'd'"),
        (7, 29, 'expected text, found the number 5: write "5" in quotes'),
        (7, 33, "'b' is a route on line 4 already: choose another name"),
    ]


def test_a_catalog_without_middlewares_is_a_catalog(tmp_path):
    assert told(load_text(SOUND, tmp_path, catalog=Catalog({}))) == []
    loaded = load_text(in_route("[usage]"), tmp_path, catalog=Catalog({}))
    assert told(loaded) == [(6, 19, "unknown middleware 'usage'")]


def test_nothing_may_stand_at_the_top_level_when_no_entry_says_so(tmp_path):
    catalog = Catalog({"usage": Entry(Plain)})
    loaded = load_text(SOUND + "middlewares: [usage]", tmp_path, catalog=catalog)
    assert told(loaded) == [(4, 15, "'usage' works on one attempt at a route: move it into the routes")]


def test_the_fields_of_a_list_of_options_are_limited_at_the_top_too(tmp_path):
    catalog = Catalog(
        {**CATALOG.entries, "key": Entry(Key | list[Key], top_fields=frozenset({"env"})), "c": Entry(Clients)}
    )
    loaded = load_text(SOUND + "middlewares: [key: [{env: A}, {env: B, file: f}]]", tmp_path, catalog=catalog)
    assert told(loaded) == [(4, 40, "here 'key' takes 'env' only: move 'file' into the routes")]
