"""What passes through the chain: an `Exchange` goes in, a `Reply` comes out.

The exchange keeps In and Out apart: `inbound` is what the client sent and never changes, the other
fields are what goes up and are the middlewares' to edit. A reply is a head not yet sent and a body
not yet read, so a middleware may still change the head, refuse, retry or move on.

`call_next` returns at the head. What must outlive it goes on `exchange.stack`, which is closed after
the body's last byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from config.clients import Client
from config.secrets import SecretStore
from middlewares.clocks import Watch
from middlewares.envelope import Envelope
from middlewares.faults import ClientFault, Fault, Outcome
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from middlewares.observation import Dialect, EventTap, Observation, dialect_of
from middlewares.states import States
from middlewares.store import Fleet
from middlewares.stores import Stores
from middlewares.waits import RETRY_AFTER_MAX_S

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Inbound:
    """The client's request as it came; nobody changes it.

    `path` is what follows `/v1`, as the client wrote it; `query` has no question mark.
    """

    method: str
    path: str
    query: str
    headers: CIMultiDictProxy[str]
    remote: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A held body that is not a JSON object. It may still go up as it came."""

    raw: bytes
    fault: ClientFault


@dataclass(slots=True)
class Upload:
    """A body that is streamed through: `length` in bytes, None when the client does not say.

    `fault` is why it ended before its end, if it did: the HTTP client would hide the reason.
    """

    pieces: AsyncIterator[bytes]
    length: int | None
    fault: ClientFault | None = None


Body = Envelope | Form | Handshake | Unreadable | Upload | None


class Tap(Protocol):
    """Watches a body pass. `finish` is called once, also when the client left."""

    def feed(self, chunk: bytes, /) -> None: ...

    def finish(self, outcome: Outcome, /) -> None: ...


class ReplyBody(Protocol):
    """A body that pushes."""

    @property
    def between_events(self) -> bool:
        """Whether what was handed on ends with an event of a stream, so that another may follow it."""
        ...

    async def pump(self, sink: Sink, /) -> bool:
        """Call `sink` for each piece as it arrives: True at the end, False after `halt()`.

        After `halt()` another `pump` goes on where this one stopped. Raises UpstreamFault.
        """
        ...

    def halt(self) -> None:
        """To be called from the sink: stop after this piece."""

    def pause(self) -> None:
        """The reader of the sink is slow: stop asking for more."""

    def resume(self) -> None:
        """Go on after `pause`."""

    def close(self) -> None:
        """Let go of the source at once; what was not read is lost."""


CommitAt = Literal["headers", "first_event", "first_token", "complete"]


class Commit(Struct, frozen=True):
    """When an answer is committed: `hold` in bytes bounds what is held back until then.

    `keepalive` is after how many seconds without a byte the client of a stream gets a comment.
    """

    at: CommitAt = "first_event"
    hold: int = 8 * 1024**2
    keepalive: float | None = None


FIRST_EVENT = Commit()
"""What holds where a route says nothing."""


@dataclass(slots=True)
class Reply:
    """An answer's head, and its body to come. `headers` are (name, value) pairs in order.

    `events` observes the body when it is an event stream, `seen` holds what is known of it by now.
    `eager` has the head sent by itself, before any of the body is here. `blames_request`: an error
    inside a stream that is about what was asked, and has no status of its own to say so. `unobserved`: it
    came encoded, so nothing is known of what it says.
    """

    status: int
    headers: CIMultiDict[str]
    body: ReplyBody
    events: EventTap | None = None
    seen: Observation | None = None
    taps: list[Tap] = field(default_factory=list)
    eager: bool = False
    blames_request: bool = False
    unobserved: bool = False


@dataclass(frozen=True, slots=True)
class Rung:
    """One route to try; `model` replaces the client's, None leaves it."""

    route: str
    model: str | None = None


class Snapshot(NamedTuple):
    """What of an exchange goes upstream."""

    headers: CIMultiDict[str]
    body: Body
    query: str


def _copied(body: Body) -> Body:
    return body.copy() if isinstance(body, Envelope | Form | Handshake) else body


@dataclass(slots=True)
class Exchange:
    """One run of a chain: of the top level's, around the ladder, or of one route's.

    At the top level `rungs` are what the router chose, `runs` the routes' exchanges so far, `told` the
    one of them that the answer is about, and `patience` has comments sent to a client that waits.
    `on_attempt` is told the route and the result of each call to a provider when it is over: `ok`, the
    status of an error answer, or a code that says why it ended; `calling` is whether one is under way.
    `client` is who asks, None where nobody has to say so.

    `client` is whose key the request brought, None where there are no client keys; `by_name` whether it asked
    for an alias or a ladder, by which it is then judged what it may use.

    `headers` go upstream; `credentials` are the client's own, which do not, unless the operator says
    so. `commit` is the route's, `more_rungs` whether another route would be tried after this one,
    `failure` why this one was given up, `client_stalled` whether `idle` ran out on the client's side.
    `encoded` is a compressed body as it came. `attempts` counts the calls made on this route;
    `counts_usage` has the answer's tokens logged. `head_at` and `content_at` are times of
    `time.perf_counter`, for the log: the event loop's clock is too coarse for it.
    """

    inbound: Inbound
    route: str
    headers: CIMultiDict[str]
    credentials: CIMultiDict[str]
    body: Body
    query: str
    watch: Watch
    stack: AsyncExitStack
    rungs: tuple[Rung, ...] = ()
    runs: list[Exchange] = field(default_factory=list)
    told: Exchange | None = None
    commit: Commit = FIRST_EVENT
    patience: Callable[[float], None] | None = None
    more_rungs: bool = False
    failure: str | None = None
    client_stalled: bool = False
    counts_usage: bool = False
    encoded: bytes | None = None
    attempts: int = 0
    head_at: float | None = None
    content_at: float | None = None
    on_attempt: Callable[[str, str], None] | None = None
    calling: bool = False
    client: Client | None = None
    by_name: bool = False

    @property
    def dialect(self) -> Dialect:
        """The shape of this endpoint's answers."""
        return dialect_of(self.inbound.path)

    @property
    def fields(self) -> Envelope | None:
        """The JSON body, None when there is none; raises ClientFault when it cannot be read."""
        if isinstance(self.body, Unreadable):
            raise self.body.fault
        return self.body if isinstance(self.body, Envelope) else None

    @property
    def model(self) -> str | None:
        """The model as it goes upstream, None when the request names none."""
        if isinstance(self.body, Form | Handshake):
            return self.body.model
        fields = self.fields
        value = fields.value("model") if fields is not None else None
        return value if isinstance(value, str) else None

    def rename_model(self, name: str) -> None:
        """Have the upstream see another model name."""
        if isinstance(self.body, Form | Handshake):
            self.body.rename(name)
            if isinstance(self.body, Handshake):
                self.query = self.body.query
        elif (fields := self.fields) is not None:
            fields.set("model", name)

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream."""
        if isinstance(self.body, Form | Handshake):
            return self.body.stream
        return isinstance(self.body, Envelope) and self.body.is_true("stream")

    def fork(self, route: str, watch: Watch, stack: AsyncExitStack) -> Exchange:
        """A copy of the request as it is now, to be changed without changing this one."""
        return Exchange(
            inbound=self.inbound,
            route=route,
            headers=self.headers.copy(),
            credentials=self.credentials,
            body=_copied(self.body),
            query=self.query,
            watch=watch,
            stack=stack,
            encoded=self.encoded,
            on_attempt=self.on_attempt,
            client=self.client,
            by_name=self.by_name,
        )

    def snapshot(self) -> Snapshot:
        """What goes upstream, as it is now: another attempt may begin from it."""
        return Snapshot(self.headers.copy(), _copied(self.body), self.query)

    def restore(self, before: Snapshot) -> None:
        """Have it as it was; the snapshot stays good for another time."""
        self.headers, self.body, self.query = before.headers.copy(), _copied(before.body), before.query

    async def attempt(self, call: Handler) -> Reply:
        """Have `call` ask the provider. A good answer is not over yet: `end_attempt` when it is."""
        self.begin_attempt()
        try:
            reply = await call(self)
        except Fault as fault:
            self.note_fault(fault)
            raise
        if reply.status >= 400:
            self.end_attempt(str(reply.status))
        return reply

    def begin_attempt(self) -> None:
        """Another call on this route; all clocks but `total` start anew."""
        self.end_attempt("ok")  # whoever asks again had an answer, and did not want it
        self.calling = True
        self.attempts += 1
        self.head_at = self.content_at = None
        self.watch.new_attempt()

    def end_attempt(self, result: str) -> None:
        """The call that is under way is over; without one, nothing happens."""
        if self.calling:
            self.calling = False
            self._tell(result)

    def note_fault(self, fault: Fault) -> None:
        """This run ends with `fault`, or the call that is under way does.

        Where none is, it was a refusal to make one, or a clock that ran out between two: that counts as well.
        """
        if self.calling:
            self.end_attempt(fault.code)
        elif not fault.counted and not isinstance(fault, ClientFault):
            self._tell(fault.code)
        fault.counted = True

    def _tell(self, result: str) -> None:
        if self.on_attempt is not None:
            self.on_attempt(self.route, result)

    def note_head(self) -> None:
        """The upstream's head is here."""
        self.head_at = perf_counter()
        self.watch.stop("connect", "first_byte")
        self.watch.start("idle")

    def note_content(self) -> None:
        """The first generated content of a stream is here."""
        self.content_at = perf_counter()
        self.watch.stop("first_token")

    @property
    def changes(self) -> dict[str, tuple[str, str]]:
        """What was changed in the body: field -> (old, new), as `x-tidegate-changed` shows them."""
        return self.body.changes if isinstance(self.body, Envelope | Form | Handshake) else {}


Handler = Callable[[Exchange], Awaitable[Reply]]


class Middleware(Protocol):
    """One policy. It must `return await call_next(exchange)` at most once at a time."""

    async def __call__(self, exchange: Exchange, call_next: Handler, /) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Deps:
    """What a middleware is made with besides its options.

    `route` and `host` are empty at the top level, `host` also for the embedded demo; `own_agent` is
    the User-Agent that is ours; `retry_after_max` is the route's, in seconds; `states` is what outlives
    the table; with `hides_key` nobody is told where the route's key is, since that came from the
    environment. `stores` are where limits are counted, `fleet` is the one that this process shares with
    others, None without one.
    """

    route: str
    host: str
    secrets: SecretStore
    own_agent: str
    retry_after_max: float = RETRY_AFTER_MAX_S
    states: States = field(default_factory=States)
    hides_key: bool = False
    stores: Stores = field(default_factory=Stores)
    fleet: Fleet | None = None
