"""One connection to a Redis, on which scripts are run in the order in which they were asked for.

What is asked while others are under way goes with the next batch, in one round trip. The order matters: a
slot that was given back is free for whoever of this process asks next, on whatever connection of a client.
A pool of connections would lose it.

A round trip has `BUDGET_S`. A batch that is late, or fails in any other way, loses the link:
whoever waits on it is told, and nothing is asked of it until it is `open` again. No text of an error
leaves here, since it may quote what was sent; its kind does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError

from middlewares.redis_scripts import SCRIPTS, Script

BUDGET_S = 0.05
"""For one round trip. Decisions that are late are made without Redis."""
_OPENED_WITHIN_S = 1.0
_STOOD_STILL_S = 0.01
"""A timer that fires so late tells of our own loop, and not of Redis: what has come by then counts."""
_LARGEST_BATCH = 256
_MOST_WAITING = 20_000
_LOADED = tuple(("SCRIPT", "LOAD", script.text) for script in SCRIPTS)
_WRITTEN = ("SET", "tidegate:{shared}:opened", "1", "PX", 60_000)
T = TypeVar("T")

Reply = Any
Argument = str | int | float


class StoreLost(Exception):
    """It does not answer, or not in time. `reason` names the kind of failure and quotes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class _Asked:
    """One run of a script. `unwanted` is told the reply when whoever waited for it has left."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]
    answer: asyncio.Future[Reply] | None = None
    unwanted: Callable[[Reply], object] | None = None

    def deliver(self, reply: Reply) -> None:
        if self.answer is None:
            return
        if not self.answer.done():
            self.answer.set_result(reply)
        elif self.answer.cancelled() and self.unwanted is not None:
            self.unwanted(reply)

    def fail(self, error: StoreLost) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)


class Link:
    """Closed to begin with; `lost` is called with the reason whenever it fails while it is open."""

    def __init__(self, url: str, lost: Callable[[str], None]) -> None:
        self._url = url
        self._lost = lost
        self._connection: Connection | None = None
        self._digests: dict[str, str] = {}
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it may be asked."""
        return self._connection is not None

    async def open(self) -> None:
        """Connect, bring the scripts along, and see that it can write. Raises StoreLost."""
        options = cast("dict[str, Any]", parse_url(self._url))
        kind = options.pop("connection_class", Connection)
        # RESP2 and no word about ourselves: the fewest commands, which every ACL allows.
        connection = kind(**options, protocol=2, driver_info=None, socket_timeout=None)
        try:
            async with asyncio.timeout(_OPENED_WITHIN_S):
                await connection.connect()
                digests = await _run(connection, [*_LOADED, _WRITTEN])
                _raise_first(digests)
        except (RedisError, OSError, ValueError) as error:
            await _closed(connection)
            raise StoreLost(_reason(error)) from None
        except asyncio.CancelledError:
            await _closed(connection)
            raise
        self._digests = {
            script.name: digest.decode() for script, digest in zip(SCRIPTS, digests, strict=False)
        }
        self._connection = connection

    def ask(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        unwanted: Callable[[Reply], object] | None = None,
    ) -> asyncio.Future[Reply]:
        """The reply to come; it raises StoreLost."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._send(_Asked(script, keys, arguments, answer, unwanted))
        return answer

    def tell(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> None:
        """Have it run; nobody waits for it, and when the link is lost it is lost, too."""
        self._send(_Asked(script, keys, arguments))

    def _send(self, asked: _Asked) -> None:
        if self._connection is None or len(self._waiting) >= _MOST_WAITING:
            asked.fail(StoreLost("not connected"))
            return
        self._waiting.append(asked)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        batch: list[_Asked] = []
        try:
            while self._waiting and (connection := self._connection) is not None:
                batch, self._waiting = self._waiting[:_LARGEST_BATCH], self._waiting[_LARGEST_BATCH:]
                replies = await _within_budget(self._run_batch(connection, batch))
                for asked, reply in zip(batch, replies, strict=True):
                    asked.deliver(reply)
                batch = []
        except (RedisError, OSError) as error:
            reason = _reason(error)
            # Before anything is waited for: a new connection may be there by then.
            lost, self._sending = self._drop(reason, batch), None
            if lost is not None:
                self._lost(reason)
                await _closed(lost)
        except asyncio.CancelledError:
            _fail(batch, "closed")
            raise
        else:
            self._sending = None

    async def _run_batch(self, connection: Connection, batch: Sequence[_Asked]) -> list[Reply]:
        replies = await _run(connection, [_evalsha(asked, self._digests) for asked in batch])
        # Somebody has emptied its cache of scripts: those have done nothing, and are sent with their text.
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await _run(connection, [_eval(batch[i]) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        # One that cannot write (a replica, no memory left, no permission) cannot count.
        _raise_first(replies)
        return replies

    def _drop(self, reason: str, batch: Sequence[_Asked] = ()) -> Connection | None:
        """Ask nothing of it any more; whoever waits is told."""
        connection, self._connection = self._connection, None
        waiting, self._waiting = self._waiting, []
        _fail((*batch, *waiting), reason)
        return connection

    async def close(self) -> None:
        """Send what waits, for as long as the budget allows, and let go of the connection."""
        if (sending := self._sending) is not None:
            await asyncio.wait({sending}, timeout=BUDGET_S)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._sending = None
        if (connection := self._drop("closed")) is not None:
            await _closed(connection)


def _fail(batch: Sequence[_Asked], reason: str) -> None:
    for asked in batch:
        asked.fail(StoreLost(reason))


def _evalsha(asked: _Asked, digests: dict[str, str]) -> tuple[Argument, ...]:
    return ("EVALSHA", digests[asked.script.name], len(asked.keys), *asked.keys, *asked.arguments)


def _eval(asked: _Asked) -> tuple[Argument, ...]:
    return ("EVAL", asked.script.text, len(asked.keys), *asked.keys, *asked.arguments)


def _raise_first(replies: Sequence[Reply]) -> None:
    failed = next((reply for reply in replies if isinstance(reply, ResponseError)), None)
    if failed is not None:
        raise failed


async def _run(connection: Connection, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
    """All of them in one go; an error of one is among the replies."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


async def _within_budget(work: Coroutine[Any, Any, T]) -> T:
    """Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    try:
        due = loop.time() + BUDGET_S
        await asyncio.wait({task}, timeout=BUDGET_S)
        if not task.done() and loop.time() - due > _STOOD_STILL_S:
            await asyncio.wait({task}, timeout=_STOOD_STILL_S)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _closed(connection: Connection) -> None:
    with suppress(RedisError, OSError):  # it is gone either way
        await connection.disconnect(nowait=True)


def _reason(error: Exception) -> str:
    """The kind of failure; of its texts only the operating system's, which quotes nothing."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ResponseError):
        word = str(error).partition(" ")[0]
        return f"{type(error).__name__} {word}" if word.isupper() and word.isalpha() else type(error).__name__
    cause = error.__cause__ or error.__context__
    said = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
