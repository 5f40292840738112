"""The way to one provider: its base URL, whom TLS trusts, and an HTTP proxy, decided once at load."""

from __future__ import annotations

from ssl import SSLContext
from typing import NamedTuple

from aiohttp import BasicAuth
from yarl import URL

from config.certificates import upstream_context
from config.files import Files
from config.schema import Route


class Way(NamedTuple):
    """`base` ends without a slash. `ssl` True is the machine's own trust; `login` is the proxy's."""

    base: str
    ssl: SSLContext | bool = True
    proxy: URL | None = None
    login: BasicAuth | None = None

    @property
    def by_proxy(self) -> bool:
        """Whether a proxy reads the request itself, and not only its address."""
        return self.proxy is not None and not self.base.lower().startswith("https:")


def base_of(upstream: str) -> str:
    """What a request's path is put behind."""
    return upstream.rstrip("/")


def way_to(route: Route, files: Files) -> Way:
    """The way that a route describes. Raises UnusableCertificate."""
    way = Way(base_of(route.upstream))
    if route.tls is not None:
        way = way._replace(ssl=upstream_context(route.tls, files))
    if route.proxy is not None:
        proxy = URL(route.proxy)
        login = BasicAuth(proxy.user or "", proxy.password or "", "utf-8") if proxy.user else None
        way = way._replace(proxy=proxy.with_user(None), login=login)
    return way
