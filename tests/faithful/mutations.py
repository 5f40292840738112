"""Requests bent out of shape: cut, spliced, flipped, with whatever confuses a reader of HTTP; by a seed."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from typing import NamedTuple

_JSON = b"Content-Type: application/json"
_BODY = b'{"model": "up/x", "messages": [{"role": "user", "content": "hello"}]}'
_DEMO = b'{"model": "demo/echo", "messages": [{"role": "user", "content": "a"}]}'
_NOBODY = b'{"model": "no/x", "messages": [{"role": "user", "content": "\\u00e9"}]}'
_FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nno/x\r\n--b--\r\n'


class Seed(NamedTuple):
    """A request in its parts, to be put together well formed."""

    method: bytes
    target: bytes
    headers: tuple[bytes, ...] = ()
    body: bytes = b""
    chunked: bool = False

    def assembled(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), b"Host: x", *self.headers]
        body = self.body
        if self.chunked:
            half = len(body) // 2 or 1
            chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part]
            lines.append(b"Transfer-Encoding: chunked")
            body = b"".join([*chunks, b"0\r\n\r\n"])
        elif body or self.method == b"POST":
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*lines, b"", body])


# Most are refused without a call: an answer of an upstream costs five times as much time.
SEEDS = [
    Seed(b"POST", b"/v1/chat/completions", (_JSON,), _DEMO),
    Seed(b"POST", b"/v1/chat/completions", (_JSON, b"Authorization: Bearer a", b"User-Agent: a/1"), _BODY),
    Seed(b"POST", b"/v1/chat/completions", (_JSON,), _NOBODY, chunked=True),
    Seed(b"POST", b"/up/v1/files", (b"Content-Type: audio/wav",), b"\x00\xff" * 20, chunked=True),
    Seed(b"POST", b"/v1/messages", (_JSON, b"x-api-key: unused"), _NOBODY),
    Seed(b"POST", b"/v1/audio/transcriptions", (b"Content-Type: multipart/form-data; boundary=b",), _FORM),
    Seed(b"POST", b"/v1/responses", (_JSON, b"Connection: keep-alive, x-a", b"X-A: 1"), _NOBODY),
    Seed(b"POST", b"/v1/embeddings", (_JSON, b"Content-Encoding: gzip"), gzip.compress(_NOBODY, 1, mtime=0)),
    Seed(b"POST", b"/v1/moderations", (_JSON,), b""),
    Seed(b"GET", b"/v1/models", (b"X-Forwarded-For: 1.2.3.4",)),
    Seed(b"GET", b"/up/v1/files/1?key=a&b=%2f", (b"Accept: */*", b"Cookie: a=b")),
    Seed(b"HEAD", b"/nowhere/v1/files/1"),
    Seed(b"DELETE", b"/nowhere/v1/files/1"),
    Seed(b"GET", b"http://u:p@h/v1/models/demo%2fecho", (b"Accept: */*",)),
    Seed(b"OPTIONS", b"/v1/x"),
    Seed(b"GET", b"/nothing"),
    Seed(b"PUT", b"/nothing/v1/../x"),
    Seed(b"GET", b"/v1"),
    Seed(b"POST", b"/v1/completions", (_JSON,), b'{"model": 4}'),
    Seed(
        b"POST", b"/v1/responses", (_JSON,), b'{"model": "no/x", "input": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    ),
    Seed(b"PATCH", b"/v1/files/1", (_JSON,), b"{}"),
]
_BITS = [
    b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\x7f", b"\xff\xfe", b"\t", b" ", b":", b";", b"\x0b",
    b"\x85", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 1e3\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 4, 4\r\n",
    b"Content-Length : 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: x\r\n", b"transfer-encoding:\tchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: content-length, host\r\n", b"Host: y\r\n", b" folded: line\r\n",
    b"Authorization: Bearer a\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n",
    b"Content-Type: multipart/form-data; boundary=\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n",
    b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"HTTP2-Settings: AAM\r\n", b"X-Tidegate-Provider: up\r\n",
    b"x-forwarded-for: x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"-1\r\n", b"5;" + b"e" * 300 + b"\r\nhello\r\n", b"0\r\nX-T: 1\r\n\r\n",
    b"/../", b"//", b"%2e%2e", b"%00", b"\\", b"#", b"?", b"\xc3\x28", b"[" * 500, b'"\\ud83d"',
    b'{"model": 4}', b'"stream": true, ', b"demo/", b"/up/v1/", b" HTTP/1.1", b" HTTP/9.9", b" HTTP/1.0",
    b"GET ", b"{", b"}", b",",
]  # fmt: skip
_LONG = (
    lambda n: b"X-Long: " + b"a" * n + b"\r\n",
    lambda n: b"".join(b"X-%d: 1\r\n" % i for i in range(n // 200)),
    lambda n: b"/" + b"p" * n,
    lambda n: b"Cookie: " + b"a=b; " * (n // 5) + b"\r\n",
)


_PRINTABLE = [bit for bit in _BITS if re.fullmatch(rb"[!-~]+", bit)]


class Mutator:
    """Inputs from a seed: the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._insert, self._insert, self._insert_line, self._insert_line, self._flip, self._flip,
            self._cut, self._drop, self._repeat, self._splice, self._digits, self._grow,
        )  # fmt: skip

    def mild(self) -> bytes:
        """A request that is well formed HTTP, and odd in its path, a header or its body."""
        chance = self._chance
        seed = chance.choice(SEEDS)
        way = chance.randrange(4)
        if way < 2:
            at = chance.randrange(1, len(seed.target) + 1)
            seed = seed._replace(target=seed.target[:at] + chance.choice(_PRINTABLE) + seed.target[at:])
        elif way == 2 and seed.body:
            for _ in range(chance.choice((1, 1, 2, 5))):
                seed = seed._replace(body=chance.choice(self._ways)(seed.body))
        else:
            name = chance.choice(
                (b"X-A", b"x-tidegate-provider", b"Accept", b"X-Forwarded-For", b"x_api_key")
            )
            seed = seed._replace(headers=(*seed.headers, name + b": " + chance.choice(_PRINTABLE)))
        return seed.assembled()

    def wild(self) -> bytes:
        """Anything; it may hold several requests, or less than one."""
        chance = self._chance
        data = chance.choice(SEEDS).assembled()
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 6))):
            data = chance.choice(self._ways)(data)
        return data

    def pieces(self, data: bytes) -> list[bytes]:
        """An input in one write or in a few."""
        if self._chance.random() < 0.8 or len(data) < 2:
            return [data]
        at = self._chance.randrange(1, len(data))
        return [data[:at], data[at:]]

    def _at(self, data: bytes) -> int:
        return self._chance.randrange(len(data) + 1)

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._chance.choice(_BITS) + data[at:]

    def _insert_line(self, data: bytes) -> bytes:
        at = data.find(b"\r\n") + 2
        return data[:at] + self._chance.choice(_BITS) + data[at:]

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._chance.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._chance.randrange(8)]) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _drop(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self._chance.randrange(1, 12) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._at(data)
        part = data[at : at + self._chance.randrange(1, 60)]
        return data[:at] + part * self._chance.randrange(2, 5) + data[at:]

    def _splice(self, data: bytes) -> bytes:
        other = self._chance.choice(SEEDS).assembled()
        return data[: self._at(data)] + other[self._at(other) :]

    def _digits(self, data: bytes) -> bytes:
        return data.replace(b"Content-Length: ", b"Content-Length: %d" % self._chance.randrange(9), 1)

    def _grow(self, data: bytes) -> bytes:
        if self._chance.random() < 0.8:
            return data
        at = data.find(b"\r\n") + 2
        size = self._chance.choice((200, 2000, 9000, 33_000, 70_000))
        return data[:at] + self._chance.choice(_LONG)(size) + data[at:]
