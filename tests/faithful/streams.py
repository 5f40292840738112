"""Answers as hypothesis makes them up: event streams of every kind, other bodies, and how they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, islice
from typing import NamedTuple

from hypothesis import strategies as st

from tests.faithful.peers import Write, cut


class Long(bytes):
    """Bytes that need not be read when a test fails."""

    def __repr__(self) -> str:
        return f"Long({bytes(self[:12])!r}, {len(self)})"


CHAT, MESSAGES, RESPONSES, OTHER = "chat/completions", "messages", "responses", "new/thing"

_LINE_ENDS = st.sampled_from(
    [(b"\n",), (b"\r\n",), (b"\r",), (b"\n", b"\r\n"), (b"\r", b"\r\n", b"\n"), (b"\r\n", b"\r")]
)
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
_LINES = [
    _TOKEN,
    b"",
    b"data",
    b"data:",
    b"data: ",
    b"data:  two spaces",
    b": comment",
    b":",
    b"event: odd",
    b"event: error",
    b"id: 7",
    b"id: \x00",
    b"retry: 10",
    b"unknown: field",
    b"no colon at all",
    b" leading space: x",
    b"data: {not json",
    b"data: [1, 2",
    b"data: NaN",
    b"data: null",
    b'data: {"error": {"message": "in the middle", "code": 429}}',
    b'data: {"choices": 7, "usage": []}',
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": "x"}}',
    b'data: {"type": "response.output_text.delta", "delta": "x"}',
    b'data: {"type": "content_block_delta", "delta": {"text": "x"}}',
    b'data: "\\ud83d"',
    Long(b"data: " + b"[" * 3000),
    b"data: caf\xc3\xa9 \xe6\xbc\xa2 \xf0\x9f\x92\xa9",
    b"data: caf\xe9 \xff\xfe \x80",
    b"data: \xef\xbb\xbf \xc2\x85 \xe2\x80\xa8 \x0b \x0c \x1c",  # not one of these ends a line here
    b"\xef\xbb\xbfdata: not at the very start",
]
_HUGE = [
    Long(kind + b"h" * size)
    for kind, size in [(b"data: ", 4_096), (b'data: {"x":"', 70_000), (b": ", 65_536), (b"", 200_000)]
]
# Few draws for a stream: making them up takes as long as relaying them.
_BLOCKS = st.lists(st.sampled_from(_LINES * 3 + _HUGE), max_size=12)
_RAW = st.binary(max_size=40).map(lambda data: b"data: " + data)
# Without its last event, none of these streams is complete to who reads the path's kind of answer.
_TERMINAL = {
    CHAT: [b"data: [DONE]", b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'],
    MESSAGES: [b'event: message_stop\ndata: {"type": "message_stop"}', b'data:{"type":"message_stop"}'],
    RESPONSES: [
        b'event: response.completed\rdata: {"type": "response.completed", "response": {}}',
        b'data: {"type":\r\ndata: "response.incomplete"}',
    ],
    OTHER: [b"data: [DONE]", b"data: cut in the mid", b": comment", b"\xff", b"data: {}\n\ndata: {}"],
}
_TAILS = st.sampled_from([b"", b"", b"\n", b"\r", b": bye", b"data: tail", b"\n\n\r\n"])


class Framing(NamedTuple):
    """How a body is sent: `chunks` and `writes_of` are sizes, taken over and over, `most` pieces at most;
    `slowly` is with a pause between two writes, so that they arrive apart."""

    kind: str
    size_line: bytes
    trailer: bytes
    chunks: tuple[int, ...]
    writes_of: tuple[int, ...]
    most: int
    slowly: bool

    def writes(self, head: Iterable[bytes], body: bytes) -> list[bytes]:
        """A message of these first lines and this body, write by write."""
        lines = [*head]
        if self.kind == "chunked":
            lines.append(b"Transfer-Encoding: chunked")
            pieces = cut(body, self.chunks, self.most)
            frames = [self.size_line % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces]
            body = b"".join([*frames, b"0\r\n" + self.trailer + b"\r\n"])
        elif self.kind == "length":
            lines.append(b"Content-Length: %d" % len(body))
        return cut(b"\r\n".join([*lines, b"", b""]) + body, self.writes_of, self.most)


class Answer(NamedTuple):
    """An answer of an upstream at `path`, and what a client is to get of it."""

    path: str
    status: int
    headers: tuple[bytes, ...]
    body: bytes
    framing: Framing

    def writes(self) -> list[Write]:
        """What is written, write by write, with its pauses."""
        pieces: list[Write] = [
            *self.framing.writes([b"HTTP/1.1 %d Said" % self.status, *self.headers], self.body)
        ]
        if self.framing.slowly:
            pieces = [one for piece in pieces for one in (piece, 0.002)]
        return [*pieces, *([None] if self.framing.kind == "close" else [])]


_SIZE_LINES = (b"%x", b"%x", b"%X", b"00%x", b"%x;ext=1", b'%X;a="b c"')
_KINDS = [
    *(("chunked", line, trailer) for line in _SIZE_LINES for trailer in (b"", b"", b"X-Trailer: 1\r\n")),
    *[("length", b"", b"")] * 8,
    ("close", b"", b""),
]
_SIZES = st.tuples(*[st.sampled_from([1, 2, 3, 5, 16, 60, 400, 1460, 5000, 65_536])] * 3)
# Few bodies are sent byte by byte, or with time between the writes: both are slow.
_MOST = st.sampled_from([(16, False)] * 45 + [(500, False)] * 4 + [(16, True)])
framings = st.builds(
    lambda kind, chunks, writes, most: Framing(kind[0], kind[1], kind[2], chunks, writes, most[0], most[1]),
    st.sampled_from(_KINDS),
    _SIZES,
    _SIZES,
    _MOST,
)


@st.composite
def event_streams(draw: st.DrawFn) -> Answer:
    path = draw(st.sampled_from([CHAT, CHAT, MESSAGES, RESPONSES, OTHER]))
    ends = draw(_LINE_ENDS)
    # The first event is no error: one would be made the answer's status, as it should be.
    lines = [_TOKEN, b"", *draw(_BLOCKS), draw(_RAW), *draw(_BLOCKS)]
    text = b"".join(line + end for line, end in zip(lines, islice(cycle(ends), len(lines)), strict=True))
    last = draw(st.sampled_from(_TERMINAL[path]))
    closing = b"" if path == OTHER else ends[0] * 2
    start = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\n\r\n", b": hello\n\n"]))
    body = start + text + b"\n\n" + last + closing + draw(_TAILS)
    kind = draw(st.sampled_from([b"text/event-stream", b"text/event-stream; charset=utf-8"]))
    return Answer(path, 200, (b"Content-Type: " + kind,), body, draw(framings))


_OTHER_KINDS = st.sampled_from(
    [
        (b"Content-Type: application/json",),
        (b"Content-Type: audio/mpeg",),
        (b"Content-Type: application/octet-stream", b"Content-Encoding: gzip"),
        (b"Content-Type: text/event-stream", b"Content-Encoding: br"),
        (),
    ]
)
_BODIES = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=40), st.integers(0, 5000)),
    st.sampled_from(
        [
            b"",
            b'{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{}}',
            b'{"a":1,"a":NaN,}',
            b'{"usage": {"completion_tokens": 1e999}}\n\n\n',
            b"\xef\xbb\xbf{}",
            b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Long(b'{"a":' * 2000),
        ]
    ),
)


@st.composite
def other_answers(draw: st.DrawFn) -> Answer:
    path = draw(st.sampled_from([CHAT, MESSAGES, RESPONSES, OTHER, "audio/speech", "embeddings"]))
    status = draw(st.sampled_from([200, 200, 201, 400, 404, 429, 500, 503]))
    return Answer(path, status, draw(_OTHER_KINDS), draw(_BODIES), draw(framings))


answers = st.one_of(event_streams(), event_streams(), other_answers())
