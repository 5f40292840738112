"""`headers`: edits of the request's headers, of the answer's, and the User-Agent.

The client's own User-Agent passes by default, so that a real coding agent stays what it is. A fixed
one is the operator's decision, recorded in the table: some providers treat a changed client identifier
as a violation of their terms (see `config.providers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from multidict import CIMultiDict

from config.catalog import Scene
from config.field_names import objection
from config.problems import Finding, Invalid
from config.providers import gate_of
from middlewares.exchange import Deps, Exchange, Handler, Reply

_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ADVICE = "let the client's own pass (user_agent: pass), or record your decision with accept_risk: TEXT"


class ResponseOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edits of the answer's headers: first `remove`, then `set`."""

    set: dict[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.set, "set")
        _check_names(enumerate(self.remove), "remove")


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edits of the request's headers: first `remove`, then `default` (only if absent), then `set`.

    `user_agent` is `pass` (the client's own, or none), `own` (tidegate and its version) or a text.
    `accept_risk` records why a fixed text is sent to a host that admits only certain clients.
    """

    set: dict[str, str] = field(default_factory=dict)
    default: dict[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    response: ResponseOptions = field(default_factory=ResponseOptions)
    user_agent: str = "pass"
    accept_risk: str | None = None

    def __post_init__(self) -> None:
        _check(self.set, "set")
        _check(self.default, "default")
        _check_names(enumerate(self.remove), "remove")
        if not self.user_agent.strip() or _UNFIT.search(self.user_agent):
            raise Invalid("user_agent is 'pass', 'own' or a printable text", "user_agent")

    @property
    def fixed_user_agent(self) -> bool:
        """Whether every client is made to look the same to the upstream."""
        named = {name.lower() for name in (*self.set, *self.default)}
        return self.user_agent not in ("pass", "own") or "user-agent" in named

    def review(self, scene: Scene) -> Iterator[Finding]:
        """Warn about a fixed User-Agent where the provider's terms speak of it."""
        gate = gate_of(scene.host)
        if gate is not None and self.fixed_user_agent and not (self.accept_risk or "").strip():
            yield Finding(
                "warning",
                "fixed-user-agent",
                f"a fixed User-Agent is sent here: {gate}; {_ADVICE}",
                "user_agent",
                f"a fixed User-Agent is sent to {scene.host}: {gate}; {_ADVICE}",
            )


def _check(headers: dict[str, str], option: str) -> None:
    _check_names(((name, name) for name in headers), option)
    for name, value in headers.items():
        if _UNFIT.search(value):
            raise Invalid("the value holds control characters", option, name)
    first: dict[str, str] = {}
    for name in headers:
        if first.setdefault(name.lower(), name) != name:
            raise Invalid("this header stands here already: case makes no difference", option, name)


def _check_names(names: Iterable[tuple[str | int, str]], option: str) -> None:
    for place, name in names:
        if wrong := objection(name):
            raise Invalid(wrong, option, place)


class Headers:
    """Edits that were read once, applied to each exchange."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._remove = options.remove
        self._default = tuple(options.default.items())
        self._set = tuple(options.set.items())
        self._response_remove = options.response.remove
        self._response_set = tuple(options.response.set.items())
        agent = options.user_agent
        if agent != "pass":
            self._set = (*self._set, ("User-Agent", deps.own_agent if agent == "own" else agent))

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Edit the request's headers, pass on, edit the answer's."""
        _edit(exchange.headers, self._remove, self._default, self._set)
        reply = await call_next(exchange)
        _edit(reply.headers, self._response_remove, (), self._response_set)
        return reply


Pairs = tuple[tuple[str, str], ...]


def _edit(headers: CIMultiDict[str], remove: tuple[str, ...], default: Pairs, put: Pairs) -> None:
    for name in remove:
        headers.popall(name, None)
    for name, value in default:
        headers.setdefault(name, value)
    for name, value in put:
        headers[name] = value
