"""The request that is explained: as a client of that endpoint would send it, with what the operator gave.

It has the shape of a request of the server's, so that everything behind reads it as it reads a real one.
Nothing is judged here: a body or a header that cannot be served fails where a real one would.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import msgspec
from aiohttp.http import HttpVersion, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from middlewares.envelope import Envelope
from middlewares.faults import ClientFault
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from middlewares.observation import dialect_of
from proxy.wire import RawHeaders, split_target, upward_query

_WITHOUT_BODY = frozenset({"DELETE", "GET", "HEAD", "OPTIONS"})
_FETCHED = frozenset({"batches", "files", "fine_tuning", "models", "uploads", "vector_stores"})
"""What is asked for with GET, unless a body is given: the first word of such paths."""
_FORMS = frozenset({"/audio/transcriptions", "/audio/translations", "/images/edits", "/images/variations"})
_SMALLEST: dict[str, dict[str, object]] = {
    "/audio/speech": {"input": "", "voice": ""},
    "/chat/completions": {"messages": []},
    "/completions": {"prompt": ""},
    "/embeddings": {"input": ""},
    "/images/generations": {"prompt": ""},
    "/messages": {"messages": []},
    "/messages/count_tokens": {"messages": []},
    "/moderations": {"input": ""},
    "/rerank": {"query": "", "documents": []},
    "/responses": {"input": ""},
}
_BOUNDARY = b"tidegate-explain"
_FIRST_LINE = re.compile(rb"--([^\r\n]{1,70})\r\n")
_UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGlkZWdhdGUgZXhwbGFpbg=="),
    ("Sec-WebSocket-Version", "13"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What the operator asks. `headers` stand in place of those of the client that is assumed."""

    model: str | None
    path: str
    provider: str | None = None
    method: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


class Held:
    """A body that is all there."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def readany(self) -> bytes:
        """All of it, then nothing."""
        data, self._data = self._data, b""
        return data


@dataclass(frozen=True, slots=True)
class Thought:
    """A request that nobody has sent. `names_model` tells whether the model found a place in it."""

    method: str
    raw_path: str
    headers: CIMultiDictProxy[str]
    body: bytes | None
    names_model: bool
    version: HttpVersion = HttpVersion11
    transport: None = None

    @property
    def raw_headers(self) -> RawHeaders:
        """The headers as they would stand on the wire."""
        return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in self.lines]

    @property
    def shown(self) -> str:
        """Its first line, without a key in the query."""
        path, query = split_target(self.raw_path)
        kept = upward_query(query)
        return f"{self.method} {path}" + (f"?{kept}" if kept else "")

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The headers in their order and spelling."""
        return list(self.headers.items())

    @property
    def body_exists(self) -> bool:
        """Whether there is a body, be it empty."""
        return self.body is not None

    @property
    def content_length(self) -> int | None:
        """In bytes."""
        return None if self.body is None else len(self.body)

    @property
    def content(self) -> Held:
        """The body, to be read once."""
        return Held(self.body or b"")


@dataclass(frozen=True, slots=True)
class _Draft:
    """A request's parts that depend on its endpoint; `kind` is the body's Content-Type."""

    method: str
    query: str
    kind: str | None = None
    body: bytes | None = None
    names_model: bool = False
    upgrade: bool = False


def compose(question: Question) -> Thought:
    """The request that a client would send."""
    path, query = split_target(question.path)
    rest = path.partition("/v1/")[2]
    endpoint = "/chat/completions" if rest == "chat" else f"/{rest}"
    draft = _way_to_ask(question, endpoint)(question, endpoint, query)
    lines = _clients_own(draft, endpoint)
    given = {name.lower() for name, _ in question.headers}
    lines = [line for line in lines if line[0].lower() not in given] + list(question.headers)
    if question.provider is not None:
        lines.append(("x-tidegate-provider", question.provider))
    return Thought(
        method=draft.method,
        raw_path=path + (f"?{draft.query}" if draft.query else ""),
        headers=CIMultiDictProxy(CIMultiDict(lines)),
        body=draft.body or None,  # nothing is no body, on the wire
        names_model=draft.names_model,
    )


def _way_to_ask(question: Question, endpoint: str) -> Callable[[Question, str, str], _Draft]:
    if question.body is None:
        if endpoint == "/realtime" and question.method in (None, "GET"):
            return _handshake
        method = question.method or ("GET" if endpoint.split("/")[1] in _FETCHED else "POST")
        if method in _WITHOUT_BODY:
            return _bare
    if _given_type(question).startswith("multipart/") or (question.body is None and endpoint in _FORMS):
        return _form
    if question.body is not None and endpoint.startswith(("/audio/", "/images/", "/files")):
        # No JSON begins so, and every form does.
        return _form if _FIRST_LINE.match(question.body) else _json
    return _json


def _bare(question: Question, _endpoint: str, query: str) -> _Draft:
    return _Draft(question.method or "GET", query)


def _handshake(question: Question, _endpoint: str, query: str) -> _Draft:
    if question.model is None:
        return _Draft("GET", query, upgrade=True)
    try:
        asked = Handshake.parse(query)
    except ClientFault:
        return _Draft("GET", query, upgrade=True)
    if asked.model is not None:
        asked.rename(question.model)
        query = asked.query
    else:
        query += "&" * bool(query) + f"model={quote(question.model, safe='/:@,~')}"
    return _Draft("GET", query, names_model=True, upgrade=True)


def _json(question: Question, endpoint: str, query: str) -> _Draft:
    method = question.method or "POST"
    fields = {} if question.model is None else {"model": question.model}
    if question.body is None:
        raw = msgspec.json.encode({**fields, **_SMALLEST.get(endpoint, {})})
        return _Draft(method, query, "application/json", raw, names_model=bool(fields))
    try:
        body = Envelope.parse(question.body)
        if question.model is not None and body.value("model") != question.model:
            body.set("model", question.model)
    except ClientFault:
        # It is refused, or not, where the body of a real request would be.
        kind = "application/json" if endpoint in _SMALLEST else "application/octet-stream"
        return _Draft(method, query, kind, question.body)
    return _Draft(method, query, "application/json", body.encode(), names_model=bool(fields))


def _form(question: Question, _endpoint: str, query: str) -> _Draft:
    method, model, raw = question.method or "POST", question.model, question.body
    kind = _given_type(question)
    if raw is None:
        raw = _part(_BOUNDARY, b'name="file"; filename="a"', b"") + b"--%b--\r\n" % _BOUNDARY
    first = _FIRST_LINE.match(raw)
    if not kind:
        kind = f"multipart/form-data; boundary={(first[1] if first else b'').decode('latin-1')}"
    if model is None:
        return _Draft(method, query, kind, raw)
    try:
        form = Form.parse(raw, kind)
    except ClientFault:
        return _Draft(method, query, kind, raw)
    if form.model is not None:
        form.rename(model)
        return _Draft(method, query, kind, form.encode(), names_model=True)
    if first is None:
        return _Draft(method, query, kind, raw)
    return _Draft(
        method, query, kind, _part(first[1], b'name="model"', model.encode()) + raw, names_model=True
    )


def _part(boundary: bytes, named: bytes, value: bytes) -> bytes:
    return b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, named, value)


def _given_type(question: Question) -> str:
    return next((value for name, value in question.headers if name.lower() == "content-type"), "")


def _clients_own(draft: _Draft, endpoint: str) -> list[tuple[str, str]]:
    """What the SDK of that API sends, as far as it matters on the way."""
    messages = dialect_of(endpoint) == "messages"
    lines = [("Accept", "application/json"), ("Accept-Encoding", "gzip, deflate")]
    if messages:
        lines += [("X-Api-Key", "unused"), ("anthropic-version", "2023-06-01")]
    else:
        lines += [("Authorization", "Bearer unused")]
    if draft.kind is not None:
        lines += [("Content-Type", draft.kind)]
    if draft.upgrade:
        lines = [("Authorization", "Bearer unused"), *_UPGRADE]
    return [
        ("Host", "localhost"),
        *lines,
        ("User-Agent", "Anthropic/Python" if messages else "OpenAI/Python"),
    ]
