"""The rules about who can reach what: listeners that others than this machine's users come to, and keys on
their way to a provider.

Told by the text of addresses alone: a name that is not known to stay in its own network is taken for one
that does not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from config.addresses import Address, is_of_this_machine
from config.report import Place
from config.secrets import KeySource, Secret, SecretError, SecretStore
from config.site import Site
from config.wording import quoted

# RFC 6762, RFC 6761, RFC 8375 and what clusters and routers call their own.
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".intranet", ".corp", ".svc")
_SHARED = ipaddress.ip_network("100.64.0.0/10")


class _Sent(NamedTuple):
    """A key that goes to a host; two of them that have one of their `marks` in common are the same."""

    route: str
    host: str
    place: Place
    marks: tuple[object, ...]


def judge_exposure(site: Site) -> None:
    """Warn of what strangers may reach, and of keys that others may read."""
    for place, address in site.addresses():
        if _is_open(site, address):
            if place == ("server", "admin"):
                _admin(site, place, address)
            elif _is_spendable(site) and not _is_guarded(site):
                _listener(site, place, address)
    for name in site.routes:
        _cleartext(site, name)
    _shared_keys(site)


def _is_open(site: Site, address: Address) -> bool:
    """May other machines connect, without a certificate of their own?"""
    if address.kind not in {"tcp", "tls"} or is_of_this_machine(address.host):
        return False
    tls = site.table.server.tls
    return not (address.kind == "tls" and tls is not None and tls.client_ca is not None)


def _admin(site: Site, place: Place, address: Address) -> None:
    message = (
        f"other machines can reach {site.report.shown(place, str(address))}, which is for operators alone: "
        "write 127.0.0.1:8081, or unix:/run/tidegate/admin.sock"
    )
    site.report.warn_at(place, "public-admin", message)


def _listener(site: Site, place: Place, address: Address) -> None:
    advice = "add client_keys, or listen on 127.0.0.1"
    message = (
        f"whoever reaches {site.report.shown(place, str(address))} from another machine uses your providers: "
        f"{advice}"
    )
    site.report.warn_at(place, "public-listener", message)


def _is_spendable(site: Site) -> bool:
    """Is there a route that costs something of the operator's? Not the demo, nor a client's own key."""
    for name, route in site.routes.items():
        own = [option.values for option in site.options(name) if option.name == "key"]
        brought = own and all(getattr(values, "pass_", False) for values in own)
        if route.upstream != "demo" and not brought:
            return True
    return False


def _is_guarded(site: Site) -> bool:
    """Does something ask who a client is? What others have made may do so too."""
    return any(_asks(site, use.name) for use in site.table.middlewares) or all(
        any(_asks(site, use.name) for use in route.middlewares) for route in site.routes.values()
    )


def _asks(site: Site, name: str) -> bool:
    return name == "client_keys" or name not in site.catalog.entries


def _cleartext(site: Site, name: str) -> None:
    upstream = site.upstream(name)
    if upstream is None or upstream.scheme != "http" or is_private(upstream.host):
        return
    if any(option.name == "key" for option in site.options(name)):
        place: Place = ("routes", name, "upstream")
        shown = site.report.shown(place, f"http://{upstream.host}")
        message = f"everybody on the way to {shown} can read this route's key: write https://"
        site.report.warn_at(place, "cleartext-key", message)


def is_private(host: str) -> bool:
    """Does a host stay in a network of one's own, as far as its text tells?"""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(_PRIVATE_SUFFIXES)
    return address.is_private or address in _SHARED


def _shared_keys(site: Site) -> None:
    """One key for two providers is most often a line that was copied and not edited."""
    first: dict[object, _Sent] = {}
    for sent in _keys(site):
        for mark in sent.marks:
            before = first.setdefault(mark, sent)
            if _owner(before.host) != _owner(sent.host):
                line = site.report.mark(before.place).line
                message = (
                    f"this key goes to another provider too, by the route {quoted(before.route)} "
                    f"on line {line}: give each its own"
                )
                site.report.warn_at(sent.place, "shared-key", message)
                break


def _keys(site: Site) -> Iterator[_Sent]:
    for name in site.routes:
        upstream = site.upstream(name)
        if upstream is None or is_private(upstream.host):
            continue
        for option in site.options(name):
            if option.name != "key" or getattr(option.values, "pass_", False):
                continue
            named = {field: getattr(option.values, field, None) for field in ("env", "credential", "file")}
            # The first alone: of a file each variable may have a line of its own.
            field = next((field for field, value in named.items() if value), None)
            if field is not None:
                marks: list[object] = [(field, named[field])]
                if site.secrets is not None:
                    marks += _found(site.secrets, KeySource(**named))
                yield _Sent(name, upstream.host, (*option.place, field), tuple(marks))


def _found(secrets: SecretStore, source: KeySource) -> list[Secret]:
    try:
        return [secrets.resolve(source)]
    except SecretError:
        return []  # told by the review of the key


def _owner(host: str) -> str:
    """Whose host it is: its last two labels, so that two hosts of one provider count as one."""
    return ".".join(host.rstrip(".").lower().split(".")[-2:]) if not _is_number(host) else host


def _is_number(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
