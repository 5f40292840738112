"""Listener addresses: `host:port`, `[::1]:8080`, `https://…`, `unix:/path?mode=0660&group=g`, `systemd`.

Text and comparison only; nothing is resolved and no socket is opened.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.suggestions import hint
from config.wording import quoted

_MAX_PORT = 65535
_MAX_HOST = 80
_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost"})
# sun_path holds 108 bytes, the closing NUL included (unix(7)).
_MAX_UNIX_PATH = 107
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_MODE = re.compile(r"0?[0-7]{3}")

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(Struct, frozen=True, kw_only=True):
    """Where to listen. `path`, `mode` and `group` belong to `unix`, `host` and `port` to the others.

    An IPv6 `host` has no brackets. `port` 0 means any free one.
    """

    kind: Literal["tcp", "tls", "unix", "systemd"]
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int | None = None
    group: str | None = None

    def __str__(self) -> str:
        """The address as it is written in the table."""
        if self.kind == "systemd":
            return "systemd"
        if self.kind == "unix":
            return f"unix:{self.path}{self._query()}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https://' if self.kind == 'tls' else ''}{host}:{self.port}"

    def _query(self) -> str:
        mode = [] if self.mode is None else [f"mode={self.mode:04o}"]
        group = [] if self.group is None else [f"group={self.group}"]
        return "?" + "&".join(mode + group) if mode or group else ""


Listen = Annotated[
    Address,
    Meta(
        extra={"reads": "address"},
        extra_json_schema={
            "type": "string",
            "examples": [
                "127.0.0.1:8080",
                "[::1]:8080",
                "https://0.0.0.0:8443",
                "unix:/run/tidegate.sock?mode=0660",
            ],
        },
    ),
]


def parse_address(text: str) -> Address:
    """An address from its text; raises ValueError saying what to write."""
    if text == "systemd":
        return Address(kind="systemd")
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() == "unix":
        return _unix(rest)
    if "@" in text:
        # Before anything that repeats a part of the text: there may be a password in it.
        raise ValueError("a listener has no user: write host:port")
    if rest.startswith("//"):
        if scheme.lower() == "https":
            return _tcp("tls", rest[2:], "https://")
        if scheme.lower() == "http":
            raise ValueError(f"a listener without TLS has no scheme: write {_host_and_port(rest[2:])}")
        kind = quoted(f"{scheme}://")
        raise ValueError(f"there is no listener of the kind {kind}: write host:port, https:// or unix:")
    return _tcp("tcp", text, "")


def same_endpoint(host: str, port: int, address: Address) -> bool:
    """Would a connection to `host` and `port` from this machine reach a listener at `address`?

    Addresses are compared exactly, and `localhost` is 127.0.0.1 and ::1. A listener on the unspecified
    address takes what is sent to any loopback address and to this machine's name.
    """
    if address.kind not in {"tcp", "tls"} or not address.port or address.port != port:
        return False
    wanted, own = _bare(host), _bare(address.host)
    if wanted == own or _reached(wanted) & _reached(own):
        return True
    return _is_unspecified(own) and (_is_loopback(wanted) or wanted == _this_machine())


def same_listener(one: Address, other: Address) -> bool:
    """Could only one of the two be opened? Port 0 is any free one."""
    if "unix" in {one.kind, other.kind}:
        return one.kind == other.kind and one.path == other.path
    if not one.port or one.port != other.port:
        return False
    left, right = _bare(one.host), _bare(other.host)
    if left == right or _ips(left) & _ips(right):
        return True
    mine, theirs = _ip(left), _ip(right)
    same_family = mine is not None and theirs is not None and mine.version == theirs.version
    return same_family and (_is_unspecified(left) or _is_unspecified(right))


def is_of_this_machine(host: str) -> bool:
    """Can only this machine connect to a listener on `host`? Of other names than localhost nobody knows."""
    address = _ip(_bare(host))
    return _bare(host) in _LOCAL_NAMES if address is None else address.is_loopback


def _unix(rest: str) -> Address:
    path, _, query = rest.partition("?")
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError("a unix address is unix: and an absolute path: write unix:/run/tidegate.sock")
    if path.endswith("/"):
        raise ValueError("the path of a unix address ends in a file name: write unix:/run/tidegate.sock")
    if len(path.encode()) > _MAX_UNIX_PATH or "\0" in path:
        raise ValueError(f"a unix address has a path of at most {_MAX_UNIX_PATH} bytes")
    mode: int | None = None
    group: str | None = None
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name == "mode":
            mode = _mode(value)
        elif name == "group" and value:
            group = value
        elif name == "group":
            raise ValueError("group has no value: write group=www-data")
        else:
            near = hint(name, ("mode", "group")) or ": it has mode and group"
            raise ValueError(f"unknown unix option {quoted(name)}{near}")
    return Address(kind="unix", path=path, mode=mode, group=group)


def _mode(text: str) -> int:
    if _MODE.fullmatch(text) is None:
        raise ValueError("mode is three octal digits with a leading 0: write mode=0660")
    return int(text, 8)


def _tcp(kind: Literal["tcp", "tls"], text: str, scheme: str) -> Address:
    if "/" in text or "?" in text or "#" in text:
        raise ValueError(f"a listener has no path: write {scheme}host:port")
    host, port = _split(text, scheme)
    return Address(kind=kind, host=host, port=_port(port, f"{scheme}{_bracketed(host)}"))


def _split(text: str, scheme: str) -> tuple[str, str]:
    """Host and port as text, the host judged."""
    if text.startswith("["):
        inside, closed, after = text[1:].partition("]")
        if not closed or _ip(inside) is None or ":" not in inside:
            raise ValueError(f"between brackets stands an IPv6 address: write {scheme}[::1]:8080")
        if not after.startswith(":"):
            raise ValueError(f"the port is missing: write {scheme}[{inside}]:8080")
        return inside, after[1:]
    host, colon, port = text.rpartition(":")
    if ":" in host:
        shown = (
            f"[{host}]:{port}"
            if _ip(host) and _is_port(port)
            else f"[{text}]:8080"
            if _ip(text)
            else "[::1]:8080"
        )
        raise ValueError(f"an IPv6 address stands in brackets: write {scheme}{shown}")
    if not colon:
        shown = f"127.0.0.1:{text}" if _is_port(text) else f"{_fit_host(text)}:8080"
        raise ValueError(f"an address is host:port: write {scheme}{shown}")
    free = port if _is_port(port) else "8080"
    if host in {"", "*"}:
        raise ValueError(f"the host is missing: write {scheme}127.0.0.1:{free}, or 0.0.0.0:{free} for all")
    if _HOST_NAME.fullmatch(host) is None:
        raise ValueError(f"{quoted(host)} is no host name: write {scheme}127.0.0.1:{free}")
    if not host.strip("0123456789.") and _ip(host) is None:
        raise ValueError(f"{quoted(host)} is no IPv4 address: write {scheme}127.0.0.1:{free}")
    return host, port


def _port(text: str, before: str) -> int:
    if not _is_port(text):
        raise ValueError(f"a port is a number from 0 to {_MAX_PORT}: write {before}:8080")
    return int(text)


def _is_port(text: str) -> bool:
    # More digits than a port has would make int() work for nothing.
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT))
    return digits and int(text) <= _MAX_PORT


def _host_and_port(text: str) -> str:
    """What a message may repeat of a listener with a scheme too many."""
    host, _, port = text.partition("/")[0].rpartition(":")
    return f"{_fit_host(host)}:{port if _is_port(port) else 8080}"


def _fit_host(text: str) -> str:
    return text if _HOST_NAME.fullmatch(text) and len(text) <= _MAX_HOST else "127.0.0.1"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bare(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _ip(host: str) -> _IP | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _ips(host: str) -> frozenset[_IP]:
    if host in _LOCAL_NAMES:
        return frozenset({ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")})
    address = _ip(host)
    return frozenset() if address is None else frozenset({address})


def _reached(host: str) -> frozenset[_IP]:
    """The addresses that a connection to `host` arrives at: 0.0.0.0 and :: lead to this machine."""
    address = _ip(host)
    if address is not None and address.is_unspecified:
        return _ips("127.0.0.1" if address.version == 4 else "::1") | {address}
    return _ips(host)


def _is_loopback(host: str) -> bool:
    return any(address.is_loopback for address in _reached(host))


def _is_unspecified(host: str) -> bool:
    address = _ip(host)
    return address is not None and address.is_unspecified


def _this_machine() -> str:
    return socket.gethostname().lower()
