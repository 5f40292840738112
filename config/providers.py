"""What is known of some providers: where their APIs begin, whose keys begin how, who admits whom.

Data, not policy: a host that is not listed here is never judged.
"""

from __future__ import annotations

from msgspec import Struct


class Provider(Struct, frozen=True, kw_only=True):
    """`base` is the path that its OpenAI-compatible API begins with.

    `prefix` begins this provider's keys and nobody else's; `exclusive`: and all of its keys.
    """

    host: str
    base: str = "/v1"
    prefix: str | None = None
    exclusive: bool = False
    gate: str | None = None


PROVIDERS = (
    Provider(
        host="api.kimi.com",
        base="/coding/v1",
        prefix="sk-kimi-",
        exclusive=True,
        gate=(
            "Kimi's coding endpoint answers known coding agents only, and its documentation treats "
            "tampering with the client identifier (User-Agent) as a violation that may lead to "
            "suspension of the membership (https://www.kimi.com/code/docs)"
        ),
    ),
    Provider(host="api.moonshot.ai"),
    Provider(host="api.moonshot.cn"),
    Provider(host="openrouter.ai", base="/api/v1", prefix="sk-or-"),
    Provider(host="ollama.com"),
    Provider(host="api.openai.com"),
    Provider(host="api.anthropic.com", prefix="sk-ant-"),
)


def key_fits(prefix_or_key: str, host: str) -> str | None:
    """None when the key, or the `expect` prefix, can belong to `host`; else what is wrong.

    The message names prefixes and hosts, never the key. Unknown hosts take any key.
    """
    here = _provider(host)
    if here is None:
        return None
    for owner in PROVIDERS:
        if owner.prefix and owner.host != here.host and prefix_or_key.startswith(owner.prefix):
            return f"a key that begins with {owner.prefix} belongs to {owner.host}, not to {here.host}"
    if not (here.exclusive and here.prefix) or prefix_or_key.startswith(here.prefix):
        return None
    if here.prefix.startswith(prefix_or_key):
        return None
    return f"keys for {here.host} begin with {here.prefix}, and this one does not"


def gate_of(host: str) -> str | None:
    """A sentence on the provider's terms when `host` admits only certain clients, else None."""
    provider = _provider(host)
    return provider.gate if provider else None


def base_of(host: str) -> str | None:
    """The path that the API of a known host begins with, else None."""
    provider = _provider(host)
    return provider.base if provider else None


def _provider(host: str) -> Provider | None:
    wanted = host.lower().rstrip(".")
    return next((provider for provider in PROVIDERS if provider.host == wanted), None)
