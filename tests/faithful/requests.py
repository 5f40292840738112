"""Requests as hypothesis makes them up: JSON of every spelling, forms, files, and how they are sent."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

from tests.faithful.streams import Framing, Long, framings

_SPACES = st.sampled_from([b"", b"", b" ", b"\n", b"\t ", b"\r\n  "])
# As JSON texts: what is sent has to be these very bytes.
_VALUES = [
    b"0",
    b"-0",
    b"-0.0",
    b"1.0",
    b"1E+2",
    b"1e999",
    b"12345678901234567890123456789012345678901234567890",
    b"0.1000000000000000055511151231257827021181583404541015625",
    b"true",
    b"null",
    b'""',
    b'"\\u00e9\\/\\b\\u0000"',
    b'"\\ud83d\\ude00 \xf0\x9f\x98\x80"',
    b'"\\ud83d"',
    b'"half an emoji, \\udc00, and whole ones \xe2\x80\xa8"',
    Long(b'"' + b"long " * 2000 + b'"'),
    b'{"a": 1, "a": 2, "a" : {"b":1,"b":1}}',
    b'[ {"role":"user" , "content":"x"},{ "content" :"\\u0041" } ]',
    b'{"\\ud83d": 1, "":[[],{} ,[ ]]}',
    Long(b"[" * 60 + b"]" * 60),
]
_INNER = st.tuples(st.sampled_from(_VALUES), _SPACES, st.sampled_from(_VALUES))
_COMPOSED = st.one_of(
    _INNER.map(lambda found: b"[%b,%b%b]" % found),
    _INNER.map(lambda found: b'{"n":%b,%b"n":%b}' % found),
)
_NAMES = [
    b'"messages"',
    b'"temp\\u0065rature"',
    b'"\xc3\xa9"',
    b'"\\u00e8\\/"',
    b'""',
    b'"x\\"y: ,"',
    b'"max tokens"',
    b'"0"',
]
_ANY = st.one_of(st.sampled_from(_VALUES), st.sampled_from(_VALUES), _COMPOSED)
Member = tuple[bytes, bytes]  # a name and its value, both as JSON texts
_MEMBER = st.tuples(st.sampled_from(_NAMES), _ANY) | st.tuples(
    st.sampled_from([b'"stream"', b'"str\\u0065am"']), st.sampled_from([b"true", b"false", b"null"])
)
_MEMBERS = st.lists(_MEMBER, max_size=6, unique_by=lambda member: json.loads(member[0]))


@st.composite
def objects(draw: st.DrawFn, *wanted: st.SearchStrategy[Member]) -> tuple[bytes, list[Member]]:
    """A JSON object as a text, and its members in order; the `wanted` ones stand anywhere among them."""
    members = draw(_MEMBERS)
    for one in wanted:
        members.insert(draw(st.integers(0, len(members))), draw(one))
    before, between, after = draw(_SPACES), draw(_SPACES), draw(_SPACES)
    joined = (b"," + after).join(name + between + b":" + after + value + before for name, value in members)
    return before + b"{" + between + joined + b"}" + after, members


class Request(NamedTuple):
    """A POST to `path`, with the head's lines after the first."""

    path: str
    headers: tuple[bytes, ...]
    body: bytes
    framing: Framing

    def writes(self, number: int) -> list[bytes]:
        """What is written, write by write; the number travels along for whoever answers."""
        first = [b"POST %b HTTP/1.1" % self.path.encode(), b"Host: tidegate.test", b"X-Number: %d" % number]
        return self.framing.writes([*first, *self.headers], self.body)


_requests_framings = framings.filter(lambda framing: framing.kind != "close")


def _bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "GZip ": lambda data: gzip.compress(data[:9], 1) + gzip.compress(data[9:], 9),
    "deflate": zlib.compress,
    "deflate ": _bare_deflate,
}
_JSON = st.sampled_from([b"application/json", b"application/json; charset=utf-8", b"text/plain"])


def packed(path: str, kind: bytes, body: bytes, encoding: str, framing: Framing) -> Request:
    """The request with its body in this encoding."""
    headers = (b"Content-Type: " + kind, *([b"Content-Encoding: " + encoding.encode()] if encoding else ()))
    return Request(path, headers, _PACKED[encoding](body), framing)


encodings = st.sampled_from(["", "", "", *_PACKED])


def json_requests(path: str, bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[Request]:
    return st.builds(packed, st.just(path), _JSON, bodies, encodings, _requests_framings)


UNREADABLE = [
    b"",
    b"{",
    b'{"a": NaN, "b": -Infinity}',
    b"[1, 2]",
    b'{"a": "\xff\xfe"}',
    b'\xef\xbb\xbf{"model": "x"}',
    b'{"a": 1} trailing',
    b"{'a': 1}",
    b'{"\\ud83d": 1}',
]
_FILES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=30), st.integers(0, 5000)),
    st.sampled_from([b"\r\n--b", b"--b--", b"\r\n\r\n--bb\r\n", Long(bytes(range(256)) * 600)]),
)


def form(parts: list[bytes], preamble: bytes = b"", epilogue: bytes = b"\r\n") -> bytes:
    """A multipart body with the boundary `=b=`."""
    return preamble + b"".join(b"--=b=\r\n" + part + b"\r\n" for part in parts) + b"--=b=--" + epilogue


FORM = b'multipart/form-data; boundary="=b="'
_FILE_HEAD = b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/x\r\n\r\n'
file_parts = _FILES.map(lambda data: _FILE_HEAD + data)
_PREAMBLES = st.sampled_from([b"", b"", b"preamble\r\n", b"\r\n"])
_EPILOGUES = st.sampled_from([b"\r\n", b"", b"\r\nepilogue --=b=\r\n"])


def model_part(model: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="model"\r\n\r\n' + model


@st.composite
def forms(draw: st.DrawFn, path: str) -> tuple[Request, Request]:
    """A form that asks for `chain/whisper`, and one that differs in nothing but asking for `whisper`."""
    parts = draw(st.lists(file_parts, max_size=3))
    place = draw(st.integers(0, len(parts)))
    edges = draw(_PREAMBLES), draw(_EPILOGUES)
    framing = draw(_requests_framings)
    headers = (b"Content-Type: " + FORM,)

    def asking(model: bytes) -> Request:
        return Request(
            path, headers, form([*parts[:place], model_part(model), *parts[place:]], *edges), framing
        )

    return asking(b"chain/whisper"), asking(b"whisper")


def uploads(path: str) -> st.SearchStrategy[Request]:
    """Files that nobody reads, as they are and in forms, some of them packed."""
    kinds = st.sampled_from([b"application/octet-stream", b"audio/wav", FORM])
    return st.builds(packed, st.just(path), kinds, _FILES, encodings, _requests_framings)
