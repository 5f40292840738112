"""A route's `upstream` URL, judged without asking the network."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

from config.wording import quoted

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")
_ENDPOINT = re.compile(r"[A-Za-z]+://[A-Za-z0-9.-]+")
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
    if not _is_host(host) or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the host or the port is malformed: write https://host:port/v1")
    return Upstream(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)


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


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None and bool(host.strip("0123456789."))
    return True
