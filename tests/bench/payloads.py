"""The bytes of the exchanges that are measured, made beforehand; see `traffic`.

An event ends with a byte that stands nowhere else in a stream, so that events can be counted in
whatever pieces they arrive.
"""

from __future__ import annotations

import json
from typing import Any

EVENT_END = b"~"
LAST_CHUNK = b"0\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nX-Request-Id: req_0123456789abcdef\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_SAID = "So it goes, on and on. "
_NUMBER = 6
_STREAM_OF = b'"user":"'


def request(target: str, model: str, size: int = 1024, *, stream: bool = False, number: int = 0) -> bytes:
    """A POST of a chat whose body has `size` bytes; `number` is that of its stream."""
    body: dict[str, Any] = {
        "model": model,
        "user": f"{number:0{_NUMBER}}",
        "max_tokens": 800,
        "temperature": 1,
        "stream": stream,
        "messages": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": ""}],
    }
    spare = size - len(_compact(body))
    body["messages"][-1]["content"] = (_SAID * (spare // len(_SAID) + 1))[:spare]
    data = _compact(body)
    assert len(data) == size, "too small for a chat"
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n"
        f"User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\n"
        f"X-Stainless-Package-Version: 3.54.0\r\n"
        f"X-Stainless-Runtime: CPython\r\nX-Stainless-Retry-Count: 0\r\nAuthorization: Bearer unused\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def stream_number(data: bytes) -> int:
    """That of the request whose bytes these are."""
    at = data.index(_STREAM_OF) + len(_STREAM_OF)
    return int(data[at : at + _NUMBER])


def answer(size: int = 1024) -> bytes:
    """A plain answer, head and body, whose body has about `size` bytes."""
    usage = {"prompt_tokens": 200, "completion_tokens": 200, "total_tokens": 400}
    said = (_SAID * (size // len(_SAID) + 1))[: max(1, size - 300)]
    message = {"role": "assistant", "content": said}
    body = _compact(
        {
            "id": "chatcmpl-0123456789",
            "object": "chat.completion",
            "created": 1795341600,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    )
    head = (
        "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n"
        f"X-Request-Id: req_0123456789abcdef\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def event(size: int = 256) -> bytes:
    """An event of a stream, in a chunk of its own of about `size` bytes; one `EVENT_END` is near its end."""
    value = {
        "id": "chatcmpl-0123456789",
        "object": "chat.completion.chunk",
        "created": 1795341600,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}],
    }
    spare = max(0, size - len(_compact(value)) - len("data: \n\n") - 1)
    value["choices"] = [
        {
            "index": 0,
            "delta": {"content": (_SAID * (spare // len(_SAID) + 1))[:spare] + "~"},
            "finish_reason": None,
        }
    ]
    return _chunk(b"data: " + _compact(value) + b"\n\n")


def ending() -> bytes:
    """The end of a stream, and of the answer."""
    value = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
    return _chunk(b"data: " + _compact(value) + b"\n\ndata: [DONE]\n\n") + LAST_CHUNK


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
