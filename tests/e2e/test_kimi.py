"""Kimi, through the real process with the shipped table, against a simulation as strict as Kimi."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.process import ROOT, Tidegate
from tests.support.providers import KIMI_KEY, kimi, simulated
from tests.support.upstream import ScriptedUpstream

AGENT = {"User-Agent": "KimiCLI/1.44"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}


def shipped_table(folder: Path, upstream: ScriptedUpstream, **replaced: str) -> Path:
    """config/routes.yaml as shipped, but for the address of Kimi and the ports."""
    text = (ROOT / "config/routes.yaml").read_text()
    text = text.replace("https://api.kimi.com/coding/v1", upstream.url)
    text = text.replace('["127.0.0.1:8080"]', '["127.0.0.1:0"]').replace('"127.0.0.1:8081"', "null")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    table = folder / "routes.yaml"
    table.write_text(text)
    return table


def ask(model: str = "kimi-for-coding", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Answer PONG."}], **more}


async def post(
    gate: Tidegate,
    body: dict[str, Any],
    headers: Mapping[str, str] = AGENT,
    path: str = "/v1/chat/completions",
) -> tuple[int, Mapping[str, str], Any]:
    async with (
        ClientSession() as session,
        session.post(gate.base_url + path, json=body, headers=headers) as answer,
    ):
        return answer.status, answer.headers, await answer.json()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (ask(provider="kimi"), "/v1/chat/completions"),
        (ask("kimi/kimi-for-coding"), "/v1/chat/completions"),
        (ask("kimi/kimi-for-coding"), "/v1/chat"),
        (ask(), "/kimi/v1/chat/completions"),
    ],
    ids=["provider", "prefix", "short path", "path"],
)
async def test_a_client_that_names_kimi_gets_its_answer(
    tmp_path: Path, body: dict[str, Any], path: str
) -> None:
    async with simulated(kimi()) as upstream:
        table = shipped_table(tmp_path, upstream)
        async with Tidegate(table, env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            status, headers, answer = await post(gate, body | {"max_tokens": 1500}, path=path)

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "PONG"
    assert headers["x-tidegate-route"] == "kimi"
    (seen,) = upstream.seen
    assert seen.json()["model"] == "kimi-for-coding"
    assert "provider" not in seen.json()
    assert seen.header("user-agent") == AGENT["User-Agent"]


async def test_the_header_names_the_provider_too(tmp_path: Path) -> None:
    async with simulated(kimi()) as upstream:
        async with Tidegate(shipped_table(tmp_path, upstream), env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            status, _, _ = await post(gate, ask(), AGENT | {"x-tidegate-provider": "kimi"})

    assert status == 200
    assert upstream.seen[0].header("x-tidegate-provider") is None


async def test_a_budget_below_the_floor_is_raised_and_the_answer_says_so(tmp_path: Path) -> None:
    async with simulated(kimi()) as upstream:
        async with Tidegate(shipped_table(tmp_path, upstream), env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            status, headers, answer = await post(gate, ask(provider="kimi", max_tokens=800))

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "PONG"
    assert upstream.seen[0].json()["max_tokens"] == 1500
    assert "max_tokens=800->1500" in headers["x-tidegate-changed"].split(", ")


async def test_without_the_floor_800_tokens_give_an_empty_answer(tmp_path: Path) -> None:
    """The reason for the floor: it is the simulation that is strict, not the test that is kind."""
    async with simulated(kimi()) as upstream:
        table = shipped_table(tmp_path, upstream, **{"token_floor: {min: 1500}": "token_floor: {min: 1}"})
        async with Tidegate(table, env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            _, _, answer = await post(gate, ask(provider="kimi", max_tokens=800))
            (entry,) = await gate.wait_log(1)

    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (entry["outcome"], entry["empty_answer"]) == ("ok", True)


async def test_a_browser_gets_the_providers_own_403_and_no_second_attempt(tmp_path: Path) -> None:
    async with simulated(kimi()) as upstream:
        async with Tidegate(shipped_table(tmp_path, upstream), env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            status, headers, answer = await post(gate, ask(provider="kimi"), BROWSER)
            (entry,) = await gate.wait_log(1)

    assert status == 403
    assert answer == {
        "error": {
            "type": "access_terminated_error",
            "message": "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI, "
            "Claude Code, Roo Code, Kilo Code, etc.",
        }
    }
    assert headers["x-tidegate-attempts"] == "1"
    assert "x-tidegate-error" not in headers
    assert len(upstream.seen) == 1
    assert (entry["outcome"], entry["error"]) == ("upstream_error", None)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_total_clock_is_set_by_the_environment(tmp_path: Path, stream: bool) -> None:
    async with simulated(kimi(pause=30.0)) as upstream:
        env = {"KIMI_API_KEY": KIMI_KEY, "KIMI_TIMEOUT_SECS": "2"}
        async with Tidegate(shipped_table(tmp_path, upstream), env=env) as gate:
            began = time.monotonic()
            status, headers, answer = await post(gate, ask(provider="kimi", stream=stream))
            took = time.monotonic() - began
            await upstream.wait_gone(1)
            (entry,) = await gate.wait_log(1)

    assert (status, answer["error"]["code"]) == (504, "timeout_total")
    assert headers["x-tidegate-error"] == "timeout_total"
    assert headers["x-should-retry"] == "false"
    assert 1.9 < took < 2.5
    assert (entry["outcome"], entry["error"]) == ("timeout", "timeout_total")


async def test_the_key_comes_from_the_environment_first_and_from_a_private_file_otherwise(
    tmp_path: Path,
) -> None:
    file = tmp_path / "kimi.env"
    file.write_text("# the subscription's key\nKIMI_API_KEY=sk-kimi-from-the-file\n")
    file.chmod(0o600)
    async with simulated(kimi(key="sk-kimi-from-the-file")) as upstream:
        table = shipped_table(tmp_path, upstream, **{"/etc/tidegate/kimi.env": str(file)})
        async with Tidegate(table) as gate:
            from_file, _, _ = await post(gate, ask(provider="kimi"))
        async with Tidegate(table, env={"KIMI_API_KEY": "sk-kimi-from-the-environment"}) as gate:
            from_environment, _, _ = await post(gate, ask(provider="kimi"))

    assert (from_file, from_environment) == (200, 401)
    sent = [seen.header("authorization") for seen in upstream.seen]
    assert sent == ["Bearer sk-kimi-from-the-file", "Bearer sk-kimi-from-the-environment"]


async def test_a_systemd_credential_comes_before_the_file_and_an_empty_one_does_not_count(
    tmp_path: Path,
) -> None:
    file = tmp_path / "kimi.env"
    file.write_text("KIMI_API_KEY=sk-kimi-from-the-file\n")
    file.chmod(0o600)
    credential = tmp_path / "kimi"
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    async with simulated(kimi()) as upstream:
        table = shipped_table(tmp_path, upstream, **{"/etc/tidegate/kimi.env": str(file)})
        for content in ("sk-kimi-from-systemd\n", "\n"):
            credential.write_text(content)
            async with Tidegate(table, env=env) as gate:
                await post(gate, ask(provider="kimi"))

    sent = [seen.header("authorization") for seen in upstream.seen]
    assert sent == ["Bearer sk-kimi-from-systemd", "Bearer sk-kimi-from-the-file"]


async def test_a_key_file_that_changes_is_read_again_while_serving(tmp_path: Path) -> None:
    file = tmp_path / "kimi.env"
    async with simulated(kimi(key="sk-kimi-second")) as upstream:
        table = shipped_table(tmp_path, upstream, **{"/etc/tidegate/kimi.env": str(file)})
        async with Tidegate(table) as gate:
            answers = [(await post(gate, ask(provider="kimi")))[0]]
            for key in ("sk-kimi-first", "sk-kimi-second"):
                fresh = tmp_path / "fresh"
                fresh.write_text(key)
                fresh.chmod(0o600)
                fresh.rename(file)
                answers.append((await post(gate, ask(provider="kimi")))[0])

    assert answers == [503, 401, 200]


async def test_a_file_that_others_may_read_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "kimi.env"
    file.write_text("KIMI_API_KEY=sk-kimi-from-the-file\n")
    file.chmod(0o644)
    async with simulated(kimi()) as upstream:
        table = shipped_table(tmp_path, upstream, **{"/etc/tidegate/kimi.env": str(file)})
        async with Tidegate(table) as gate:
            status, headers, answer = await post(gate, ask(provider="kimi"))
            demo, _, _ = await post(gate, ask("demo/echo"))

    assert (status, headers["x-tidegate-error"]) == (503, "key_missing")
    assert str(file) in answer["error"]["message"]
    assert "sk-kimi-from" not in str(answer)
    assert upstream.seen == []
    assert demo == 200


async def test_a_key_of_another_product_is_not_sent(tmp_path: Path) -> None:
    async with simulated(kimi()) as upstream:
        env = {"KIMI_API_KEY": "sk-moonshot-platform-key"}
        async with Tidegate(shipped_table(tmp_path, upstream), env=env) as gate:
            status, headers, _ = await post(gate, ask(provider="kimi"))

    assert (status, headers["x-tidegate-error"]) == (503, "key_missing")
    assert upstream.seen == []


@pytest.mark.parametrize("model", ["kimi-for-coding", "kimi", "kimmi/kimi-for-coding"])
async def test_a_bare_name_does_not_reach_kimi(tmp_path: Path, model: str) -> None:
    async with simulated(kimi()) as upstream:
        async with Tidegate(shipped_table(tmp_path, upstream), env={"KIMI_API_KEY": KIMI_KEY}) as gate:
            status, headers, answer = await post(gate, ask(model))

    assert (status, headers["x-tidegate-error"]) == (404, "model_not_found")
    assert answer["error"]["param"] == "model"
    assert upstream.seen == []


async def test_kimi_is_not_asked_for_its_models_unless_it_is_named(tmp_path: Path) -> None:
    async with simulated(kimi()) as upstream:
        env = {"KIMI_API_KEY": KIMI_KEY, "LOCAL_URL": "http://127.0.0.1:1/v1"}
        async with Tidegate(shipped_table(tmp_path, upstream), env=env) as gate, ClientSession() as session:
            async with session.get(gate.base_url + "/v1/models") as answer:
                listed = [model["id"] for model in (await answer.json())["data"]]
            asked_before = len(upstream.seen)
            async with session.get(gate.base_url + "/kimi/v1/models") as answer:
                own = [model["id"] for model in (await answer.json())["data"]]

    assert listed == ["demo/echo", "demo/reasoner"]
    assert asked_before == 0
    assert "kimi-for-coding" in own


def test_the_shipped_table_sets_no_user_agent() -> None:
    text = (ROOT / "config/routes.yaml").read_text()

    assert "user_agent: pass" in text
    assert "accept_risk:" not in text
