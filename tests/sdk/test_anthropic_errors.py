"""What goes wrong as the Anthropic SDK raises it: our own errors in its shape, the provider's as they are."""

from __future__ import annotations

from typing import Any

import anthropic as sdk
import pytest

from tests.sdk.clients import Sent, passed_on
from tests.support.anthropic_api import ANTHROPIC_MODEL, Anthropic
from tests.support.messages import PING, Message, named_event
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    head_then_silent,
    reset_before_head,
    silent,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")

ASK: dict[str, Any] = {
    "model": f"claude/{ANTHROPIC_MODEL}",
    "messages": [{"role": "user", "content": "one"}],
    "max_tokens": 50,
}
HASTY = f"claude-hasty/{ANTHROPIC_MODEL}"
OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])


async def refusal(client: Any, **asked: Any) -> sdk.APIStatusError:
    """The error that an SDK raises before it gives any answer out."""
    with pytest.raises(sdk.APIStatusError) as caught:
        await client.messages.create(**ASK | asked)
    return caught.value


def body_of(error: sdk.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    return error.body


OURS = [
    ({"model": ""}, sdk.BadRequestError, 400, "invalid_request", "invalid_request_error"),
    ({"model": "nobody/x"}, sdk.NotFoundError, 404, "model_not_found", "not_found_error"),
    ({"model": "dead/x"}, sdk.InternalServerError, 502, "upstream_connect", "api_error"),
    ({"model": "keyless/x"}, sdk.InternalServerError, 503, "key_missing", "overloaded_error"),
]


@STREAMED
@pytest.mark.parametrize(("asked", "kind", "status", "code", "type_"), OURS, ids=[row[3] for row in OURS])
async def test_an_error_of_ours_has_anthropics_shape(
    anthropic: Any,
    claude: ScriptedUpstream,
    asked: dict[str, Any],
    kind: type,
    status: int,
    code: str,
    type_: str,
    streamed: bool,
) -> None:
    error = await refusal(anthropic, **asked, stream=streamed)

    assert isinstance(error, kind)
    assert (error.status_code, error.response.headers["x-tidegate-error"]) == (status, code)
    body = body_of(error)
    assert (body["type"], body["error"]["type"], body["error"]["code"]) == ("error", type_, code)
    assert body["error"]["message"] in error.message
    assert claude.seen == []


FAILURES = [
    (ASK["model"], reset_before_head(), 502, "upstream_reset", "api_error"),
    (HASTY, silent(), 504, "timeout_first_byte", "timeout_error"),
]


@STREAMED
@pytest.mark.parametrize(("model", "behaviour", "status", "code", "type_"), FAILURES, ids=["reset", "clock"])
async def test_a_provider_that_fails_before_its_answer_is_a_server_error(
    anthropic: Any,
    claude: ScriptedUpstream,
    model: str,
    behaviour: Behaviour,
    status: int,
    code: str,
    type_: str,
    streamed: bool,
) -> None:
    claude.behaviour = behaviour

    error = await refusal(anthropic, model=model, stream=streamed)

    assert isinstance(error, sdk.InternalServerError)
    assert error.status_code == status
    assert (body_of(error)["error"]["code"], body_of(error)["error"]["type"]) == (code, type_)
    assert error.response.headers["x-tidegate-attempts"] == "1"


async def test_an_error_of_ours_has_anthropics_shape_where_tokens_are_counted(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        await anthropic.messages.count_tokens(model="nobody/x", messages=ASK["messages"])

    assert body_of(caught.value).get("type") == "error"
    assert body_of(caught.value)["error"]["type"] == "not_found_error"


THEIRS = [
    (400, sdk.BadRequestError, "invalid_request_error"),
    (401, sdk.AuthenticationError, "authentication_error"),
    (403, sdk.PermissionDeniedError, "permission_error"),
    (404, sdk.NotFoundError, "not_found_error"),
    (413, sdk.APIStatusError, "request_too_large"),
    (429, sdk.RateLimitError, "rate_limit_error"),
    (500, sdk.InternalServerError, "api_error"),
    (529, sdk.InternalServerError, "overloaded_error"),
]


@STREAMED
@pytest.mark.parametrize(("status", "kind", "type_"), THEIRS, ids=[str(row[0]) for row in THEIRS])
async def test_an_error_of_the_providers_passes_as_it_is(
    anthropic: Any, claude: ScriptedUpstream, status: int, kind: type, type_: str, streamed: bool
) -> None:
    body = {"type": "error", "error": {"type": type_, "message": "nö"}, "request_id": "req_theirs"}
    claude.behaviour = answer(status, body, {"request-id": "req_theirs", "retry-after": "77"})

    error = await refusal(anthropic, stream=streamed)

    assert isinstance(error, kind)
    assert (error.status_code, error.body, error.request_id) == (status, body, "req_theirs")
    assert error.response.headers["retry-after"] == "77"
    assert "x-tidegate-error" not in error.response.headers


async def test_an_error_in_mid_stream_is_raised_with_what_the_provider_said(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    begun = list(Message("one two", ANTHROPIC_MODEL).events())[:4]
    claude.behaviour = stream(PING, *begun, named_event("error", error=OVERLOADED), done=False)

    events = await anthropic.messages.create(**ASK, stream=True)
    heard = []
    with pytest.raises(sdk.APIStatusError) as caught:
        async for event in events:
            heard.append(event.type)

    assert heard == ["message_start", "content_block_start", *["content_block_delta"] * 2]
    assert body_of(caught.value) == {"type": "error", "error": OVERLOADED}


async def test_an_error_that_opens_a_stream_is_an_answer_with_a_status(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    claude.behaviour = stream(named_event("error", error=OVERLOADED), done=False)

    error = await refusal(anthropic, stream=True)

    assert (type(error), error.status_code) == (sdk.InternalServerError, 502)
    assert body_of(error)["error"] == OVERLOADED


async def test_a_provider_with_too_much_to_do_is_asked_again_after_the_time_it_names(
    anthropic: Any, claude: ScriptedUpstream, sent: Sent
) -> None:
    busy = answer(529, {"type": "error", "error": OVERLOADED}, {"Retry-After": "1"})
    claude.script(busy, Anthropic())

    async with anthropic.with_options(max_retries=2).messages.stream(**ASK) as events:
        told = await events.get_final_message()

    assert told.content[0].text == "You said: one"
    first, second = claude.seen
    assert second.at - first.at >= 1.0
    assert [seen.header("x-stainless-retry-count") for seen in claude.seen] == ["0", "1"]
    passed_on(sent, claude.seen)


async def test_a_clock_of_ours_that_ran_out_is_not_asked_again(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    claude.script(silent(), Anthropic())

    error = await refusal(anthropic.with_options(max_retries=3), model=HASTY)

    assert (error.status_code, error.response.headers["x-should-retry"]) == (504, "false")
    assert len(claude.seen) == 1


async def test_a_client_that_gives_up_by_its_own_timeout_ends_the_providers_call(
    anthropic: Any, claude: ScriptedUpstream
) -> None:
    claude.behaviour = head_then_silent()

    with pytest.raises(sdk.APITimeoutError):
        await anthropic.messages.create(**ASK, stream=True, timeout=1.0)

    await claude.wait_gone(1)
