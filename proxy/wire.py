"""The rules of headers and paths on the wire, both ways. Pure functions; no sockets.

In: only what the client may say to a provider goes up. Out: only what the provider may say to a
client comes down. Hop-by-hop headers, and those that `Connection` names, cross in neither direction
(RFC 9110, section 7.6.1). A path is taken as it came or refused; it is never normalised, because two
readings of one path are how requests get past a check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus

from multidict import CIMultiDict, CIMultiDictProxy

from middlewares.faults import ClientFault

HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"})
_NEVER_UP = HOP_BY_HOP | CREDENTIALS | {"content-length", "cookie", "cookie2", "expect", "host"}
_NEVER_DOWN = HOP_BY_HOP | {"set-cookie", "set-cookie2", "alt-svc", "strict-transport-security"}
_ADDRESS = re.compile(r"[0-9a-fA-F:.]{2,45}")
_OURS = "x-tidegate-"
_FORWARDED = "x-forwarded-"
_KEY_PROTOCOL = re.compile(r"[\s\"]*openai-insecure-api-key\.([^\"]*).*", re.IGNORECASE)

_SEPARATOR = re.compile(r"([&;])")
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")  # as aiohttp reads it; it would send it on with gaps
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNTRUSTED = re.compile(r"[^\x21-\x7e]|[\\#]|//|%(?:2e|5c|00)", re.IGNORECASE)
_ENCODED_SLASH = re.compile(r"%2f", re.IGNORECASE)
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Target(NamedTuple):
    """Where a request wants to go: `route` is named by the path or None, `path` follows `/v1`."""

    route: str | None
    path: str
    query: str


RawHeaders = Sequence[tuple[bytes, bytes]]
"""The headers as they came, in the same order: aiohttp respells the names that it knows."""


def upward(headers: CIMultiDictProxy[str], raw: RawHeaders) -> tuple[CIMultiDict[str], CIMultiDict[str]]:
    """What of a client's headers goes up, and the credentials that do not.

    Raises ClientFault for two `Authorization` headers: it would be a matter of taste which counts.
    """
    if len(headers.getall("Authorization", ())) > 1:
        raise ClientFault(
            "invalid_request", "Two Authorization headers were sent; send one.", param="authorization"
        )
    named = named_by_connection(headers)
    up: CIMultiDict[str] = CIMultiDict()
    credentials: CIMultiDict[str] = CIMultiDict()
    spelling: dict[str, str] = {}
    for (spelled, _), (known, value) in zip(raw, headers.items(), strict=True):
        name = spelled.decode("utf-8", "surrogateescape")
        lower = known.lower().replace("_", "-")
        if lower in CREDENTIALS:
            if lower != "proxy-authorization":
                credentials[lower] = value
            continue
        if lower in _NEVER_UP or lower.startswith((_OURS, _FORWARDED)) or name.lower() in named:
            continue
        if lower == "sec-websocket-protocol":
            protocols = value.split(",")
            kept = ",".join(p for p in protocols if not _KEY_PROTOCOL.fullmatch(p))
            for found in filter(None, map(_KEY_PROTOCOL.fullmatch, protocols)):
                # A browser cannot set headers on a WebSocket; here is where it puts its key.
                credentials.setdefault("authorization", f"Bearer {found[1].strip()}")
            if not kept.strip():
                continue
        elif _NOT_UTF8.search(value):
            raise ClientFault("invalid_request", f"The header {name} is not UTF-8.", param=name)
        else:
            kept = value
        # One spelling for one name: the HTTP client would take `X-A` and `x-a` for an override.
        up.add(spelling.setdefault(name.lower(), name), kept)
    return up, credentials


def presented(headers: CIMultiDictProxy[str], query: str) -> list[str]:
    """Every key that a request brings, wherever `upward` would take a credential off it."""
    keys: list[str] = []
    for name, value in headers.items():
        lower = name.lower().replace("_", "-")
        if lower == "authorization":
            scheme, _, token = value.strip().partition(" ")
            keys.append(token.strip() if scheme.lower() == "bearer" else value.strip())
        elif lower == "sec-websocket-protocol":
            found = filter(None, map(_KEY_PROTOCOL.fullmatch, value.split(",")))
            keys += [match[1].strip() for match in found]
        elif lower in CREDENTIALS and lower != "proxy-authorization":
            keys.append(value.strip())
    if query:
        pairs = (pair.partition("=") for pair in _SEPARATOR.split(query)[::2])
        keys += [unquote_plus(value) for name, _, value in pairs if unquote(name).lower() == "key"]
    return keys


def upward_query(query: str) -> str:
    """The query without `key=`, which some clients use for a credential; the rest byte for byte."""
    pieces = ["", *_SEPARATOR.split(query)]
    kept = "".join(
        separator + pair
        for separator, pair in zip(pieces[::2], pieces[1::2], strict=True)
        if unquote(pair.partition("=")[0]).lower() != "key"
    )
    return kept if kept[:1] == query[:1] else kept[1:]


def downward(headers: CIMultiDictProxy[str], raw: RawHeaders) -> CIMultiDict[str]:
    """What of an upstream's headers goes to the client.

    A value with a control character is left out: it could end the head that we write.
    """
    named = named_by_connection(headers)
    down: CIMultiDict[str] = CIMultiDict()
    for (spelled, _), (known, value) in zip(raw, headers.items(), strict=True):
        name = spelled.decode("utf-8", "surrogateescape")
        lower = known.lower()
        if lower in _NEVER_DOWN or lower.replace("_", "-").startswith(_OURS) or lower in named:
            continue
        if not _UNFIT.search(value):
            down.add(name, value)
    return down


def named_by_connection(headers: CIMultiDictProxy[str]) -> set[str]:
    """What `Connection` names, in lower case."""
    lines = headers.getall("Connection", ())
    return {name.strip().lower() for line in lines for name in line.split(",")} if lines else set()


def split_target(raw: str) -> tuple[str, str]:
    """Path and query as they came, without the authority of an absolute form, which may hold a password."""
    absolute = _ABSOLUTE.match(raw)
    path, _, query = (raw[absolute.end() :] if absolute else raw).partition("?")
    return path, query


def client_address(peer: str, forwarded: Sequence[str], is_trusted: Callable[[str], bool]) -> str:
    """Who really asks: the rightmost `X-Forwarded-For` entry that is not a trusted proxy's.

    `peer` is the address of the connection, `unix` for a unix socket; `forwarded` are the header's
    lines in order. What is left of an entry that is no address is not believed.
    """
    address = peer
    entries = [entry.strip() for line in forwarded for entry in line.split(",")]
    while is_trusted(address) and entries:
        entry = entries.pop()
        if not _ADDRESS.fullmatch(entry):
            break
        address = entry
    return address


def read_target(method: str, raw: str) -> Target:
    """Split a request target. Raises ClientFault `invalid_request` or `not_found`.

    The absolute form is accepted (RFC 9112, section 3.2.2) and its authority ignored. An encoded slash
    is allowed only in the name of a model that is asked about.
    """
    if method == "TRACE":
        raise ClientFault("invalid_request", "TRACE would show the provider's key to whoever asks.")
    path, query = split_target(raw)
    if not path.startswith("/") or _UNTRUSTED.search(path) or _has_dot_segment(path):
        raise ClientFault("invalid_request", "This path cannot be trusted and is not served.")
    if _ENCODED_SLASH.search(path) and not (method == "GET" and path.startswith("/v1/models/")):
        raise ClientFault("invalid_request", "An encoded slash is not allowed in this path.")
    if _UNTRUSTED_QUERY.search(query):
        raise ClientFault("invalid_request", "This query holds characters that must be encoded.")
    route: str | None = None
    rest = path.removeprefix("/v1/")
    if rest == path:
        name, _, rest = path[1:].partition("/v1/")
        if not name or "/" in name or not rest:
            raise ClientFault(
                "not_found",
                "Nothing is served here: paths begin with /v1/ or /ROUTE/v1/. "
                "Is /v1 missing at the end of the base URL?",
            )
        route = name
    if not rest:
        raise ClientFault("not_found", "Nothing is served here. Name an endpoint after /v1/.")
    return Target(route, "/chat/completions" if rest == "chat" else f"/{rest}", query)


_UNTRUSTED_QUERY = re.compile(r"[^\x21-\x7e]|#")


def _has_dot_segment(path: str) -> bool:
    return any(segment in (".", "..") for segment in path.split("/"))
