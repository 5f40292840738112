"""Where limits are counted: in each process by itself, or in a Redis that several share.

The URL of a Redis may hold a password: nothing but `shown` is for messages, logs and metrics.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from msgspec import Meta, Struct, field

from config.upstreams import parse_upstream

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_PORT = 6379
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_EXAMPLE = "write memory, redis://host:6379/0, or rediss://user:password@host:6380/0"


class Store(Struct, frozen=True):
    """A place to count in; `url` is empty for the process's own memory. Two are the same by their URL."""

    url: str = field(default="")
    shown: str = field(default="memory")

    def __repr__(self) -> str:
        return f"Store({self.shown})"

    @property
    def written(self) -> str:
        """As a table has it, without the login."""
        return f"{self.url.partition('://')[0]}://{self.shown}" if self.url else "memory"

    @property
    def has_password(self) -> bool:
        """Whether a password stands in the URL."""
        return bool(self.url and urlsplit(self.url).password)


MEMORY = Store()

StoreText = Annotated[
    Store,
    Meta(
        extra={"reads": "store"},
        extra_json_schema={
            "type": "string",
            "pattern": r"^(memory|rediss?://.+|.*\$\{.+)$",
            "examples": ["memory", "redis://127.0.0.1:6379/0", "${REDIS_URL}"],
        },
    ),
]
"""`memory`, or the URL of a Redis: `redis://`, over TLS `rediss://`."""


def parse_store(text: str) -> Store:
    """A store from its text. Raises ValueError saying what to write, without what was written."""
    if text == "memory":
        return MEMORY
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("redis", "rediss"):
        raise ValueError(_EXAMPLE)
    place, _, query = rest.partition("?")
    login, _, place = place.rpartition("@")
    if _VISIBLE.fullmatch(text) is None or any(sign in login for sign in "/#@") or "#" in text:
        raise ValueError(f"the user or the password holds what has to be encoded, as %40 for @: {_EXAMPLE}")
    endpoint, _, database = place.partition("/")
    try:
        host = parse_upstream(f"http://{endpoint}").host
        port = urlsplit(f"redis://{endpoint}").port or _PORT
    except ValueError:
        raise ValueError(f"the host or the port is malformed: {_EXAMPLE}") from None
    if database and not (database.isascii() and database.isdigit() and len(database) < 5):
        raise ValueError(f"after the host stands the number of a database: {_EXAMPLE}")
    _judge_query(scheme, query)
    bracketed = f"[{host}]" if ":" in host else host
    return Store(text, f"{bracketed}:{port}/{int(database or 0)}")


def _judge_query(scheme: str, query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True) if query else ():
        if scheme != "rediss" or name not in _FILES or not value:
            known = " and ".join([", ".join(_FILES[:-1]), _FILES[-1]])
            raise ValueError(f"behind the ? of a rediss:// URL stand {known}, each a file, and nothing else")
