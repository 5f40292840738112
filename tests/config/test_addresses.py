from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.addresses import Address, parse_address, same_endpoint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address(kind="tcp", host="127.0.0.1", port=8080)),
        ("localhost:0", Address(kind="tcp", host="localhost", port=0)),
        ("[::1]:8080", Address(kind="tcp", host="::1", port=8080)),
        ("https://0.0.0.0:8443", Address(kind="tls", host="0.0.0.0", port=8443)),
        ("https://[::]:443", Address(kind="tls", host="::", port=443)),
        ("unix:/run/a.sock", Address(kind="unix", path="/run/a.sock")),
        (
            "unix:/run/a.sock?mode=0660&group=www-data",
            Address(kind="unix", path="/run/a.sock", mode=0o660, group="www-data"),
        ),
        ("systemd", Address(kind="systemd")),
    ],
)
def test_an_address_is_read_and_written_the_same(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "an address is host:port: write 127.0.0.1:8080"),
        ("", "an address is host:port: write 127.0.0.1:8080"),
        ("localhost", "an address is host:port: write localhost:8080"),
        (":8080", "the host is missing: write 127.0.0.1:8080, or 0.0.0.0:8080 for all"),
        ("*:80", "the host is missing: write 127.0.0.1:80, or 0.0.0.0:80 for all"),
        ("::1:8080", "an IPv6 address stands in brackets: write [::1]:8080"),
        ("2001:db8::1", "an IPv6 address stands in brackets: write [2001:db8::1]:8080"),
        ("[::1]", "the port is missing: write [::1]:8080"),
        ("[1.2.3.4]:80", "between brackets stands an IPv6 address: write [::1]:8080"),
        ("a:99999", "a port is a number from 0 to 65535: write a:8080"),
        ("a:http", "a port is a number from 0 to 65535: write a:8080"),
        ("a:٣", "a port is a number from 0 to 65535: write a:8080"),
        ("1.2.3:80", "'1.2.3' is no IPv4 address: write 127.0.0.1:80"),
        ("a b:80", "'a b' is no host name: write 127.0.0.1:80"),
        ("a:80/v1", "a listener has no path: write host:port"),
        ("https://a:80/v1", "a listener has no path: write https://host:port"),
        ("me@a:80", "a listener has no user: write host:port"),
        ("http://a:80/", "a listener without TLS has no scheme: write a:80"),
        ("tcp://a:80", "there is no listener of the kind 'tcp://': write host:port, https:// or unix:"),
        ("unix:a.sock", "a unix address is unix: and an absolute path: write unix:/run/tidegate.sock"),
        ("unix://a", "a unix address is unix: and an absolute path: write unix:/run/tidegate.sock"),
        ("unix:/run/", "the path of a unix address ends in a file name: write unix:/run/tidegate.sock"),
        ("unix:/" + "a" * 107, "a unix address has a path of at most 107 bytes"),
        ("unix:/a?mode=66", "mode is three octal digits with a leading 0: write mode=0660"),
        ("unix:/a?mode=0888", "mode is three octal digits with a leading 0: write mode=0660"),
        ("unix:/a?group=", "group has no value: write group=www-data"),
        ("unix:/a?mod=0660", "unknown unix option 'mod', did you mean 'mode'?"),
        ("unix:/a?x=1", "unknown unix option 'x': it has mode and group"),
    ],
)
def test_a_wrong_address_tells_what_to_write(text, message):
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert str(caught.value) == message


@given(st.text(alphabet="abc:/[].?&=0189@unixhtps ", max_size=30))
def test_any_text_is_an_address_or_told_and_what_is_read_can_be_written(text):
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("host", "port", "listener"),
    [
        ("127.0.0.1", 8080, "127.0.0.1:8080"),
        ("LOCALHOST", 8080, "127.0.0.1:8080"),
        ("localhost.", 8080, "127.0.0.1:8080"),
        ("::1", 8080, "localhost:8080"),
        ("localhost", 8080, "[::1]:8080"),
        ("ip6-localhost", 8080, "[::1]:8080"),
        ("127.9.9.9", 8080, "0.0.0.0:8080"),
        ("127.9.9.9", 8080, "127.9.9.9:8080"),
        ("::", 8080, "[::1]:8080"),
        ("[::1]", 8080, "[::1]:8080"),
        ("::ffff:127.0.0.1", 8080, "127.0.0.1:8080"),
        ("0.0.0.0", 8080, "127.0.0.1:8080"),
        ("127.0.0.1", 8080, "0.0.0.0:8080"),
        ("::1", 8080, "[::]:8080"),
        ("localhost", 443, "https://0.0.0.0:443"),
        (socket.gethostname().upper(), 8080, "0.0.0.0:8080"),
        ("example.org", 8080, "Example.org:8080"),
        ("10.0.0.5", 8080, "10.0.0.5:8080"),
    ],
)
def test_an_own_address_is_recognised(host, port, listener):
    assert same_endpoint(host, port, parse_address(listener))


@pytest.mark.parametrize(
    ("host", "port", "listener"),
    [
        ("127.0.0.1", 8081, "127.0.0.1:8080"),
        ("example.org", 8080, "0.0.0.0:8080"),
        ("10.0.0.5", 8080, "127.0.0.1:8080"),
        ("127.0.0.1", 8080, "10.0.0.5:8080"),
        ("127.0.0.1", 0, "127.0.0.1:0"),
        ("127.9.9.9", 8080, "localhost:8080"),
        ("127.0.0.2", 8080, "127.0.0.1:8080"),
        ("::1", 8080, "127.0.0.1:8080"),
        ("app.localhost", 8080, "127.0.0.1:8080"),
        ("127.0.0.1", 80, "unix:/run/a.sock"),
        ("127.0.0.1", 0, "systemd"),
    ],
)
def test_another_address_is_not_taken_for_an_own_one(host, port, listener):
    assert not same_endpoint(host, port, parse_address(listener))
