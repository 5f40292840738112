from __future__ import annotations

import msgspec
import pytest
from multidict import CIMultiDict

from config.catalog import Scene
from config.problems import Invalid
from middlewares.headers import Headers, Options, ResponseOptions
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of, reply_of, sent

CAME = [("User-Agent", "codex/1.0"), ("X-One", "a"), ("x-one", "b"), ("Accept", "*/*")]


def read(options: dict[str, object]) -> Options:
    """The options as the loader makes them."""
    return msgspec.convert(options, Options)


async def edited(options: dict[str, object], came: list[tuple[str, str]]) -> list[tuple[str, str]]:
    exchange = exchange_of(headers=came)
    await Headers(read(options), deps_of())(exchange, FakeNext())
    return list(exchange.headers.items())


@pytest.mark.parametrize(
    ("options", "goes_up"),
    [
        ({}, CAME),
        ({"set": {"X-New": "1"}}, [*CAME, ("X-New", "1")]),
        (
            {"set": {"X-One": "1"}},
            [("User-Agent", "codex/1.0"), ("X-One", "1"), ("Accept", "*/*")],
        ),
        ({"default": {"x-ONE": "1", "X-New": "2"}}, [*CAME, ("X-New", "2")]),
        ({"remove": ["x-one", "X-Absent"]}, [("User-Agent", "codex/1.0"), ("Accept", "*/*")]),
        (
            {"remove": ["X-One"], "default": {"X-One": "d"}},
            [("User-Agent", "codex/1.0"), ("Accept", "*/*"), ("X-One", "d")],
        ),
        (
            {"remove": ["X-One"], "default": {"X-One": "d"}, "set": {"X-One": "s"}},
            [("User-Agent", "codex/1.0"), ("Accept", "*/*"), ("X-One", "s")],
        ),
        ({"set": {"X-Empty": ""}}, [*CAME, ("X-Empty", "")]),
        ({"user_agent": "pass"}, CAME),
        ({"user_agent": "own"}, [("User-Agent", "tidegate/9.9"), *CAME[1:]]),
        ({"user_agent": "curl/8"}, [("User-Agent", "curl/8"), *CAME[1:]]),
        ({"user_agent": "curl/8", "set": {"user-agent": "x"}}, [("User-Agent", "curl/8"), *CAME[1:]]),
        ({"user_agent": "curl/8", "accept_risk": "asked them"}, [("User-Agent", "curl/8"), *CAME[1:]]),
        ({"response": {"set": {"X-One": "z"}, "remove": ["Accept"]}}, CAME),
    ],
)
async def test_the_request_goes_up_with_the_edited_headers(options, goes_up):
    folded = [(name.lower(), value) for name, value in await edited(options, CAME)]
    assert folded == [(name.lower(), value) for name, value in goes_up]


@pytest.mark.parametrize(
    ("agent", "goes_up"),
    [("pass", []), ("own", [("User-Agent", "tidegate/9.9")]), ("x", [("User-Agent", "x")])],
)
async def test_a_request_without_a_user_agent_gets_one_only_if_it_is_fixed(agent, goes_up):
    assert await edited({"user_agent": agent}, []) == goes_up


async def test_the_answer_is_edited_when_it_comes_back_and_the_request_is_not():
    exchange = exchange_of(headers=CAME)
    reply = reply_of(headers={"Server": "nginx", "X-Cache": "HIT"})
    options = read({"response": {"set": {"Server": "edge", "X-New": "1"}, "remove": ["x-cache", "Server"]}})
    assert await Headers(options, deps_of())(exchange, FakeNext(reply)) is reply
    assert list(reply.headers.items()) == [
        ("Content-Type", "text/event-stream"),
        ("Server", "edge"),
        ("X-New", "1"),
    ]
    assert exchange.headers == CIMultiDict(CAME)


async def test_the_request_edits_leave_the_answer_and_the_body_alone():
    exchange = exchange_of(b'{ "model":"m" }', headers=CAME)
    reply = reply_of(headers={"X-One": "theirs"})
    await Headers(read({"set": {"X-One": "1"}, "remove": ["Accept"]}), deps_of())(exchange, FakeNext(reply))
    assert reply.headers["X-One"] == "theirs"
    assert sent(exchange) == b'{ "model":"m" }'


@pytest.mark.parametrize("value", ["sent\tas it is", "é and 中", "x" * 8000, " spaced "])
async def test_a_value_passes_as_it_is_written(value):
    assert await edited({"set": {"X-New": value}}, []) == [("X-New", value)]


@pytest.mark.parametrize("option", ["set", "default"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("", "x", "this is not a header name"),
        ("X One", "x", "this is not a header name"),
        ("X:One", "x", "this is not a header name"),
        ("X-One\r\nEvil", "x", "is not a header name"),
        ("X-Öne", "x", "is not a header name"),
        ("Host", "x", "belongs to the connection and cannot be edited"),
        ("content-length", "0", "belongs to the connection and cannot be edited"),
        ("Transfer-Encoding", "chunked", "this header belongs to the connection"),
        ("Connection", "close", "this header belongs to the connection"),
        ("Keep-Alive", "1", "this header belongs to the connection"),
        ("TE", "trailers", "this header belongs to the connection"),
        ("Trailer", "x", "this header belongs to the connection"),
        ("Upgrade", "h2c", "this header belongs to the connection"),
        ("Expect", "100-continue", "this header belongs to the connection"),
        ("X-One", "a\r\nEvil: b", "the value holds control characters"),
        ("X-One", "a\nb", "the value holds control characters"),
        ("X-One", "a\x00b", "the value holds control characters"),
        ("X-One", "a\x7f", "the value holds control characters"),
    ],
)
def test_a_header_that_cannot_be_sent_is_an_error(option, name, value, message):
    given = {"set": {}, "default": {}, option: {name: value}}
    with pytest.raises(Invalid) as caught:
        Options(set=given["set"], default=given["default"])
    assert message in str(caught.value)
    assert (caught.value.field, caught.value.inside) == (option, (name,))


@pytest.mark.parametrize(("name", "value"), [("Host", "x"), ("X One", "x"), ("X-One", "a\nb")])
def test_a_header_that_cannot_be_sent_to_the_client_is_an_error(name, value):
    with pytest.raises(Invalid) as caught:
        ResponseOptions(set={name: value})
    assert caught.value.field == "set"


@pytest.mark.parametrize("kind", [Options, ResponseOptions])
@pytest.mark.parametrize("name", ["", "X One", "Host", "connection"])
def test_a_header_that_cannot_be_removed_is_an_error(kind, name):
    with pytest.raises(Invalid) as caught:
        kind(remove=(name,))
    assert caught.value.field == "remove"


@pytest.mark.parametrize("kind", [Options, ResponseOptions])
def test_one_header_set_twice_is_an_error_whatever_its_case(kind):
    with pytest.raises(Invalid, match="stands here already") as caught:
        kind(set={"X-A": "a", "x-a": "b"})
    assert (caught.value.field, caught.value.inside) == ("set", ("x-a",))


@pytest.mark.parametrize("agent", ["", " ", "a\nb", "a\x00", "\r\n"])
def test_a_user_agent_that_cannot_be_sent_is_an_error(agent):
    with pytest.raises(Invalid) as caught:
        Options(user_agent=agent)
    assert caught.value.field == "user_agent"
    assert str(caught.value) == "user_agent is 'pass', 'own' or a printable text"


@pytest.mark.parametrize(
    "options", [{"sett": {}}, {"response": {"default": {}}}, {"remove": "X"}, {"set": {"X": 1}}]
)
def test_options_that_do_not_exist_are_errors(options):
    with pytest.raises(msgspec.ValidationError):
        read(options)


def found(options: dict[str, object], host: str) -> list[tuple[str, str, str | None]]:
    findings = read(options).review(Scene("kimi", host, ()))
    return [(finding.level, finding.code, finding.field) for finding in findings]


@pytest.mark.parametrize(
    "options",
    [
        {"user_agent": "KimiCLI/1.0"},
        {"set": {"User-Agent": "KimiCLI/1.0"}},
        {"set": {"uSER-aGENT": "KimiCLI/1.0"}},
        {"default": {"user-agent": "KimiCLI/1.0"}},
        {"user_agent": "KimiCLI/1.0", "accept_risk": ""},
        {"user_agent": "KimiCLI/1.0", "accept_risk": " \n"},
    ],
)
@pytest.mark.parametrize("host", ["api.kimi.com", "API.Kimi.com", "api.kimi.com."])
def test_a_fixed_user_agent_for_a_host_that_admits_certain_clients_draws_a_warning(options, host):
    assert found(options, host) == [("warning", "fixed-user-agent", "user_agent")]


def test_the_warning_names_the_terms_and_both_ways_out():
    (finding,) = read({"user_agent": "KimiCLI/1.0"}).review(Scene("kimi", "api.kimi.com", ()))
    for part in ("api.kimi.com", "https://www.kimi.com/code/docs", "user_agent: pass", "accept_risk: TEXT"):
        assert part in (finding.precise or "")


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({}, "api.kimi.com"),
        ({"user_agent": "pass"}, "api.kimi.com"),
        ({"user_agent": "own"}, "api.kimi.com"),
        ({"remove": ["User-Agent"]}, "api.kimi.com"),
        ({"set": {"X-User-Agent": "x"}}, "api.kimi.com"),
        ({"response": {"set": {"User-Agent": "x"}}}, "api.kimi.com"),
        ({"user_agent": "KimiCLI/1.0", "accept_risk": "agreed with them in May"}, "api.kimi.com"),
        ({"set": {"User-Agent": "x"}, "accept_risk": "agreed"}, "api.kimi.com"),
        ({"user_agent": "KimiCLI/1.0"}, "api.moonshot.ai"),
        ({"user_agent": "KimiCLI/1.0"}, "notapi.kimi.com"),
        ({"user_agent": "KimiCLI/1.0"}, ""),
    ],
)
def test_no_warning_where_the_agent_is_the_client_s_the_risk_accepted_or_the_host_open(options, host):
    assert found(options, host) == []
