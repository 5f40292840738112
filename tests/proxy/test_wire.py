"""The rules of headers and paths, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from middlewares.faults import ClientFault
from proxy.wire import CREDENTIALS, Target, downward, read_target, upward, upward_query

Pairs = list[tuple[str, str]]


def proxy(pairs: Pairs) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def raw(headers: CIMultiDictProxy[str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()]


def sent_up(headers: CIMultiDictProxy[str]) -> tuple[CIMultiDict[str], CIMultiDict[str]]:
    return upward(headers, raw(headers))


def sent_down(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return downward(headers, raw(headers))


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "authorization", "X-Api-Key", "x_api_key", "X_Api-Key", "Api-Key", "api_key",
        "X-Goog-Api-Key", "x_goog_api_key", "Proxy-Authorization", "proxy_authorization", "Cookie", "Host",
        "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "transfer_encoding", "Upgrade",
        "Proxy-Connection", "HTTP2-Settings", "Content-Length", "content_length", "Expect",
        "x-tidegate-provider", "X_Tidegate_Id", "X-Forwarded-For", "x_forwarded_proto", "X-Forwarded-Host",
    ],
)  # fmt: skip
def test_what_never_goes_up(name: str) -> None:
    up, _ = sent_up(proxy([(name, "canary"), ("X-Title", "kept")]))

    assert list(up.items()) == [("X-Title", "kept")]


@pytest.mark.parametrize(
    "name",
    [
        "User-Agent", "Accept", "Content-Type", "HTTP-Referer", "X-Title", "x-stainless-lang",
        "X-Msh-Platform",        "OpenAI-Beta", "anthropic-version", "X-My_Odd.Header", "x-key", "apikey",
    ],
)  # fmt: skip
def test_every_other_header_goes_up_unchanged(name: str) -> None:
    up, credentials = sent_up(proxy([(name, " vàlue ")]))

    assert list(up.items()) == [(name, " vàlue ")]
    assert not credentials


def test_headers_that_connection_names_stay_here() -> None:
    up, _ = sent_up(
        proxy(
            [
                ("Connection", "close, X-Secret"),
                ("connection", "x-other"),
                ("X-Secret", "1"),
                ("X-Other", "2"),
                ("X-Kept", "3"),
            ]
        )
    )

    assert list(up.items()) == [("X-Kept", "3")]


def test_repeated_headers_keep_their_order_under_one_spelling() -> None:
    up, _ = sent_up(proxy([("X-A", "1"), ("x-a", "2"), ("X-A", "3")]))

    assert list(up.items()) == [("X-A", "1"), ("X-A", "2"), ("X-A", "3")]


def test_the_clients_credentials_are_kept_apart() -> None:
    _, credentials = sent_up(
        proxy([("Authorization", "Bearer a"), ("x_api_key", "b"), ("Proxy-Authorization", "c")])
    )

    assert dict(credentials) == {"authorization": "Bearer a", "x-api-key": "b"}


def test_a_key_among_websocket_protocols_stays_here() -> None:
    up, _ = sent_up(
        proxy([("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.sk-canary, beta.v1")])
    )

    assert up["Sec-WebSocket-Protocol"] == "realtime, beta.v1"


def test_two_authorizations_are_refused() -> None:
    with pytest.raises(ClientFault) as raised:
        sent_up(proxy([("Authorization", "Bearer a"), ("authorization", "Bearer b")]))

    assert raised.value.code == "invalid_request"


@given(st.lists(st.tuples(st.sampled_from([*sorted(CREDENTIALS), "x-a", "x-b"]), st.text("ab,", max_size=4))))
def test_no_list_of_headers_gets_a_credential_through(pairs: Pairs) -> None:
    try:
        up, _ = sent_up(proxy(pairs))
    except ClientFault:
        return

    assert {name.lower() for name in up} <= {"x-a", "x-b"}


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("key=secret", ""),
        ("a=%20&key=secret&b", "a=%20&b"),
        ("monkey=1&keys=2", "monkey=1&keys=2"),
        ("key", ""),
        ("k%65y=secret&a=1", "a=1"),
    ],
)
def test_a_key_in_the_query_stays_here_and_the_rest_byte_for_byte(query: str, kept: str) -> None:
    assert upward_query(query) == kept


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie",
        "Alt-Svc",
        "Strict-Transport-Security",
        "Connection",
        "Transfer-Encoding",
        "Trailer",
        "x-tidegate-route",
    ],
)
def test_what_never_comes_down(name: str) -> None:
    assert list(sent_down(proxy([(name, "x"), ("X-Request-Id", "1")])).items()) == [("X-Request-Id", "1")]


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\x00b", "a\x0bb", "a\x7fb", "\x01"])
def test_a_value_that_could_end_our_head_is_left_out(value: str) -> None:
    assert not sent_down(proxy([("X-Odd", value)]))


def test_what_connection_names_does_not_come_down() -> None:
    assert not sent_down(proxy([("Connection", "X-Hop"), ("X-Hop", "1")]))


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/v1/chat/completions", Target(None, "/chat/completions", "")),
        ("/v1/chat", Target(None, "/chat/completions", "")),
        ("/v1/chat?x=%2f", Target(None, "/chat/completions", "x=%2f")),
        ("/kimi/v1/chat/completions?a=1&b=2", Target("kimi", "/chat/completions", "a=1&b=2")),
        ("/kimi/v1/chat", Target("kimi", "/chat/completions", "")),
        ("/v1/files/file-1/content", Target(None, "/files/file-1/content", "")),
        ("/v1/v1/x", Target(None, "/v1/x", "")),
        ("/v1/models/a%2Fb", Target(None, "/models/a%2Fb", "")),
        ("http://any.host:1/v1/models", Target(None, "/models", "")),
        ("HTTPS://any.host/kimi/v1/models", Target("kimi", "/models", "")),
        ("/v1/new~thing/%C3%A9", Target(None, "/new~thing/%C3%A9", "")),
    ],
)
def test_a_target_is_split_as_it_came(raw: str, target: Target) -> None:
    assert read_target("GET", raw) == target


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        *(
            ("GET", f"/v1/{rest}")
            for rest in "a/../b .. ./b %2e%2E/b a%2e /b a\\b a%5Cb a%2fb a%00 é a#b".split()
        ),
        *(("GET", raw) for raw in ("//v1/b", "/v1/a b", "*", "v1/models", "", "/v1/a?b#c", "/v1/a?\x7f")),
        *(("GET", raw) for raw in ("http://host", "ftp://host/v1/models", "/kimi/v1/models/a%2Fb")),
        ("POST", "/v1/models/a%2Fb"),
        ("CONNECT", "host:443"),
    ],
)
def test_a_path_that_cannot_be_trusted_is_refused(method: str, raw: str) -> None:
    with pytest.raises(ClientFault) as raised:
        read_target(method, raw)

    assert raised.value.code == "invalid_request"


@given(st.text(st.sampled_from("/v1.%2eEfF5cC\\ad?#k"), max_size=20))
def test_whatever_is_accepted_has_one_reading(raw: str) -> None:
    try:
        target = read_target("GET", raw)
    except ClientFault:
        return
    segments = target.path.split("/")

    assert target.path.startswith("/")
    assert not {".", "..", "\\"} & set(segments)
    assert "%2e" not in target.path.lower() and "%5c" not in target.path.lower()
    assert raw.partition("?")[0].endswith(target.path) or target.path == "/chat/completions"


def test_names_keep_their_spelling_both_ways() -> None:
    headers = proxy([("User-Agent", "a"), ("Content-Type", "b"), ("X-Own", "c")])
    spelled = [(b"user-agent", b"a"), (b"CONTENT-TYPE", b"b"), (b"x-OWN", b"c")]
    names = ["user-agent", "CONTENT-TYPE", "x-OWN"]

    assert list(upward(headers, spelled)[0]) == names
    assert list(downward(headers, spelled)) == names
