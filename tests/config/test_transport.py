"""Certificates, `tls` and `proxy`: what is wrong with them is told at their line, without a password."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from config.certificates import validity_of
from config.files import Files
from config.loader import load
from config.schema import ListenerTls
from config.upstreams import Upstream, parse_proxy
from tests.config.catalog import CATALOG
from tests.config.tables import load_text, told
from tests.support.certificates import ending_in, self_signed

ENCODED = (
    "proxy: the user or the password holds what has to be encoded, as %40 for @: "
    "write http://user:password@proxy:3128"
)
MALFORMED = "proxy: the host or the port is malformed: write http://user:password@proxy:3128"
KIND = "proxy: write the URL of an HTTP proxy, such as http://proxy:3128"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proxy:3128", KIND),
        ("https://proxy:3128", KIND),
        ("socks5://proxy:1080", KIND),
        ("http://", MALFORMED),
        ("http://proxy:0", MALFORMED),
        ("http://proxy:99999", MALFORMED),
        ("http://proxy:x", MALFORMED),
        ("http://proxy:", MALFORMED),
        ("http://proxy:3128/path", "proxy: a proxy has no path: write http://proxy:3128"),
        ("http://proxy:3128?q", "proxy: a proxy has no path: write http://proxy:3128"),
        ("http://me:can/ary@proxy:3128", ENCODED),
        ("http://me:can@ary@proxy:3128", ENCODED),
        ("http://me:can ary@proxy:3128", ENCODED),
        ("http://me:canäry@proxy:3128", ENCODED),
        ("http://a%3Ab:canary@proxy:3128", "proxy: a login is a user without a colon, and a password: "),
        ("http://:canary@proxy:3128", "proxy: a login is a user without a colon, and a password: "),
        ("http://127.0.0.1:8080", "this proxy is the server's own address '127.0.0.1:8080': "),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told(text: str, message: str, tmp_path: Path) -> None:
    table = f"version: 1\nroutes:\n  a:\n    upstream: https://p.test/v1\n    proxy: '{text}'\n"
    (problem,) = load_text(table, tmp_path).problems

    assert (problem.line, problem.level) == (5, "error")
    assert problem.message.startswith(message)
    assert "ary" not in problem.message


def test_a_proxy_is_an_endpoint_with_or_without_a_login() -> None:
    assert parse_proxy("http://proxy:3128") == Upstream("http", "proxy", 3128)
    assert parse_proxy("HTTP://me:p%40ss@[::1]:1/") == Upstream("http", "::1", 1)


@pytest.mark.parametrize(
    ("route", "at", "message"),
    [
        (
            "upstream: demo, proxy: http://p:1",
            "http://p:1",
            "the demo is embedded: no proxy is on the way to it",
        ),
        (
            "upstream: https://p.test/v1, proxy: http://me:canary@p:1",
            "http://me",
            'the password of this proxy stands in the file: write "${NAME}" and set it in the environment',
        ),
        (
            "upstream: http://p.test/v1, tls: {verify: false}",
            "tls:",
            "the route 'a' has tls, but its upstream is not https://: nothing is verified",
        ),
        (
            "upstream: demo, tls: {}",
            "tls:",
            "the route 'a' has tls, but its upstream is not https://: nothing is verified",
        ),
        (
            "upstream: https://p.test/v1, tls: {verify: false}",
            "false",
            "the route 'a' sends keys and prompts to whoever answers: verify is false",
        ),
    ],
)
def test_what_an_operator_may_not_mean_is_a_warning(
    route: str, at: str, message: str, tmp_path: Path
) -> None:
    line = f"  a: {{{route}}}"
    loaded = load_text(f"version: 1\nroutes:\n{line}\n", tmp_path)
    ((number, column, said),) = told(loaded)

    assert loaded.ok
    assert (number, said) == (3, message)
    assert line[column - 1 :].startswith(at)


def test_a_proxy_from_the_environment_may_hold_its_password_and_may_be_empty(tmp_path: Path) -> None:
    table = (
        'version: 1\nroutes:\n  a: {upstream: "https://p.test/v1", proxy: "${P}"}\n'
        '  b: {upstream: "https://p.test/v1", proxy: "${NONE:-}"}\n'
    )
    loaded = load_text(table, tmp_path, {"P": "http://me:canary@p:1"})

    assert told(loaded) == []
    assert loaded.table is not None
    assert loaded.table.routes["b"].proxy is None


def test_trusting_somebody_and_everybody_is_an_error(tmp_path: Path) -> None:
    table = "version: 1\nroutes:\n  a: {upstream: https://p.test/v1, tls: {ca: x.crt, verify: false}}\n"

    assert told(load_text(table, tmp_path)) == [
        (3, 61, "ca says whom to trust, and verify: false to trust everybody: leave out one")
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_files_that_cannot_be_used_are_told_where_they_are_named(tmp_path: Path) -> None:
    own, other = self_signed(tmp_path), self_signed(tmp_path, "other")
    locked = self_signed(tmp_path, "locked", passphrase="open sesame")
    (tmp_path / "junk").write_text("nothing\n")
    own.key.chmod(0o600)
    pairs = {
        (own.cert, other.key, None): "is the key of another certificate",
        (locked.cert, locked.key, None): "holds no key in PEM without a passphrase",
        (own.cert, "junk", None): "holds no key in PEM without a passphrase",
        ("junk", own.key, None): "holds no certificate in PEM (BEGIN CERTIFICATE)",
        ("none", own.key, None): "cannot be read: No such file or directory",
        (tmp_path, own.key, None): "cannot be read: it is not a regular file",
        (own.cert, own.key, "junk"): "holds no certificates: write a file of them in PEM (BEGIN CERTIFICATE)",
        (own.cert, own.key, own.cert): None,
        (own.cert.name, own.key.name, None): None,
    }
    path = tmp_path / "routes.yaml"
    for (cert, key, client_ca), message in pairs.items():
        files = f"cert: {cert}, key: {key}" + (f", client_ca: {client_ca}" if client_ca else "")
        path.write_text(f"version: 1\nserver:\n  tls: {{{files}}}\nroutes:\n  demo: {{upstream: demo}}\n")
        problems = load(path, CATALOG, environ={}, files=Files(path.parent)).problems
        assert load(path, CATALOG, environ={}).problems == ()
        if message is None:
            assert problems == ()
        else:
            (problem,) = problems
            assert problem.message.endswith(message)
            assert (problem.line, problem.code) == (3, "certificate")


def test_the_authority_of_a_route_is_looked_at_beside_the_table(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("version: 1\nroutes:\n  a: {upstream: https://p.test/v1, tls: {ca: ca.crt}}\n")
    (problem,) = load(path, CATALOG, environ={}, files=Files(path.parent)).problems

    assert problem.message == f"{str(tmp_path / 'ca.crt')!r} cannot be read: No such file or directory"
    assert (problem.line, problem.column) == (3, 46)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_at_its_end_and_a_key_for_everybody_are_told(tmp_path: Path) -> None:
    own = self_signed(tmp_path)
    own.key.chmod(0o640)
    path = tmp_path / "routes.yaml"
    files = f"cert: {own.cert.name}, key: {own.key.name}"
    path.write_text(f"version: 1\nserver:\n  tls: {{{files}}}\nroutes:\n  demo: {{upstream: demo}}\n")

    def problems() -> list[tuple[int, int, str, str, str]]:
        found = load(path, CATALOG, environ={}, files=Files(path.parent)).problems
        return [(p.line, p.column, p.level, p.code, p.message) for p in found]

    def day(days: int) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(own.cert.stat().st_mtime + days * 86400))

    assert problems() == []
    ending_in(own, 29)
    message = f"{str(own.cert)!r} expires on {day(29)}: renew it"
    assert problems() == [(3, 15, "warning", "certificate-expiring", message)]
    ending_in(own, 31)
    assert problems() == []
    ending_in(own, -1)
    message = f"{str(own.cert)!r} has expired, on {day(-1)}: clients refuse it: renew it"
    assert problems() == [(3, 15, "warning", "certificate-expired", message)]
    ending_in(own, 90)
    own.key.chmod(0o644)
    message = (
        f"everybody on this machine can read {str(own.key)!r}: chmod 600, or 640 with a group of its own"
    )
    assert problems() == [(3, 35, "warning", "tls-key-mode", message)]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_that_is_not_valid_yet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = self_signed(tmp_path)
    begins, _ = validity_of(ListenerTls(cert=own.cert.name, key=own.key.name), Files(tmp_path)) or (0.0, 0.0)
    path = tmp_path / "routes.yaml"
    files = f"cert: {own.cert.name}, key: {own.key.name}"
    path.write_text(f"version: 1\nserver:\n  tls: {{{files}}}\nroutes:\n  demo: {{upstream: demo}}\n")
    monkeypatch.setattr(time, "time", lambda: begins - 60)
    (problem,) = load(path, CATALOG, environ={}, files=Files(path.parent)).problems

    assert problem.code == "certificate-not-yet-valid"
    assert problem.message.endswith("on only: clients refuse it until then")
