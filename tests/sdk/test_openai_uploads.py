"""The OpenAI SDK's forms and binary answers: audio, images and files, every byte as it was."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from typing import Any

import pytest

from tests.sdk.clients import Sent, openai_client, passed_on
from tests.sdk.conftest import MAX_BODY
from tests.support.forms import Form
from tests.support.openai_api import OPENAI_MODEL, SPEECH
from tests.support.process import Tidegate
from tests.support.upstream import ScriptedUpstream, Seen, Wire

pytestmark = pytest.mark.asyncio(loop_scope="package")

MODEL = f"up/{OPENAI_MODEL}"

# With all that could be taken for a form's own: line ends, dashes, a boundary of sorts, a model.
FILE = b'--\r\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/no\r\n' + random.Random(
    7
).randbytes(50_000)
SHA = hashlib.sha256(FILE).hexdigest()


def only_the_model_changed(before: bytes, seen: Seen) -> bool:
    """A form that arrived as it was sent, but for the value of its model."""
    return (
        before.replace(f"\r\n\r\n{MODEL}\r\n".encode(), f"\r\n\r\n{OPENAI_MODEL}\r\n".encode()) == seen.body
    )


async def test_a_transcription_changes_only_the_forms_model(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    told = await client.audio.transcriptions.create(
        model=MODEL, file=("spéech.wav", FILE, "audio/wav"), language="de", timestamp_granularities=["word"]
    )

    assert told.text == SHA
    passed_on(sent, upstream.seen)
    (seen,) = upstream.seen
    assert seen.path == "/v1/audio/transcriptions"
    assert only_the_model_changed(await sent[0].aread(), seen)
    form = Form.of(seen)
    assert form.text("model") == OPENAI_MODEL
    assert hashlib.sha256(form["file"].data).hexdigest() == SHA


async def test_speech_comes_back_as_the_bytes_that_the_provider_sent(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    whole = await client.audio.speech.create(model=MODEL, voice="alloy", input="hello")
    async with client.audio.speech.with_streaming_response.create(
        model=MODEL, voice="alloy", input="hello"
    ) as streamed:
        kind = streamed.headers["content-type"]
        pieces = [piece async for piece in streamed.iter_bytes()]

    assert whole.content == b"".join(pieces) == SPEECH
    assert kind == "audio/mpeg"
    passed_on(sent, upstream.seen)


@pytest.mark.parametrize("what", ["speech", "a file"])
async def test_a_binary_answer_is_passed_on_while_the_provider_still_sends(
    gate: Tidegate, upstream: ScriptedUpstream, sent: Sent, what: str
) -> None:
    go_on = asyncio.Event()

    async def send(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/octet-stream"})
        await wire.chunk(SPEECH[:100])
        await go_on.wait()
        await wire.chunk(SPEECH[100:])
        await wire.finish()

    upstream.behaviour = send
    async with openai_client(gate.base_url + "/up/v1", sent, max_retries=0) as client:
        if what == "speech":
            asked = client.audio.speech.with_streaming_response.create(
                model=OPENAI_MODEL, voice="alloy", input="hello"
            )
        else:
            asked = client.files.with_streaming_response.content("file-simulated")
        async with asked as streamed, asyncio.timeout(10):
            pieces = streamed.iter_bytes()
            first = await anext(pieces)
            go_on.set()
            rest = [piece async for piece in pieces]

    assert first == SPEECH[:100]
    assert first + b"".join(rest) == SPEECH


async def test_images_are_generated_and_edited(client: Any, upstream: ScriptedUpstream, sent: Sent) -> None:
    made = await client.images.generate(model=MODEL, prompt="a tide", size="1024x1024")
    edited = await client.images.edit(
        model=MODEL, image=("tide.png", FILE, "image/png"), prompt="another tide"
    )

    assert base64.b64decode(made.data[0].b64_json) == b"a tide"
    assert base64.b64decode(edited.data[0].b64_json).decode() == SHA
    passed_on(sent, upstream.seen)
    assert only_the_model_changed(await sent[1].aread(), upstream.seen[1])
    assert Form.of(upstream.seen[1]).text("prompt") == "another tide"


async def test_several_images_are_edited_in_one_form(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    async def behave(seen: Seen, wire: Wire) -> None:
        said = [hashlib.sha256(part.data).hexdigest() for part in Form.of(seen).parts if part.filename]
        await wire.json(200, {"created": 0, "data": [{"url": digest} for digest in said]})

    upstream.behaviour = behave
    files = [("a.png", FILE, "image/png"), ("b.png", FILE[::-1], "image/png")]
    told = await client.images.edit(model=MODEL, image=files, prompt="both")

    assert [image.url for image in told.data] == [SHA, hashlib.sha256(FILE[::-1]).hexdigest()]
    passed_on(sent, upstream.seen)
    assert only_the_model_changed(await sent[0].aread(), upstream.seen[0])


@pytest.mark.parametrize("named_by", ["path", "header"])
async def test_files_go_up_and_come_down_through_a_route_that_is_named(
    gate: Tidegate, upstream: ScriptedUpstream, sent: Sent, named_by: str
) -> None:
    """A file is larger than what may be held of a JSON body: it is streamed through, and is no JSON."""
    data = random.Random(8).randbytes(4 * MAX_BODY)
    place = "/up/v1" if named_by == "path" else "/v1"
    headers = {} if named_by == "path" else {"x-tidegate-provider": "up"}
    async with openai_client(gate.base_url + place, sent, max_retries=0, default_headers=headers) as client:
        put = await client.files.create(file=("batch.jsonl", data), purpose="batch")
        listed = [file.id async for file in client.files.list()]
        content = await client.files.content("file-simulated")
        gone = await client.files.delete("file-simulated")

    assert (put.id, put.bytes, put.filename) == (hashlib.sha256(data).hexdigest(), len(data), "batch.jsonl")
    assert listed == ["file-simulated"]
    assert content.content == SPEECH
    assert gone.deleted
    passed_on(sent, upstream.seen)
    assert upstream.seen[0].body == await sent[0].aread()
