"""The simulated providers refuse what the real ones refuse, and say so in the same words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from tests.support.providers import kimi, moonshot, ollama, openrouter, simulated
from tests.support.upstream import Behaviour, ScriptedUpstream

AGENT = "KimiCLI/1.0"


def asking(model: str, text: str = "Answer PONG", **rest: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **rest}


async def fetch(
    upstream: ScriptedUpstream, path: str, body: object = None, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    method = "GET" if body is None else "POST"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, upstream.url + path, json=body, headers=named) as response,
    ):
        return response.status, response.headers, await response.text()


async def call(behaviour: Behaviour, body: object, key: str, agent: str = AGENT) -> tuple[int, Any]:
    async with simulated(behaviour) as upstream:
        status, _, text = await fetch(
            upstream, "/chat/completions", body, Authorization=f"Bearer {key}", User_Agent=agent
        )
    return status, json.loads(text)


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(item) for item in data if item != "[DONE]"]


async def test_kimi_lists_models_to_anybody_under_its_base_alone() -> None:
    async with simulated(kimi()) as upstream:
        assert upstream.url.endswith("/coding/v1")
        status, _, text = await fetch(upstream, "/models", User_Agent="curl/8")
        assert status == 200 and json.loads(text)["data"][0]["id"] == "kimi-for-coding"
        assert (await fetch(upstream, "/embeddings", {}))[0] == 404
    async with simulated(kimi(), base="/v1") as upstream:
        assert (await fetch(upstream, "/models"))[0] == 404


@pytest.mark.parametrize(
    ("key", "agent", "change", "status", "message"),
    [
        ("sk-other", AGENT, {}, 401, "Invalid Authentication"),
        ("sk-kimi-unknown", AGENT, {}, 401, "Invalid Authentication"),
        (
            "sk-kimi-simulated",
            "python-requests/2",
            {},
            403,
            "only available for Coding Agents such as Kimi CLI",
        ),
        ("sk-kimi-simulated", "not KimiCLI/1.0", {}, 403, "only available for Coding Agents"),
        ("sk-kimi-simulated", AGENT, {"model": "kimi/kimi-for-coding"}, 404, "Not found the model"),
        ("sk-kimi-simulated", AGENT, {"temperature": 0.6}, 400, "invalid temperature: only 1 is allowed"),
        ("sk-kimi-simulated", AGENT, {"max_tokens": "1500"}, 400, "invalid max_tokens"),
        ("sk-kimi-simulated", AGENT, {"messages": []}, 400, "messages must not be empty"),
    ],
)
async def test_kimi_refuses(key: str, agent: str, change: dict[str, Any], status: int, message: str) -> None:
    got, answer = await call(kimi(), asking("kimi-for-coding") | change, key, agent)
    assert got == status and message in answer["error"]["message"]


async def test_kimi_spends_a_small_budget_on_reasoning_alone() -> None:
    for limit, content, reason in ((800, "", "length"), (1000, "", "length"), (1001, "PONG", "stop")):
        status, answer = await call(
            kimi(), asking("kimi-for-coding", max_tokens=limit, temperature=1), "sk-kimi-simulated"
        )
        choice = answer["choices"][0]
        assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, content, reason)
        assert answer["usage"]["completion_tokens"] == limit
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == min(limit, 1000)


async def test_kimi_streams_its_reasoning_first() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with simulated(kimi(pause=0.01)) as upstream:
        status, _, text = await fetch(
            upstream,
            "/chat/completions",
            asking("kimi-for-coding", "say it", **options),
            Authorization="Bearer sk-kimi-simulated",
            User_Agent=AGENT,
        )
    assert status == 200 and text.endswith("data: [DONE]\n\n")
    *chunks, usage = events(text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    order = "".join("r" if "reasoning_content" in delta else "c" for delta in deltas[1:-1])
    assert order == "r" * 20 + "c" * 4
    assert "".join(delta.get("content", "") for delta in deltas) == "You said: say it"
    assert usage["usage"]["completion_tokens"] == 1004


async def test_kimi_answers_messages_to_any_agent_with_its_own_key_header() -> None:
    async with simulated(kimi()) as upstream:
        status, _, text = await fetch(upstream, "/messages", asking("any"), x_api_key="sk-kimi-simulated")
        assert status == 200 and json.loads(text)["content"] == [{"type": "text", "text": "PONG"}]
        body = asking("any", stream=True)
        status, _, text = await fetch(upstream, "/messages", body, x_api_key="sk-kimi-simulated")
        assert status == 200 and events(text)[-1] == {"type": "message_stop"}
        status, _, text = await fetch(upstream, "/messages", body, Authorization="Bearer sk-kimi-simulated")
        assert status == 401 and json.loads(text)["type"] == "error"


async def test_moonshot_knows_the_keys_of_its_region_only() -> None:
    body = asking("kimi-k2.6", temperature=0.6)
    assert (await call(moonshot("ai"), body, "sk-moonshot-ai"))[0] == 200
    for key in ("sk-moonshot-ai", "sk-kimi-simulated"):
        assert await call(moonshot("cn"), body, key) == (
            401,
            {"error": {"message": "Invalid Authentication", "type": "invalid_authentication_error"}},
        )
    assert (await call(moonshot("cn"), asking("kimi-k2.6", temperature=0.7), "sk-moonshot-cn"))[0] == 400
    assert (await call(moonshot("cn"), asking("kimi-k2", temperature=0.7), "sk-moonshot-cn"))[0] == 200


@pytest.mark.parametrize(
    ("model", "status", "before"),
    [("moonshotai/kimi-k2.6", None, 3), ("fail/first", 502, 0), ("fail/middle", 502, 3)],
)
async def test_openrouter_streams_open_with_comments(model: str, status: int | None, before: int) -> None:
    async with simulated(openrouter()) as upstream:
        code, headers, text = await fetch(
            upstream, "/chat/completions", asking(model, stream=True), Authorization="Bearer sk-or-simulated"
        )
    assert code == 200 and headers["X-Generation-Id"] == "gen-simulated"
    assert text.startswith(": OPENROUTER PROCESSING\n\n")
    answers = events(text)
    failed = [event["error"]["code"] for event in answers if "error" in event]
    assert failed == ([status] if status else []) and text.endswith("data: [DONE]\n\n") is (status is None)
    assert len(answers) == before + (1 if status else 0)
    if model == "fail/middle":
        assert answers[-1]["choices"][0]["finish_reason"] == "error"


async def test_openrouter_refusals() -> None:
    async with simulated(openrouter()) as upstream:
        for model, status in (("fail/credits", 402), ("fail/busy", 429), ("fail/first", 502), ("bare", 400)):
            got, headers, text = await fetch(
                upstream, "/chat/completions", asking(model), Authorization="Bearer sk-or-simulated"
            )
            assert (got, json.loads(text)["error"]["code"]) == (status, status)
            assert headers.get("Retry-After") == ("7" if status == 429 else None)
    assert (await call(openrouter(), asking("a/b"), "sk-kimi-simulated"))[0] == 401


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("kimi-k2:1t", 500, "unmarshal: invalid character 'I'"),
        ("quota", 429, "reached your session usage limit"),
    ],
)
async def test_ollama_has_a_broken_model_and_a_quota(model: str, status: int, text: str) -> None:
    got, answer = await call(ollama(), asking(model), "ollama-simulated")
    assert got == status and text in answer["error"]["message"]
    assert (await call(ollama(), asking("kimi-k2.5"), "ollama-simulated"))[0] == 200
    assert (await call(ollama(), asking("kimi-k2.5"), "wrong"))[0] == 401
