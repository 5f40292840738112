"""What goes wrong as the OpenAI SDK raises it: our own errors, the provider's as they are, and retries."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.sdk.clients import Sent, openai_client, passed_on
from tests.sdk.conftest import MAX_BODY
from tests.support.openai_api import OPENAI_MODEL, OpenAI
from tests.support.process import Tidegate
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    Seen,
    Wire,
    answer,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
    sse_event,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")

MODEL = f"up/{OPENAI_MODEL}"
HASTY = f"hasty/{OPENAI_MODEL}"
SAY = [{"role": "user", "content": "one"}]
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])


async def refusal(client: Any, **asked: Any) -> openai.APIStatusError:
    """The error that an SDK raises before it gives any answer out."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": MODEL, "messages": SAY} | asked)
    return caught.value


OURS = [
    ({"model": ""}, openai.BadRequestError, 400, "invalid_request", "model"),
    ({"model": "nobody/x"}, openai.NotFoundError, 404, "model_not_found", "model"),
    ({"messages": [{"content": "x" * MAX_BODY}]}, openai.APIStatusError, 413, "body_too_large", None),
    ({"model": "dead/x"}, openai.InternalServerError, 502, "upstream_connect", None),
    ({"model": "keyless/x"}, openai.InternalServerError, 503, "key_missing", None),
]


@STREAMED
@pytest.mark.parametrize(("asked", "kind", "status", "code", "param"), OURS, ids=[row[3] for row in OURS])
async def test_an_error_of_ours_has_its_class_and_the_fields_of_openais(
    client: Any,
    upstream: ScriptedUpstream,
    asked: dict[str, Any],
    kind: type,
    status: int,
    code: str,
    param: str | None,
    streamed: bool,
) -> None:
    error = await refusal(client, **asked, stream=streamed)

    assert type(error) is kind
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.response.headers["x-tidegate-error"] == code
    assert error.type and error.message
    assert upstream.seen == []


async def test_a_body_that_is_no_json_and_a_path_that_is_not_ours_are_told_apart(
    gate: Tidegate, client: Any, sent: Sent
) -> None:
    with pytest.raises(openai.BadRequestError) as broken:
        await client.post(
            "/chat/completions",
            cast_to=object,
            content=b'{"model": ',
            options={"headers": {"Content-Type": "application/json"}},
        )
    async with openai_client(gate.base_url + "/v2", sent, max_retries=0) as lost:
        elsewhere = await refusal(lost)

    assert broken.value.code == "invalid_json"
    assert (type(elsewhere), elsewhere.code) == (openai.NotFoundError, "not_found")


FAILURES = [
    (MODEL, reset_before_head(), 502, "upstream_reset"),
    (MODEL, garbage(), 502, "upstream_protocol"),
    (MODEL, answer(307, {}, {"Location": "http://elsewhere.example/"}), 502, "upstream_protocol"),
    (HASTY, silent(), 504, "timeout_first_byte"),
]


@STREAMED
@pytest.mark.parametrize(
    ("model", "behaviour", "status", "code"), FAILURES, ids=["reset", "garbage", "redirect", "silence"]
)
async def test_a_provider_that_fails_before_its_answer_is_a_server_error(
    client: Any,
    upstream: ScriptedUpstream,
    model: str,
    behaviour: Behaviour,
    status: int,
    code: str,
    streamed: bool,
) -> None:
    upstream.behaviour = behaviour

    error = await refusal(client, model=model, stream=streamed)

    assert type(error) is openai.InternalServerError
    assert (error.status_code, error.code) == (status, code)
    assert error.response.headers["x-tidegate-attempts"] == "1"


async def test_a_stream_that_is_cut_before_its_first_event_is_a_server_error(
    client: Any, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = cut_after(0)

    error = await refusal(client, stream=True)

    assert (error.status_code, error.code) == (502, "upstream_cut")


THEIRS = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (402, openai.APIStatusError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
    (529, openai.InternalServerError),
]


@STREAMED
@pytest.mark.parametrize(("status", "kind"), THEIRS, ids=[str(row[0]) for row in THEIRS])
async def test_an_error_of_the_providers_passes_as_it_is(
    client: Any, upstream: ScriptedUpstream, status: int, kind: type, streamed: bool
) -> None:
    body = {"message": f"nö {status}", "type": "theirs", "param": "p", "code": "own_code", "more": [1]}
    headers = {"x-request-id": "req_theirs", "Retry-After": "77", "x-ratelimit-remaining-requests": "0"}
    upstream.behaviour = answer(status, {"error": body}, headers)

    error = await refusal(client, stream=streamed)

    assert type(error) is kind
    assert (error.status_code, error.body, error.code) == (status, body, "own_code")
    assert error.request_id == "req_theirs"
    assert {name: error.response.headers[name] for name in headers} == headers
    assert "x-tidegate-error" not in error.response.headers
    assert "x-should-retry" not in error.response.headers


async def test_an_error_that_opens_a_stream_has_the_status_that_it_names(
    client: Any, upstream: ScriptedUpstream
) -> None:
    body = {"code": 429, "message": "Rate limit exceeded"}
    upstream.behaviour = stream({"error": body})

    error = await refusal(client, stream=True)

    assert type(error) is openai.RateLimitError
    assert error.body == body


async def test_an_error_in_mid_stream_is_raised_with_what_the_provider_said(
    client: Any, upstream: ScriptedUpstream
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": None}]}
    body = {"code": 502, "message": "Provider returned error"}
    upstream.behaviour = stream(said, {"error": body})

    chunks = await client.chat.completions.create(model=MODEL, messages=SAY, stream=True)
    first = await anext(chunks)
    with pytest.raises(openai.APIError) as caught:
        await anext(chunks)

    assert first.choices[0].delta.content == "one"
    assert caught.value.body == body


def cut_plain(body: bytes) -> Behaviour:
    """So much of a plain answer that announced more."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/json", "Content-Length": "100"})
        await wire.raw(body)
        wire.close()

    return behave


async def test_a_plain_answer_that_is_cut_is_an_error_of_the_server_or_the_connection(
    client: Any, upstream: ScriptedUpstream
) -> None:
    """Before its first byte there is still a status to tell it with."""
    upstream.behaviour = cut_plain(b"")
    before = await refusal(client)
    upstream.behaviour = cut_plain(b'{"choices": []')
    with pytest.raises(openai.APIConnectionError) as within:
        await client.chat.completions.create(model=MODEL, messages=SAY)

    assert (before.status_code, before.code) == (502, "upstream_cut")
    assert not isinstance(within.value, openai.APITimeoutError)


async def test_a_stream_that_stands_still_is_a_timeout_of_the_clients_own(
    client: Any, upstream: ScriptedUpstream
) -> None:
    async def stalls(_seen: Seen, wire: Wire) -> None:
        await wire.sse(sse_event({"choices": []}), done=False)
        await wire.client_gone()

    upstream.behaviour = stalls
    chunks = await client.chat.completions.create(model=MODEL, messages=SAY, stream=True, timeout=1.0)
    with pytest.raises(openai.APITimeoutError):
        async for _ in chunks:
            pass

    await upstream.wait_gone(1)


@pytest.mark.parametrize(
    ("behaviour", "streamed"),
    [(silent(), False), (head_then_silent(), True)],
    ids=["plain", "stream after its head"],
)
async def test_a_client_that_gives_up_by_its_own_timeout_ends_the_providers_call(
    client: Any, upstream: ScriptedUpstream, behaviour: Behaviour, streamed: bool
) -> None:
    upstream.behaviour = behaviour

    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model=MODEL, messages=SAY, stream=streamed, timeout=1.0)

    await upstream.wait_gone(1)


async def test_a_rate_limit_is_waited_out_and_a_stream_asked_for_again(
    client: Any, upstream: ScriptedUpstream, sent: Sent
) -> None:
    upstream.script(answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}), OpenAI())

    chunks = await client.with_options(max_retries=2).chat.completions.create(
        model=MODEL, messages=SAY, stream=True
    )
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert said == "You said: one"
    first, second = upstream.seen
    assert second.at - first.at >= 1.0
    passed_on(sent, upstream.seen)
    assert [seen.header("x-stainless-retry-count") for seen in upstream.seen] == ["0", "1"]


async def test_a_connection_that_the_provider_reset_is_asked_again(
    client: Any, upstream: ScriptedUpstream
) -> None:
    async def first_time_unlucky(seen: Seen, wire: Wire) -> None:
        # By the SDK's count, since a pooled connection that fails is replaced without being told.
        if seen.header("x-stainless-retry-count") == "0":
            wire.reset()
        else:
            await OpenAI()(seen, wire)

    upstream.behaviour = first_time_unlucky

    told = await client.with_options(max_retries=1).chat.completions.create(model=MODEL, messages=SAY)

    assert told.choices[0].message.content == "You said: one"
    assert upstream.seen[-1].header("x-stainless-retry-count") == "1"


async def test_a_clock_of_ours_that_ran_out_is_not_asked_again(
    client: Any, upstream: ScriptedUpstream
) -> None:
    """The provider may have done the work, and been paid for it: to ask again is for the user to decide."""
    upstream.script(silent(), OpenAI())

    error = await refusal(client.with_options(max_retries=3), model=HASTY)

    assert (error.status_code, error.code) == (504, "timeout_first_byte")
    assert error.response.headers["x-should-retry"] == "false"
    assert len(upstream.seen) == 1
