"""Tables as hypothesis makes them up, and what clients ask of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from proxy.explain.question import Question

ROUTES = ("alpha", "beta", "gamma", "down")
MODELS = ("m", "m-large", "org/m", "gpt-4o", "a b", "ü")
NAMES = ("X-Title", "X-Team", "x-other", "User-Agent", "Accept", "OpenAI-Beta")
VALUES = ("one", "two words", "3")


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def some(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of these keys."""
    return st.fixed_dictionaries({}, optional=options)


HEADER_MAPS = st.dictionaries(one_of(*NAMES[:3]), one_of(*VALUES), max_size=2)
HEADERS = some(
    set=HEADER_MAPS,
    default=HEADER_MAPS,
    remove=st.lists(one_of(*NAMES), max_size=2, unique=True),
    user_agent=one_of("pass", "own", "agent/1"),
)
PREFIX = some(
    add=one_of("", "org/"), map=st.dictionaries(one_of(*MODELS), one_of("mapped", "x/y"), max_size=2)
)
FIELDS = st.dictionaries(
    one_of("user", "top_k", "temperature", "max_tokens"), one_of("u", 1, 0.5, True), min_size=1
)
PARAMS = st.one_of(
    st.fixed_dictionaries({"set": FIELDS}),
    st.fixed_dictionaries({"default": FIELDS}),
    st.fixed_dictionaries(
        {"drop": st.just(["top_k"]), "rename": st.just({"max_tokens": "max_completion_tokens"})}
    ),
)
FLOORS = one_of({"min": 1500}, {"cap": 100}, {"min": 10, "when_absent": 64})
KEYS = one_of(
    {"env": "UP_KEY"},
    {"env": "UP_KEY", "header": "X-Acme"},
    {"env": "NOT_SET"},
    {"pass": True},
    [{"env": "NOT_SET", "header": "X-Acme"}, {"env": "OTHER_KEY"}],
    [{"env": "NOT_SET"}, {"env": "NOT_SET_EITHER"}],
)
LINKS: dict[str, st.SearchStrategy[Any]] = {
    "prefix_rewrite": PREFIX,
    "headers": HEADERS,
    "key": KEYS,
    "token_floor": FLOORS,
    "params": PARAMS,
    "usage": some(include_usage=st.booleans()),
    "concurrency": st.just({"limit": 50}),
    "timeout": some(total=st.just("50s"), idle=st.just("40s")),
    "stream": some(commit=one_of("headers", "first_event", "complete")),
}
# Those would have more to say of a provider that fails than a dry run tells.
WITH_STATE: dict[str, st.SearchStrategy[Any]] = {"breaker": st.just({}), "retry": st.just({"attempts": 2})}


@st.composite
def chains(draw: st.DrawFn, names: tuple[str, ...]) -> list[dict[str, Any]]:
    chosen = draw(st.lists(one_of(*names), max_size=5, unique=True))
    return [{name: draw((LINKS | WITH_STATE)[name])} for name in chosen]


@st.composite
def tables(draw: st.DrawFn, origin: str) -> dict[str, Any]:
    """The routes, names and default of a valid table; `down` is one whose provider never answers well."""
    claims = draw(st.dictionaries(one_of("gpt-*", "org/*", "m", "*"), one_of("alpha", "beta"), max_size=3))
    routes: dict[str, Any] = {}
    for name in ROUTES:
        names = tuple(LINKS) if name == "down" else (*LINKS, *WITH_STATE)
        route: dict[str, Any] = {
            "upstream": f"{origin}/{name}/v1",
            "middlewares": draw(chains(names)),
            "list": [],
        }
        if name == "gamma":
            route["explicit_only"] = True
        if mine := [claim for claim, owner in claims.items() if owner == name]:
            route["serves"] = mine
        routes[name] = route
    targets = st.builds("{}/{}".format, one_of("alpha", "beta", "down"), one_of("m", "org/m", "kimi-k2:1t"))
    ladders = st.lists(targets, min_size=1, max_size=3)
    made: dict[str, Any] = {"routes": routes, "models": draw(some(review=ladders, m2=targets))}
    if (default := draw(one_of(None, "alpha", "down"))) is not None:
        made["default_route"] = default
    top = draw(st.lists(st.fixed_dictionaries({"headers": HEADERS}), max_size=1))
    return made | {"middlewares": top}


PATHS = (
    "/v1/chat/completions",
    "/v1/chat",
    "/alpha/v1/chat/completions",
    "/nobody/v1/chat/completions",
    "/v1/completions?beta=1&key=k",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/down/v1/responses",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/images/generations",
    "/v1/realtime",
    "/gamma/v1/realtime?model=other&x=%20",
    "/v1/files",
    "/beta/v1/files",
    "/v1/models",
    "/gamma/v1/models",
    "/beta/v1/not/yet/invented",
    "/v1//chat",
    "/elsewhere",
)
_FIELDS = some(
    max_tokens=one_of(1, 800, 5000, None, "many"),
    max_completion_tokens=one_of(16),
    stream=st.booleans(),
    top_k=st.integers(0, 9),
    provider=one_of("alpha", "gamma", "nobody", {"order": []}),
    model=one_of("theirs", 3),
    user=st.just("somebody"),
)
BODIES = st.one_of(
    st.none(),
    _FIELDS.map(lambda fields: json.dumps(fields, separators=(", ", " : ")).encode()),
    one_of(b"{", b"[]", b"\x00 no text", b'{"model": "a", "model": "b"}'),
)
ASKED = st.one_of(
    one_of(*MODELS, "review", "m2", "alpha", "alhpa/m", "gamma/m", "", None),
    st.builds("{}/{}".format, one_of(*ROUTES), one_of(*MODELS)),
)
CLIENT_HEADERS = st.dictionaries(
    one_of(*NAMES, "X-Api-Key", "x-tidegate-provider", "X-Forwarded-For", "Connection", "TE"),
    one_of("alpha", "close", "X-Team", "text"),
    max_size=3,
).map(lambda given: tuple(given.items()))


def questions() -> st.SearchStrategy[Question]:
    return st.builds(
        Question,
        model=ASKED,
        path=one_of(*PATHS[:1], *PATHS),
        provider=st.one_of(st.none(), st.none(), one_of(*ROUTES, "nobody", "")),
        method=st.one_of(st.none(), st.none(), one_of("GET", "POST", "PUT", "DELETE", "HEAD")),
        headers=CLIENT_HEADERS,
        body=BODIES,
    )
