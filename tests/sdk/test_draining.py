"""A server that is about to stop, as the SDKs see it."""

from __future__ import annotations

from pathlib import Path

import anthropic
import openai
import pytest

from tests.sdk.clients import Sent, anthropic_client, openai_client
from tests.support.process import Tidegate, write_table

SAY = [{"role": "user", "content": "one"}]


async def test_a_server_that_stops_asks_the_sdks_to_come_back(tmp_path: Path) -> None:
    routes = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}
    async with Tidegate(write_table(tmp_path, routes, server={"drain_delay": "1m"})) as gate:
        async with (
            openai_client(gate.base_url + "/v1", Sent(), max_retries=0) as client,
            anthropic_client(gate.base_url, Sent(), max_retries=0) as other,
        ):
            before = await client.chat.completions.create(model="demo/echo", messages=SAY)
            gate.process.terminate()
            await gate.wait_event("draining")
            with pytest.raises(openai.InternalServerError) as told:
                await client.chat.completions.create(model="demo/echo", messages=SAY)
            with pytest.raises(anthropic.InternalServerError) as told_too:
                await other.messages.create(model="demo/echo", messages=SAY, max_tokens=9)
        gate.process.terminate()  # the second signal: it need not wait
        await gate.wait()

    assert before.choices[0].message.content == "one"
    assert (told.value.status_code, told.value.code) == (503, "draining")
    for error in (told.value, told_too.value):
        assert error.response.headers["x-tidegate-error"] == "draining"
        assert int(error.response.headers["retry-after"]) > 0
        assert "x-should-retry" not in error.response.headers


async def test_a_server_that_stops_says_so_in_anthropics_shape_on_messages(tmp_path: Path) -> None:
    table = write_table(tmp_path, {"demo": {"upstream": "demo"}}, server={"drain_delay": "1m"})
    async with Tidegate(table) as gate:
        async with anthropic_client(gate.base_url, Sent(), max_retries=0) as client:
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="nobody", messages=SAY, max_tokens=9)
            gate.process.terminate()
            await gate.wait_event("draining")
            with pytest.raises(anthropic.InternalServerError) as told:
                await client.messages.create(model="demo/echo", messages=SAY, max_tokens=9)
        gate.process.terminate()
        await gate.wait()

    assert isinstance(told.value.body, dict)
    assert told.value.body.get("type") == "error"
    assert told.value.body["error"]["type"] == "overloaded_error"
