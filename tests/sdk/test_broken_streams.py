"""A stream that breaks after N events never ends like a complete one, whatever N and however it breaks.

Between events and within them, by FIN, by RST, and by a proper end of the HTTP body that leaves out what
ends the stream. The SDKs must raise, and a bare client must see an error's status or a body without an end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import anthropic
import httpx2
import openai
import pytest
from anthropic import APIStatusError

from tests.support.anthropic_api import ANTHROPIC_MODEL
from tests.support.completions import Completion
from tests.support.messages import Message
from tests.support.openai_api import OPENAI_MODEL
from tests.support.process import Tidegate
from tests.support.raw import RawClient, header, post
from tests.support.responses import Answer
from tests.support.upstream import DONE, Behaviour, ScriptedUpstream, Seen, Wire, sse_event

pytestmark = pytest.mark.asyncio(loop_scope="package")

How = Literal["fin", "rst", "proper end"]
HOW = pytest.mark.parametrize("how", ["fin", "rst", "proper end"])
TEXT = "one two three"
SAY = [{"role": "user", "content": "count"}]
CHAT: dict[str, Any] = {"model": f"up/{OPENAI_MODEL}", "messages": SAY}
MESSAGE: dict[str, Any] = {"model": f"claude/{ANTHROPIC_MODEL}", "messages": SAY, "max_tokens": 9}
RESPONSE: dict[str, Any] = {"model": f"up/{OPENAI_MODEL}", "input": "count"}


@dataclass(frozen=True)
class Api:
    """A kind of stream: after `enough` whole events, a proper end of its HTTP body completes it."""

    path: str
    body: dict[str, Any]
    events: tuple[bytes, ...]
    enough: int
    error: re.Pattern[bytes]

    def error_in(self, told: bytes) -> str:
        """The one event that tells of the break, in this API's own shape."""
        return "error event" if self.error.fullmatch(told) else repr(told)


CHAT_EVENTS = (*map(sse_event, Completion(TEXT, OPENAI_MODEL).events()), DONE)
MESSAGE_EVENTS = tuple(Message(TEXT, ANTHROPIC_MODEL).events())
RESPONSE_EVENTS = tuple(Answer(TEXT, OPENAI_MODEL).events())
_PLAIN = rb'"error":{"message":"[^"]+","type":"proxy_error","param":null,"code":"upstream_cut"}'
_NAMED = rb'event: error\ndata: {"type":"error",'
APIS = {
    # Its finish_reason is as good as [DONE], which not every provider sends.
    "chat": Api(
        "/v1/chat/completions",
        CHAT,
        CHAT_EVENTS,
        len(CHAT_EVENTS) - 1,
        re.compile(rb"data: {" + _PLAIN + rb"}\n\n"),
    ),
    "messages": Api(
        "/v1/messages",
        MESSAGE,
        MESSAGE_EVENTS,
        len(MESSAGE_EVENTS),
        re.compile(
            _NAMED + rb'"error":{"type":"api_error","message":"[^"]+","code":"upstream_cut"}}\n\n',
        ),
    ),
    "responses": Api(
        "/v1/responses",
        RESPONSE,
        RESPONSE_EVENTS,
        len(RESPONSE_EVENTS),
        re.compile(_NAMED + rb'"code":"upstream_cut","message":"[^"]+","param":null,' + _PLAIN + rb"}\n\n"),
    ),
}


@dataclass(frozen=True)
class Break:
    """Where a stream breaks: after so many whole events, and so many bytes of the next."""

    api: Api
    whole: int
    more: int = 0

    @property
    def sent(self) -> bytes:
        after = self.api.events[self.whole][: self.more] if self.more else b""
        return b"".join(self.api.events[: self.whole]) + after

    def completes(self, how: How) -> bool:
        return how == "proper end" and self.whole >= self.api.enough


def breaks(api: Api) -> Iterator[Break]:
    """Every boundary; and within each event its middle, and all but the line end that completes it."""
    for whole, event in enumerate(api.events):
        yield from (Break(api, whole, more) for more in (0, len(event) // 2, len(event) - 1))
    yield Break(api, len(api.events))


def broken(point: Break, how: How, go: asyncio.Event) -> Behaviour:
    """Send up to the point, and break as soon as `go` is set."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.sse(done=False)
        for event in point.api.events[: point.whole]:
            await wire.chunk(event)
        if point.more:
            await wire.chunk(point.api.events[point.whole][: point.more])
        await go.wait()
        match how:
            case "fin":
                wire.close()
            case "rst":
                wire.reset()
            case "proper end":
                await wire.finish()

    return behave


async def bare(gate: Tidegate, point: Break, go: asyncio.Event) -> str:
    """What a client sees that knows HTTP alone; it has the stream break when all before that has come."""
    got = b""
    async with RawClient(gate.port) as client, asyncio.timeout(10):
        await client.send(post(point.api.path, point.api.body | {"stream": True}))
        if not point.whole:
            go.set()
        status, headers = await client.read_head()
        if status != 200:
            return f"{status} {header(headers, 'x-tidegate-error')}"
        try:
            async for _, piece in client.read_chunks():
                got += piece
                if got == point.sent:
                    go.set()
        except EOFError:
            end = "no end"
        else:
            end = "an end"
    assert got.startswith(point.sent)
    told = got.removeprefix(point.sent)
    return f"{point.api.error_in(told)}, {end}" if told else end


def seen_bare(point: Break, how: How) -> set[str]:
    """What the contract allows a bare client to see."""
    if not point.whole:
        return {"502 upstream_cut", "502 upstream_reset"} if how == "rst" else {"502 upstream_cut"}
    if point.completes(how):
        return {"an end"}
    return {"no end"} if point.more else {"error event, no end"}


@HOW
@pytest.mark.parametrize("name", APIS)
async def test_a_bare_client_sees_that_a_stream_broke(
    gate: Tidegate, upstream: ScriptedUpstream, claude: ScriptedUpstream, name: str, how: How
) -> None:
    api = APIS[name]
    wrong = {}
    for point in breaks(api):
        go = asyncio.Event()
        upstream.behaviour = claude.behaviour = broken(point, how, go)
        saw = await bare(gate, point, go)
        if saw not in seen_bare(point, how):
            wrong[point.whole, point.more] = saw

    assert not wrong


@HOW
async def test_comments_do_not_commit_a_stream_and_come_with_its_first_event(
    gate: Tidegate, upstream: ScriptedUpstream, how: How
) -> None:
    """A provider's sign of life is held: until there is an event, a break is still told by a status."""
    api, comment = APIS["chat"], b": PROCESSING\n\n"
    heard = replace(api, events=(comment, comment, *api.events), enough=api.enough + 2)
    saw = []
    for whole in (2, 3, len(heard.events)):
        point, go = Break(heard, whole), asyncio.Event()
        upstream.behaviour = broken(point, how, go)
        if whole == 2:
            go.set()
        saw.append(await bare(gate, point, go))

    assert saw[0] in seen_bare(Break(api, 0), how)
    assert saw[1] == "error event, no end"
    assert {saw[2]} == seen_bare(Break(api, len(api.events)), how)


async def chat(client: Any) -> str:
    stream = await client.chat.completions.create(**CHAT, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def chat_accumulated(client: Any) -> str:
    async with client.chat.completions.stream(**CHAT) as stream:
        return str((await stream.get_final_completion()).choices[0].message.content)


async def response(client: Any) -> str:
    stream = await client.responses.create(**RESPONSE, stream=True)
    return "".join([event.delta async for event in stream if event.type.endswith(".delta")])


async def response_accumulated(client: Any) -> str:
    async with client.responses.stream(**RESPONSE) as stream:
        return str((await stream.get_final_response()).output_text)


async def message(client: Any) -> str:
    stream = await client.messages.create(**MESSAGE, stream=True)
    return "".join([event.delta.text async for event in stream if event.type == "content_block_delta"])


async def message_accumulated(client: Any) -> str:
    async with client.messages.stream(**MESSAGE) as stream:
        return str((await stream.get_final_message()).content[0].text)


Reader = Callable[[Any], Coroutine[Any, Any, str]]
RAISED = (openai.APIError, anthropic.APIError, httpx2.HTTPError)


async def accepted(read: Reader, client: Any, point: Break, how: How, *served_by: ScriptedUpstream) -> bool:
    """Whether the SDK took the stream for a complete one; it breaks at once, not when all has arrived."""
    go = asyncio.Event()
    go.set()
    for upstream in served_by:
        upstream.behaviour = broken(point, how, go)
    try:
        async with asyncio.timeout(10):
            text = await read(client)
    except RAISED:
        return False
    assert text == TEXT, f"cut after {point.whole} events and {point.more} bytes, and taken for complete"
    return True


@HOW
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (chat, "chat"),
        (chat_accumulated, "chat"),
        (response, "responses"),
        (response_accumulated, "responses"),
    ],
)
async def test_the_openai_sdk_raises_when_a_stream_broke(
    client: Any, upstream: ScriptedUpstream, read: Reader, name: str, how: How
) -> None:
    api = APIS[name]
    whole = Break(api, len(api.events))
    taken = [point for point in breaks(api) if await accepted(read, client, point, how, upstream)]

    if name == "chat" and how != "proper end":
        # It stops reading at [DONE], and rightly: nothing is missing from what it has got.
        taken = [point for point in taken if point != whole]
    assert taken == [point for point in breaks(api) if point.completes(how)]


@HOW
@pytest.mark.parametrize("read", [message, message_accumulated])
async def test_the_anthropic_sdk_raises_when_a_stream_broke(
    anthropic: Any, claude: ScriptedUpstream, read: Reader, how: How
) -> None:
    api = APIS["messages"]
    taken = [point for point in breaks(api) if await accepted(read, anthropic, point, how, claude)]

    assert taken == [point for point in breaks(api) if point.completes(how)]


@pytest.mark.parametrize("read", [chat, chat_accumulated, response, response_accumulated])
async def test_the_openai_sdk_is_told_what_broke(
    client: Any, upstream: ScriptedUpstream, read: Reader
) -> None:
    go = asyncio.Event()
    go.set()
    upstream.behaviour = broken(Break(APIS["chat" if "chat" in read.__name__ else "responses"], 3), "fin", go)

    with pytest.raises(openai.APIError) as caught:
        await read(client)

    assert (caught.value.code, caught.value.type) == ("upstream_cut", "proxy_error")
    assert "broke off" in caught.value.message


@pytest.mark.parametrize("read", [message, message_accumulated])
async def test_the_anthropic_sdk_is_told_what_broke(
    anthropic: Any, claude: ScriptedUpstream, read: Reader
) -> None:
    go = asyncio.Event()
    go.set()
    claude.behaviour = broken(Break(APIS["messages"], 3), "fin", go)

    with pytest.raises(APIStatusError) as caught:
        await read(anthropic)

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["code"] == "upstream_cut"
