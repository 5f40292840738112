"""A route's `upstream` URL, judged without asking the network."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from config.wording import quoted

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")
_ENDPOINT = re.compile(r"[A-Za-z]+://[A-Za-z0-9.-]+")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+){3}")
_OPERATIONS = ("/chat/completions", "/completions", "/models", "/messages")
_PORTS = {"http": 80, "https": 443}


class Upstream(Struct, frozen=True):
    """`host` in lower case and without brackets; `port` is the scheme's own when the URL has none."""

    scheme: str
    host: str
    port: int


def parse_upstream(text: str) -> Upstream:
    """The endpoint of an upstream; raises ValueError saying what to write, without the URL."""
    # Before urlsplit, which drops tabs and line ends without a word.
    if _VISIBLE.fullmatch(text) is None or "\\" in text:
        raise ValueError("a URL has no white space, backslashes or characters beyond ASCII")
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.lower() not in _PORTS:
        raise ValueError("write a URL that begins with https:// or http://, or demo")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the host or the port is malformed: write https://host:port/v1") from None
    _refuse_extras(text, parts.netloc)
    host = parts.hostname or ""
    if _is_number(host):
        # What connects would read 0x7f.1 or 2130706433 as an address; nobody who reads the table does.
        raise ValueError("a host of numbers is an IPv4 address, four of them: write http://127.0.0.1:8080/v1")
    if not _is_host(host) or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the host or the port is malformed: write https://host:port/v1")
    return Upstream(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)


def parse_proxy(text: str) -> Upstream:
    """The endpoint of a route's HTTP proxy; raises ValueError saying what to write, without the URL.

    It may hold a user and a password, as in http://user:password@proxy:3128.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "http":
        raise ValueError("write the URL of an HTTP proxy, such as http://proxy:3128")
    login, _, endpoint = rest.rpartition("@")
    endpoint = endpoint.removesuffix("/")
    if any(sign in endpoint for sign in "/?#"):
        raise ValueError("a proxy has no path: write http://proxy:3128")
    example = "write http://user:password@proxy:3128"
    if _VISIBLE.fullmatch(text) is None or any(sign in login for sign in "/?#@"):
        raise ValueError(f"the user or the password holds what has to be encoded, as %40 for @: {example}")
    user, _, password = login.partition(":")
    if ":" in unquote(user) or (password and not user):
        raise ValueError(f"a login is a user without a colon, and a password: {example}")
    try:
        return parse_upstream(f"http://{endpoint}")
    except ValueError:
        raise ValueError(f"the host or the port is malformed: {example}") from None


def shown_upstream(text: str) -> str:
    """What a message may show of an upstream, with a space before it; nothing of one with an @ in it."""
    if "@" in text:
        return ""
    if "?" not in text and "#" not in text:
        return f" {quoted(text)}"
    # Keys go into queries: of those, scheme and host are all that is told.
    match = _ENDPOINT.match(text)
    return f" {quoted(match[0])}" if match else ""


def _refuse_extras(text: str, netloc: str) -> None:
    if "@" in netloc:
        raise ValueError("a URL with a user or a password in it: name the key with the middleware 'key'")
    if "?" in text:
        raise ValueError("an upstream has no query: set what it says with a middleware")
    if "#" in text:
        raise ValueError("an upstream has no fragment: leave out the # and what follows")


def surplus_path(text: str) -> str | None:
    """The end of an upstream that names one operation, which requests bring themselves."""
    path = text.rstrip("/")
    return next((end for end in _OPERATIONS if path.endswith(end)), None)


def _is_number(host: str) -> bool:
    last = host.rstrip(".").rpartition(".")[2]
    return _NUMBER.fullmatch(last) is not None and _DOTTED.fullmatch(host) is None and ":" not in host


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True
