"""Clients and their provider, in one thread around one epoll.

Both ends of what is measured are here, so a latency is a difference of one clock, and load and provider
cannot be out of step. It must cost less than what it measures: bytes are made beforehand, and what comes
is read only as far as its end has to be found. An answer that is no 200, or breaks off, ends the run: a
figure about failures would mean nothing.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT, epoll

from tests.bench.payloads import EVENT_END, HEALTHY, LAST_CHUNK

_AT_ONCE = 1 << 18
_BACKLOG = 4096
_BUFFER = 1 << 20
_STUCK_S = 30.0
_TURN_S = 1.0
_HEAD_END = b"\r\n\r\n"


class Broken(Exception):
    """What is measured did not do what it is measured at."""


class Ends:
    """Where the next HTTP message of a connection ends. Its framing is a length, or chunks."""

    __slots__ = ("_chunked", "_held", "_left", "head")

    def __init__(self) -> None:
        self.head = b""
        """Of the message that is on its way; empty before it is whole."""
        self._held = b""
        self._left = 0
        self._chunked = False

    def feed(self, data: bytes) -> bool:
        """Whether the message ends with these bytes."""
        if not self.head:
            data = self._held + data if self._held else data
            end = data.find(_HEAD_END)
            if end < 0:
                self._held = data
                return False
            self._held = b""
            self.head = data[: end + 4]
            length = _content_length(self.head)
            self._chunked = length is None
            self._left = (length or 0) + end + 4
        if self._chunked:
            # The last chunk may come in two pieces.
            tail = self._held + data if len(data) < len(LAST_CHUNK) else data
            self._held = tail[-len(LAST_CHUNK) :]
            return self._held == LAST_CHUNK
        self._left -= len(data)
        return self._left <= 0

    def reset(self) -> None:
        """Another message follows."""
        self.head = self._held = b""


def _content_length(head: bytes) -> int | None:
    """None under chunks. A message with neither has no body: requests only, answers always have one."""
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        return int(lower[at + 17 : lower.index(b"\r", at + 2)])
    return None if b"\r\ntransfer-encoding: chunked" in lower else 0


class Connection:
    """A socket that does not block, and what of it waits to be sent."""

    __slots__ = ("_unsent", "ends", "sock", "stage")

    def __init__(self, stage: Stage, sock: socket.socket) -> None:
        self.stage = stage
        self.sock = sock
        self.ends = Ends()
        self._unsent = memoryview(b"")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)

    def send(self, data: bytes) -> None:
        """Send it, by and by if it is more than the kernel takes now."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self.stage.poll.modify(self.sock.fileno(), EPOLLIN | EPOLLOUT)

    def happened(self, events: int) -> None:
        """Something can be sent, or read."""
        if events & EPOLLOUT:
            self._flush()
        if events & ~EPOLLOUT:
            self.read()

    def _flush(self) -> None:
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        if not self._unsent:
            self.stage.poll.modify(self.sock.fileno(), EPOLLIN)

    def read(self) -> None:
        """Something can be read."""
        raise NotImplementedError

    def close(self, *, with_reset: bool = True) -> None:
        """Leave; with a reset nothing of the connection stays behind in the kernel."""
        if self.sock.fileno() < 0:
            return
        self.stage.forget(self.sock)
        if with_reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Call(Connection):
    """The provider's end of a connection: one request after another."""

    __slots__ = ()

    def read(self) -> None:
        try:
            data = self.sock.recv(_AT_ONCE)
        except ConnectionResetError:
            data = b""
        if not data:
            self.close(with_reset=False)
            return
        if self.ends.feed(data):
            head = self.ends.head
            self.ends.reset()
            if head.startswith(b"POST"):
                self.stage.answer(self, data)
            else:
                self.send(HEALTHY)  # a peer that looks whether its provider lives


class Client(Connection):
    """A client's connection. `done` is called at each answer's end, `moved` at the end of each event."""

    __slots__ = ("answers", "call", "done", "due", "events", "moved", "sent")

    def __init__(self, stage: Stage, port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        super().__init__(stage, sock)
        self.answers = 0
        self.events = 0
        self.done: Callable[[Client], None] = _nothing
        self.moved: Callable[[Client], None] = _nothing
        self.call: Call | None = None
        """Where the provider writes the stream that this client reads."""
        self.sent = 0.0
        """When the last thing was sent for which it waits: its request, or an event of its stream."""
        self.due: deque[float] = deque()
        stage.watch(sock, self.happened)

    def ask(self, request: bytes) -> None:
        """Send a request; nothing else may be on its way."""
        self.sent = time.perf_counter()
        self.send(request)

    def read(self) -> None:
        try:
            data = self.sock.recv(_AT_ONCE)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Broken(f"the connection of a client was closed: {self.ends.head[:200]!r}")
        ends = self.ends
        whole = ends.feed(data)
        if EVENT_END in data:
            came = data.count(EVENT_END)
            self.events += came
            for _ in range(came):
                self.moved(self)
        if whole:
            if ends.head[8:13] != b" 200 ":
                raise Broken(f"the answer is {ends.head[:200]!r}")
            ends.reset()
            self.answers += 1
            self.done(self)


def _nothing(_client: Client) -> None:
    pass


class Stage:
    """The provider listens at `port`; `answer` says what it does with a request, whose last bytes it gets."""

    def __init__(self) -> None:
        self.poll = epoll()
        self.answer: Callable[[Call, bytes], None] = _unanswered
        self._happens: dict[int, Callable[[int], None]] = {}
        self._open: dict[int, socket.socket] = {}
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.watch(self._listener, self._accept)

    def watch(self, sock: socket.socket, happens: Callable[[int], None]) -> None:
        """Call `happens` with the events of that socket."""
        self._happens[sock.fileno()] = happens
        self._open[sock.fileno()] = sock
        self.poll.register(sock.fileno(), EPOLLIN)

    def forget(self, sock: socket.socket) -> None:
        """Look at it no more."""
        del self._happens[sock.fileno()], self._open[sock.fileno()]
        self.poll.unregister(sock.fileno())

    def _accept(self, _events: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            call = Call(self, sock)
            self.watch(sock, call.happened)

    def turn(self, wait: float = _TURN_S) -> None:
        """Look once, for so many seconds at most, and do what there is to do."""
        happens = self._happens
        for descriptor, events in self.poll.poll(wait, 1024):
            # What happened just before may have closed it.
            if (call := happens.get(descriptor)) is not None:
                call(events)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Turn until it holds. Raises Broken, saying what was waited for, if nothing comes of it."""
        by = time.perf_counter() + _STUCK_S
        while not holds():
            if time.perf_counter() > by:
                raise Broken(f"no {what} within {_STUCK_S:g} s")
            self.turn()

    def close(self) -> None:
        """Close the provider's connections, and let it listen no more."""
        for sock in self._open.values():
            sock.close()
        self._happens.clear()
        self.poll.close()


def _unanswered(call: Call, _last: bytes) -> None:
    raise Broken("a request came and nobody said what its answer is")
