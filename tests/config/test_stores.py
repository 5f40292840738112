"""The text of a store, and the rules about limits across a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.loader import load
from config.stores import MEMORY, parse_store
from middlewares.registry import catalog
from tests.config.tables import load_text

PASSWORD = "no-word-of-it-0123"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://127.0.0.1", "127.0.0.1:6379/0"),
        ("redis://10.0.0.5:6380/3", "10.0.0.5:6380/3"),
        ("redis://redis.internal/", "redis.internal:6379/0"),
        (f"rediss://tidegate:{PASSWORD}@[::1]:6380/0", "[::1]:6380/0"),
        (f"redis://:{PASSWORD}@cache:6379", "cache:6379/0"),
        ("rediss://cache?ssl_ca_certs=/etc/ca.crt", "cache:6379/0"),
    ],
)
def test_a_store_is_told_of_by_its_place_alone(text: str, shown: str) -> None:
    store = parse_store(text)

    assert (store.url, store.shown) == (text, shown)
    assert store.has_password == (PASSWORD in text)
    assert PASSWORD not in repr(store) + str(store) + store.written
    assert store.written == f"{text.partition(':')[0]}://{shown}"


def test_memory_is_no_place() -> None:
    assert parse_store("memory") == MEMORY and not MEMORY.url and MEMORY.written == "memory"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("redis", "write memory, redis://host:6379/0"),
        ("http://127.0.0.1:6379", "write memory"),
        ("unix:///run/redis.sock", "write memory"),
        ("REDIS://127.0.0.1", "write memory"),
        ("redis://", "the host or the port"),
        ("redis://host:0", "the host or the port"),
        ("redis://host:99999", "the host or the port"),
        ("redis://host/x", "the number of a database"),
        ("redis://host/0/1", "the number of a database"),
        ("redis://host?ssl_cert_reqs=none", "ssl_ca_certs, ssl_certfile and ssl_keyfile"),
        ("rediss://host?ssl_cert_reqs=none", "and nothing else"),
        (f"redis://u:{PASSWORD}@{PASSWORD}@host", "has to be encoded"),
        (f"redis://u:{PASSWORD}/x@host", "has to be encoded"),
        (f"redis://u:{PASSWORD} @host", "has to be encoded"),
    ],
)
def test_a_store_that_is_none_is_told_what_to_write_and_nothing_of_itself(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        parse_store(text)

    assert PASSWORD not in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"rediss?://.{0,40}", fullmatch=True))
def test_no_text_does_more_than_fail(text: str) -> None:
    try:
        store = parse_store(text)
    except ValueError:
        return
    assert store == MEMORY or "@" not in store.shown


def problems(
    folder: Path, limits: str, route: str = "", workers: int = 1, **environ: str
) -> list[tuple[int, str]]:
    text = f"""\
version: 1
server: {{workers: {workers}}}
middlewares:
{limits}
routes:
  acme:
    upstream: https://acme.example/v1
    middlewares:
      - prefix_rewrite
{route}
"""
    loaded = load_text(text, folder, catalog=catalog(), environ=environ)
    assert PASSWORD not in "".join(map(str, loaded.problems))
    return [(problem.line, problem.code) for problem in loaded.problems]


def test_one_kind_for_the_same_over_one_time_stands_once(tmp_path: Path) -> None:
    twice = """\
  - rate_limit: {requests: 60/min, per: route}
  - rate_limit: {requests: 1000/d, tokens: 5/s, per: route, concurrent: 1}
  - rate_limit: {requests: 90/min, per: address}
  - rate_limit: {requests: 90/min, per: route}
  - rate_limit: {per: route, concurrent: 2}"""

    assert problems(tmp_path, twice, "      - usage") == [(7, "same-limit"), (8, "same-limit")]


def test_two_stores_and_a_password_in_the_table_are_told(tmp_path: Path) -> None:
    limits = f"""\
  - rate_limit: {{requests: 1/s, per: route, store: "redis://u:{PASSWORD}@a"}}
  - rate_limit: {{requests: 1/s, per: address, store: "${{URL}}"}}
  - rate_limit: {{requests: 1/d, per: address}}"""
    found = problems(tmp_path, limits, URL=f"redis://u:{PASSWORD}@b")

    assert found == [(4, "store-password"), (5, "two-stores")]


def test_a_url_from_the_environment_is_not_repeated_when_it_is_none(tmp_path: Path) -> None:
    limits = '  - rate_limit: {requests: 1/s, per: route, store: "${URL}"}'

    assert problems(tmp_path, limits, URL=f"redis://u:{PASSWORD}@@x/y") == [(4, "store")]


@pytest.mark.parametrize(
    ("route", "warned"),
    [("", True), ("      - usage", False), ("      - usage: {include_usage: false}", True)],
)
def test_tokens_of_streams_that_nobody_asks_are_told(route: str, warned: bool, tmp_path: Path) -> None:
    found = problems(tmp_path, "  - rate_limit: {tokens: 100/s, per: route}", route)

    assert found == ([(4, "tokens-guessed")] if warned else [])


def test_with_a_shared_store_several_workers_count_together(tmp_path: Path) -> None:
    route = "      - breaker\n      - concurrency: {limit: 4}"
    limits = """\
  - rate_limit: {requests: 1/s, per: route, store: "%s"}
  - rate_limit: {requests: 1/d, per: address}"""
    alone = problems(tmp_path, limits % "memory", route, workers=4)
    shared = problems(tmp_path, limits % "redis://a", route, workers=4)

    assert [code for _, code in alone] == ["per-worker"] * 4
    assert shared == [(5, "per-worker")]


def test_a_limit_of_nothing_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path, "  - rate_limit: {per: route}") == [(4, "invalid")]


def test_a_redis_without_its_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("middlewares.rate_limit.importlib.util.find_spec", lambda _name: None)
    file = tmp_path / "routes.yaml"
    file.write_text(
        "version: 1\nmiddlewares: [{rate_limit: {requests: 1/s, per: route, store: 'redis://a'}}]\n"
        "routes: {demo: {upstream: demo}}\n"
    )

    assert [problem.code for problem in load(file, catalog(), environ={}).problems] == ["store-library"]
