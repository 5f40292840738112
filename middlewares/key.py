"""`key`: the credential that goes upstream, in place of whatever the client sent.

Each source is looked up where it says, in this order: environment, systemd credential, file. A route whose
key cannot be had answers 503 `key_missing`; it does not keep the others from serving.

Several sources are used in turn. A key that the provider refuses or limits (401, 402, 429) rests, and the
next one is tried at once, before anything of the answer has left the chain. A 403 rests no key: it may be
about what one client asked, who could then take the provider from all others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, NamedTuple, get_args

from msgspec import Meta, Struct, field

from config.catalog import Scene
from config.field_names import objection
from config.problems import Finding, Invalid
from config.providers import key_fits
from config.secrets import KeySource, Secret, SecretError, SecretStore
from middlewares.bodies import read_failure
from middlewares.exchange import Deps, Exchange, Handler, Reply, Upload
from middlewares.faults import Refusal
from middlewares.keyring import Keyring, digest_of
from middlewares.observation import Dialect, blames_request, decode
from middlewares.waits import asked_to_wait

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MISFIT = "keys that begin so do not belong to this provider"
_REFUSED = (401, 402, 429)
"""What is said of a key, and not of what was asked with it."""
_REST_S = 60.0
"""Where the provider does not say how long."""


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: where it is, what it begins with (`expect`), which header carries it.

    `header: auto` is `x-api-key` on messages and `Authorization: Bearer` elsewhere. `pass: true`
    sends the client's own credential up instead.
    """

    env: str | None = None
    credential: str | None = None
    file: str | None = None
    header: str = "auto"
    expect: str | None = None
    pass_: bool = field(name="pass", default=False)

    def __post_init__(self) -> None:
        placed = self.env or self.credential or self.file
        if self.pass_ and (placed or self.expect):
            raise Invalid("pass: true sends the client's own key, so nothing else may be given", "pass")
        if not self.pass_ and not placed:
            raise Invalid("say where the key is: env, credential, file, or pass: true")
        # Without the name, since a key may have been put in its place.
        if self.env and not _VARIABLE.fullmatch(self.env):
            raise Invalid("env takes a variable's name, such as ACME_API_KEY", "env")
        if wrong := objection(self.header):
            raise Invalid(wrong, "header")

    @property
    def place(self) -> KeySource:
        """The part that the secret store understands."""
        return KeySource(env=self.env, credential=self.credential, file=self.file, expect=self.expect)

    def review(self, scene: Scene) -> Iterator[Finding]:
        """A key must fit its host; and, if keys may be looked at, be there."""
        if self.pass_:
            if "client_keys" in scene.behind:
                yield Finding(
                    "error",
                    "pass-behind-client-keys",
                    "pass: true behind client_keys would send a client's tidegate key to the provider",
                    "pass",
                )
            return
        if self.expect and (misfit := key_fits(self.expect, scene.host)):
            yield Finding("error", "key-host", f"expect: {_MISFIT}", "expect", f"expect: {misfit}")
            return
        if scene.secrets is None:
            return
        try:
            secret = scene.secrets.resolve(self.place)
        except SecretError as error:
            yield Finding("error", "key-missing", "there is no usable key", precise=str(error))
            return
        if misfit := key_fits(secret.reveal(), scene.host):
            yield Finding("error", "key-host", _MISFIT, precise=misfit)
        yield from self._doubts(scene.secrets)

    def _doubts(self, secrets: SecretStore) -> Iterator[Finding]:
        for option, place in secrets.unused(self.place):
            message = "holds another key than the place before it, which is the one that is used"
            yield Finding("warning", "key-shadowed", f"{option} {message}", option, f"{place} {message}")
        if changeable := secrets.changeable(self.place):
            message = "others than its owner can write this file"
            yield Finding("warning", "key-writable", message, "file", changeable)


Options = Source | Annotated[tuple[Source, ...], Meta(min_length=1)]


class Chosen(NamedTuple):
    """One key to send: `at` is the place of its source; without a `secret` the client's own goes up."""

    at: int
    source: Source
    secret: Secret | None
    digest: str | None


class KeyState(NamedTuple):
    """How it stands with one source; `place` is where its key is found, or else looked for."""

    place: str
    usable: bool
    resting_for: float


class Keys:
    """The sources of one route, and which is next; `ring` is what is known of their keys."""

    def __init__(self, sources: tuple[Source, ...], deps: Deps) -> None:
        self._sources = sources
        self._deps = deps
        self._carriers = {
            dialect: tuple({_header(source, dialect) for source in sources}) for dialect in get_args(Dialect)
        }
        self.ring = deps.states.keep(Keyring, deps.route, lambda: Keyring(deps.stores.resting))

    def __len__(self) -> int:
        return len(self._sources)

    def put_on(self, exchange: Exchange, chosen: Chosen) -> None:
        """Have `exchange` carry that key, and none that an attempt before this one put on."""
        for name in (*self._carriers[exchange.dialect], *exchange.credentials):
            exchange.headers.popall(name, None)
        if chosen.secret is None:
            exchange.headers.extend(exchange.credentials)
            return
        name, text = _header(chosen.source, exchange.dialect), chosen.secret.reveal()
        exchange.headers[name] = f"Bearer {text}" if name.lower() == "authorization" else text

    def next(self, tried: Collection[int] = ()) -> Chosen:
        """The next key in turn that does not rest.

        Raises Refusal `key_missing` if there is no usable one, and LookupError if all that were not `tried`
        rest. Of keys that all rest, and none was tried, it is the one that wakes first: the provider knows
        better than we do, and with one key alone it would be asked as well.
        """
        count = len(self._sources)
        wrong: dict[int, str] = {}
        soonest: tuple[float, Chosen] | None = None
        for i in ((self.ring.turn + n) % count for n in range(count)):
            found = self.look(i) if i not in tried else "tried"
            if isinstance(found, str):
                wrong[i] = found
                continue
            left = 0.0 if found.digest is None else self.ring.left(found.digest)
            if not left:
                self.ring.turn = i + 1
                return found
            if soonest is None or left < soonest[0]:
                soonest = (left, found)
        if tried:
            raise LookupError
        if soonest is None:
            reason = wrong[0].removeprefix("no key: ")
            if self._deps.hides_key:
                reason = "tidegate check says why"
            raise Refusal("key_missing", f"The route {self._deps.route!r} has no usable key: {reason}.")
        self.ring.turn = soonest[1].at + 1
        return soonest[1]

    def look(self, at: int) -> Chosen | str:
        """The key of one source, or why there is none."""
        source = self._sources[at]
        if source.pass_:
            return Chosen(at, source, None, None)
        try:
            secret = self._deps.secrets.resolve(source.place)
        except SecretError as error:
            return str(error)
        if (misfit := key_fits(secret.reveal(), self._deps.host)) is not None:
            return misfit
        digest = digest_of(secret) if len(self._sources) > 1 else None
        return Chosen(at, source, secret, digest)

    def states(self) -> list[KeyState]:
        """How it stands with each source, in their order."""
        told = []
        for at, source in enumerate(self._sources):
            found = self.look(at)
            usable = not isinstance(found, str)
            resting = 0.0 if isinstance(found, str) or found.digest is None else self.ring.left(found.digest)
            told.append(KeyState(self._place(source), usable, resting))
        return told

    def _place(self, source: Source) -> str:
        if source.pass_:
            return "the client's own"
        places = (("env", source.env), ("credential", source.credential), ("file", source.file))
        given = {kind: f"{kind} {name}" for kind, name in places if name is not None}
        try:
            found = self._deps.secrets.find(source.place)[0]
        except SecretError:
            return ", ".join(given.values())
        names = {source.env: "env", f"the credential {source.credential}": "credential"}
        return given[names.get(found, "file")]


class Key:
    """Injects the key, the next one in turn for each attempt."""

    def __init__(self, options: Options, deps: Deps) -> None:
        self._keys = Keys(options if isinstance(options, tuple) else (options,), deps)

    async def __call__(self, exchange: Exchange, call_next: Handler) -> Reply:
        """Put the credential on, then pass on; again with the next one where a key is refused."""
        chosen = self._keys.next()
        if len(self._keys) == 1:
            self._keys.put_on(exchange, chosen)
            return await call_next(exchange)
        return await _Turns(self._keys, exchange, call_next).take(chosen)

    def available(self) -> bool:
        """Whether there is a key to send, resting or not, without using up a turn."""
        return any(not isinstance(self._keys.look(at), str) for at in range(len(self._keys)))

    def next_key(self) -> tuple[Source, Secret | None]:
        """The next usable source and its key (None for `pass`); Refusal `key_missing` if none is."""
        chosen = self._keys.next()
        return chosen.source, chosen.secret

    def states(self) -> list[KeyState]:
        """How it stands with each of its sources, in their order."""
        return self._keys.states()


class _Turns:
    """One exchange's way through several keys.

    Each call starts from the exchange as it came, and what one held is let go before the next. The answer of
    the last key passes, unless one before it was worth more to whoever waits: a limit ends, a refusal stays.
    """

    def __init__(self, keys: Keys, exchange: Exchange, call_next: Handler) -> None:
        self._keys = keys
        self._exchange = exchange
        self._call_next = call_next
        self._before = exchange.snapshot()
        self._tried: set[int] = set()
        self._kept: Reply | None = None

    async def take(self, chosen: Chosen) -> Reply:
        """The first reply that is not about its key, or the best of those that are."""
        exchange, outer = self._exchange, self._exchange.stack
        while True:
            self._tried.add(chosen.at)
            stack = AsyncExitStack()
            outer.push_async_callback(stack.aclose)
            exchange.stack = stack
            self._keys.put_on(exchange, chosen)
            try:
                reply = await self._call_next(exchange)
            except Refusal as refusal:
                if refusal.code == "breaker_open" and self._kept is not None:
                    return self._kept
                raise
            finally:
                exchange.stack = outer
            following = await self._following(chosen, reply)
            if following is None:
                if self._kept is None or _worth(reply) >= _worth(self._kept):
                    return reply
                reply.body.close()
                await stack.aclose()
                return self._kept
            await stack.aclose()
            exchange.restore(self._before)
            chosen = following

    async def _following(self, chosen: Chosen, reply: Reply) -> Chosen | None:
        """The key to go on with; None if this reply is to be sent, or there is no other key."""
        ring = self._keys.ring
        if reply.status not in _REFUSED or reply.blames_request:
            if chosen.digest is not None and reply.status < 400:
                ring.wake(chosen.digest)
            return None
        # First of all: the same key may stand in another place as well.
        self._rest(chosen, reply)
        following = self._another()
        if following is None:
            return None
        source = reply.body
        said = await read_failure(reply)
        if said is not None and blames_request(decode(said)):
            if chosen.digest is not None:
                ring.wake(chosen.digest)
            return None
        source.close()
        if said is not None and (self._kept is None or _worth(reply) >= _worth(self._kept)):
            self._kept = reply
        return following

    def _another(self) -> Chosen | None:
        if isinstance(self._exchange.body, Upload):
            return None  # it was sent, and is gone
        try:
            return self._keys.next(self._tried)
        except LookupError:
            return None

    def _rest(self, chosen: Chosen, reply: Reply) -> None:
        if chosen.digest is not None:
            asked = asked_to_wait(reply.headers)
            self._keys.ring.rest(chosen.digest, _REST_S if asked is None else asked)


def _worth(reply: Reply) -> int:
    """What an answer about a key tells: the later it stands in the list, the more; any other, the most."""
    return _REFUSED.index(reply.status) if reply.status in _REFUSED else len(_REFUSED)


def _header(source: Source, dialect: Dialect) -> str:
    if source.header != "auto":
        return source.header
    return "x-api-key" if dialect == "messages" else "Authorization"
