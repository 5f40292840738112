"""Ladders and lists of models, through the real process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    chat,
    cut_after,
    reset_before_head,
    silent,
)

CHAT = "/v1/chat/completions"


def error(code: str | None = None, message: str = "no") -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": code}}


def table(folder: Path, first: str, second: str, **more: Any) -> Path:
    def route(url: str, key: str) -> dict[str, Any]:
        chain = [
            "prefix_rewrite",
            {"headers": {"set": {f"X-{key}": "1"}}},
            {"key": {"env": key}},
            {"token_floor": {"min": 1000 if key == "FIRST_KEY" else 10}},
            {"timeout": {"connect": "2s", "first_byte": "500ms"}},
        ]
        return {"upstream": url, "middlewares": chain}

    routes = {"first": route(first, "FIRST_KEY"), "second": route(second, "SECOND_KEY")} | more
    return write_table(folder, routes, models={"ladder": ["first/one", "second/two"], "alias": "second/two"})


KEYS = {"FIRST_KEY": "canary-key-of-the-first", "SECOND_KEY": "canary-key-of-the-second"}


async def ask(gate: Tidegate, model: str = "ladder", **more: Any) -> tuple[int, list[tuple[str, str]], Any]:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, {"model": model, "messages": [], "max_tokens": 5} | more))
        status, headers = await client.read_head()
        return status, headers, json.loads(await client.read_body())


@pytest.mark.parametrize(
    "behaviour",
    [
        *(answer(status, error()) for status in (401, 402, 408, 429, 500, 503)),
        answer(404, error("model_not_found")),
        answer(400, error("context_length_exceeded")),
        reset_before_head(),
        cut_after(0),
        silent(),
    ],
    ids="401 402 408 429 500 503 no-model too-long reset cut silent".split(),
)
async def test_a_rung_that_fails_gives_way_to_the_next(tmp_path: Path, behaviour: Behaviour) -> None:
    async with ScriptedUpstream(behaviour) as first, ScriptedUpstream(chat("second")) as second:
        async with Tidegate(table(tmp_path, first.url, second.url), env=KEYS) as gate:
            status, headers, said = await ask(gate)
            entry = await gate.log_entry(headers)

    assert (status, said["choices"][0]["message"]["content"]) == (200, "second")
    assert (header(headers, "x-tidegate-route"), header(headers, "x-tidegate-attempts")) == ("second", "2")
    assert (entry["route"], entry["upstream_model"], entry["attempts"]) == ("second", "two", 2)


async def test_nothing_of_one_rung_reaches_another(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer(500, error())) as first, ScriptedUpstream(chat()) as second:
        async with Tidegate(table(tmp_path, first.url, second.url), env=KEYS) as gate:
            _, headers, _ = await ask(gate)

    (at_first,), (at_second,) = first.seen, second.seen
    assert (at_first.json()["model"], at_first.json()["max_tokens"]) == ("one", 1000)
    assert (at_second.json()["model"], at_second.json()["max_tokens"]) == ("two", 10)
    assert at_first.header("authorization") == f"Bearer {KEYS['FIRST_KEY']}"
    assert at_second.header("authorization") == f"Bearer {KEYS['SECOND_KEY']}"
    assert (at_first.header("x-second_key"), at_second.header("x-first_key")) == (None, None)
    changed = header(headers, "x-tidegate-changed")
    assert changed is not None and "max_tokens=5->10" in changed and "model=ladder->two" in changed


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_an_answer_that_no_other_rung_would_better_stops_the_ladder(
    tmp_path: Path, status: int
) -> None:
    refused = error("content_policy_violation")
    async with ScriptedUpstream(answer(status, refused)) as first, ScriptedUpstream(chat()) as second:
        async with Tidegate(table(tmp_path, first.url, second.url), env=KEYS) as gate:
            got, headers, said = await ask(gate)

    assert (got, said) == (status, refused)
    assert header(headers, "x-tidegate-route") == "first"
    assert second.seen == []


@pytest.mark.parametrize("code", [["model_not_found"], {"of": "model_not_found"}, 7, True])
async def test_an_error_whose_code_is_no_text_passes_as_it_is(tmp_path: Path, code: object) -> None:
    odd = {"error": {"message": "no", "code": code}}
    async with ScriptedUpstream(answer(400, odd)) as first, ScriptedUpstream(chat()) as second:
        async with Tidegate(table(tmp_path, first.url, second.url), env=KEYS) as gate:
            got, headers, said = await ask(gate)

    assert (got, said, header(headers, "x-tidegate-error")) == (400, odd, None)
    assert second.seen == []


async def test_when_every_rung_fails_the_client_gets_the_firsts_answer(tmp_path: Path) -> None:
    busy = error("rate_limited", "the first is busy")
    behaviour = answer(429, busy, {"Retry-After": "7"})
    async with ScriptedUpstream(behaviour) as first, ScriptedUpstream(answer(500, error())) as second:
        async with Tidegate(table(tmp_path, first.url, second.url), env=KEYS) as gate:
            status, headers, said = await ask(gate)

    assert (status, said, header(headers, "retry-after")) == (429, busy, "7")
    assert (header(headers, "x-tidegate-route"), header(headers, "x-tidegate-attempts")) == ("first", "2")
    assert len(second.seen) == 1


async def test_a_rung_without_its_key_is_skipped(tmp_path: Path) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream(chat("second")) as second:
        env = {"SECOND_KEY": KEYS["SECOND_KEY"]}
        async with Tidegate(table(tmp_path, first.url, second.url), env=env) as gate:
            status, headers, _ = await ask(gate)

    assert (status, header(headers, "x-tidegate-attempts")) == (200, "1")
    assert first.seen == []


async def test_models_of_all_usable_routes_are_listed_and_an_explicit_only_route_is_not_asked(
    tmp_path: Path,
) -> None:
    def models(*names: str) -> Behaviour:
        return answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async with (
        ScriptedUpstream(models("one", "org/two")) as first,
        ScriptedUpstream(silent()) as second,
        ScriptedUpstream(models("secret")) as private,
    ):
        path = table(
            tmp_path,
            first.url,
            second.url,
            private={"upstream": private.url, "explicit_only": True},
            shown={"upstream": private.url, "explicit_only": True, "list": ["only-this"]},
            keyless={"upstream": private.url, "middlewares": [{"key": {"env": "NO_SUCH_KEY"}}]},
        )
        async with Tidegate(path, env=KEYS) as gate, RawClient(gate.port) as client:
            listed = []
            for _ in range(2):
                await client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                status, _ = await client.read_head()
                listed.append([model["id"] for model in json.loads(await client.read_body())["data"]])
                assert status == 200
            found = []
            for name in ("first/org/two", "first%2Forg%2Ftwo", "ladder", "private/secret"):
                await client.send(f"GET /v1/models/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                found.append((await client.read_head())[0])
                await client.read_body()

    assert listed[0] == listed[1] == ["ladder", "alias", "first/one", "first/org/two", "shown/only-this"]
    assert found == [200, 200, 200, 404]
    assert len(first.seen) == 1
    assert first.seen[0].header("authorization") == f"Bearer {KEYS['FIRST_KEY']}"
    assert private.seen == []


async def test_asking_for_models_takes_no_slot_and_one_faulty_route_spoils_no_list(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "class Faulty:\n"
        "    def __init__(self, options, deps): pass\n"
        "    async def __call__(self, exchange, call_next):\n"
        "        return exchange.fields.value('model')\n"
    )
    listed = {"object": "list", "data": [{"id": "one", "object": "model"}]}
    async with ScriptedUpstream(silent()) as upstream, ScriptedUpstream(answer(200, listed)) as other:
        slots = {"concurrency": {"limit": 1}}
        routes = {
            "busy": {"upstream": upstream.url, "middlewares": ["prefix_rewrite", slots]},
            "faulty": {"upstream": other.url, "middlewares": ["faulty:Faulty"]},
        }
        gate = Tidegate(write_table(tmp_path, routes), env={"PYTHONPATH": str(tmp_path)})
        async with gate, RawClient(gate.port) as call, RawClient(gate.port) as client:
            await call.send(post("/v1/chat/completions", {"model": "busy/x", "messages": []}))
            await upstream.wait_seen(1)
            upstream.behaviour = answer(200, listed)
            await client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            status, _ = await client.read_head()
            models = [model["id"] for model in json.loads(await client.read_body())["data"]]
            told = await gate.wait_event("unforeseen")
            # What the harness looks for at the end is what this test is about.
            gate.stderr[:] = [line for line in gate.stderr if '"unforeseen"' not in line]

    assert (status, models) == (200, ["busy/one"])
    assert told["route"] == "faulty" and told["where"] == "faulty.py:4 in __call__"
