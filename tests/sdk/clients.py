"""The SDKs as a user has them, but for what they sent, which is kept to be compared with what arrived."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import openai

from tests.support.wire import Seen

CLIENT_KEY = "the-clients-own-key"

# No proxy that the machine may have; and no certificates to load, which takes longer than most tests.
OVER_LOOPBACK: dict[str, Any] = {"trust_env": False, "verify": False}
_PATIENCE_S = 20.0

# What a proxy may change: where the connection goes, how a body is framed, and who pays.
_OURS = frozenset("host connection accept-encoding content-length authorization x-api-key".split())


class Sent(list[Any]):
    """The requests of one client, as its HTTP library sent them."""

    async def note(self, request: Any) -> None:
        self.append(request)


def openai_client(base_url: str, sent: Sent, **options: Any) -> Any:
    """Untyped, since the tests hand it parameters in dicts."""
    http = openai.DefaultAsyncHttpxClient(**OVER_LOOPBACK, event_hooks={"request": [sent.note]})
    options = {"timeout": _PATIENCE_S, **options}
    return openai.AsyncOpenAI(base_url=base_url, api_key=CLIENT_KEY, http_client=http, **options)


def anthropic_client(base_url: str, sent: Sent, **options: Any) -> Any:
    """The same; with an `auth_token` it has no key."""
    http = anthropic.DefaultAsyncHttpxClient(**OVER_LOOPBACK, event_hooks={"request": [sent.note]})
    options = {"timeout": _PATIENCE_S, **options}
    key = None if "auth_token" in options else CLIENT_KEY
    return anthropic.AsyncAnthropic(base_url=base_url, api_key=key, http_client=http, **options)


def passed_on(sent: Sequence[Any], seen: Sequence[Seen]) -> None:
    """Whatever an SDK sent arrived, in its order, with the provider's key in place of the client's.

    Only a JSON body's model may differ, by the name of the route.
    """
    assert len(sent) == len(seen)
    for request, arrived in zip(sent, seen, strict=True):
        assert request.method == arrived.method
        assert _endpoint(request.url.path) == arrived.path
        theirs = (field for field in request.headers.items() if not field[0].startswith("x-tidegate-"))
        assert _kept(theirs) == _kept(arrived.headers)
        assert "-key" in (arrived.header("x-api-key") or arrived.header("authorization") or "")
        assert CLIENT_KEY not in repr(arrived)
        if request.headers.get("content-type") == "application/json" and request.content:
            before, after = json.loads(request.content), arrived.json()
            assert before.pop("model").removesuffix(after.pop("model")) in ("", "up/", "hasty/", "claude/")
            assert before == after


def _endpoint(path: str) -> str:
    """The path without the route in front of it."""
    return path[path.index("/v1/") :]


def _kept(headers: Any) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in _OURS)
