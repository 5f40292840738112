"""`client_keys` through the real process: what strangers are told, what clients may use, what goes up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import GATE, KEY, OTHER, bearer, client, clients_text, write_clients
from tests.support.metrics import ADMIN, figures, status_of
from tests.support.process import SERVE, Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.realtime import handshake
from tests.support.scene import CHAT, read_answer
from tests.support.upstream import ScriptedUpstream, answer, chat

WRONG = "tg-canary-that-nobody-knows-0123456789abcdefghij"
OVER = "tg-canary-that-is-over-0123456789abcdefghijklmno"
MODELS = answer(200, {"data": [{"id": "x"}, {"id": "y"}]})


@asynccontextmanager
async def gated(folder: Path, *clients: dict[str, Any], **rest: Any) -> AsyncIterator[tuple[Tidegate, Any]]:
    """`up` renames models, `plain` does not and has a key of its own; `fast` is an alias, `both` a ladder."""
    write_clients(folder, *clients)
    async with ScriptedUpstream(answer(200, {"choices": []})) as upstream:
        routes = {
            "up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"], "list": ["x", "y"]},
            "plain": {"upstream": upstream.url, "middlewares": [{"key": {"env": "OWN_KEY"}}], "list": ["z"]},
            "mapped": {
                "upstream": upstream.url,
                "middlewares": [{"prefix_rewrite": {"map": {"big": "big-2026"}}}],
                "list": ["big"],
                "serves": ["claimed"],
            },
        }
        models = {"fast": "up/x", "both": ["up/x", "plain/z"]}
        server = {**ADMIN, "max_body": "1KiB", "max_upload": "4KiB", **rest.pop("server", {})}
        table = write_table(folder, routes, models=models, middlewares=GATE, server=server, **rest)
        secrets = [KEY, OTHER, WRONG, OVER]
        async with Tidegate(table, env={"OWN_KEY": "sk-canary-own-key-0123456789"}, secrets=secrets) as gate:
            yield gate, upstream


async def say(gate: Tidegate, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient(gate.port) as raw:
        await raw.send(request)
        return await read_answer(raw, bodiless=request.startswith(b"HEAD"))


async def ask(gate: Tidegate, path: str, body: Any, *headers: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    status, _, said = await say(gate, post(path, body, headers))
    return status, json.loads(said)


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: a", *headers, "", ""]).encode("latin-1") + body


PRESENTED = {
    "no key": [],
    "unknown": [f"Authorization: Bearer {WRONG}"],
    "over": [f"Authorization: Bearer {OVER}"],
    "no scheme": [f"x-api-key: Bearer {KEY}"],
    "another scheme": [f"Authorization: Basic {KEY}"],
    "empty": ["Authorization: Bearer "],
    "two": [f"Authorization: Bearer {KEY}", f"x-api-key: {OTHER}"],
    "two lines": [f"Authorization: Bearer {KEY}", f"Authorization: Bearer {OTHER}"],
    "not text": ["Authorization: Bearer \xff\xfe"],
}
ASKED = {
    "a model": post(CHAT, {"model": "up/x", "messages": []}),
    "an unknown route": post(CHAT, {"model": "nobody/x", "messages": []}),
    "an unknown route in the path": post("/nobody/v1/chat/completions", {"model": "x"}),
    "an unknown route in a header": post(CHAT, {"model": "x"}, [("x-tidegate-provider", "nobody")]),
    "a route in the path": post("/up/v1/chat/completions", {"model": "x"}),
    "no model": post(CHAT, {"messages": []}),
    "bad JSON": post(CHAT, b"{"),
    "too large, and not sent": request(f"POST {CHAT}", "Content-Length: 99999999999"),
    "too large, and sent": post(CHAT, b'"' + b"x" * 3000 + b'"'),
    "a body that waits": request(f"POST {CHAT}", "Content-Length: 10", "Expect: 100-continue"),
    "an upload": request("POST /up/v1/files", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
    "half an upload": request("POST /v1/files", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"),
    "a coding": request(f"POST {CHAT}", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "our list": request("GET /v1/models"),
    "one model": request("GET /v1/models/up/x"),
    "an upstream's list": request("GET /up/v1/models"),
    "a path of nobody's": request("GET /nothing"),
    "a path that cannot be trusted": request("GET /v1/../x"),
    "two providers": request(f"POST {CHAT}", "x-tidegate-provider: a", "x-tidegate-provider: b"),
    "a method that is refused": request("TRACE /v1/models"),
    "a method": request("DELETE /up/v1/files/1"),
    "health by POST": request("POST /healthz"),
    "a WebSocket": handshake("/v1/realtime?model=up/x"),
    "the metrics": request("GET /metrics"),
}


async def test_a_stranger_gets_the_same_bytes_for_whatever_is_asked_and_however(tmp_path: Path) -> None:
    known = [client("ci", KEY), client("cd", OTHER), client("old", OVER, expires="2026-01-01")]
    async with gated(tmp_path, *known) as (gate, upstream):
        asked = {
            (what, how): b"%b\r\n%b%b"
            % (head, "".join(f"{line}\r\n" for line in lines).encode("latin-1"), rest)
            for how, lines in PRESENTED.items()
            for what, (head, _, rest) in ((what, sent.partition(b"\r\n")) for what, sent in ASKED.items())
        }
        # At once: a body that never ends is waited for, after the answer, for two seconds.
        said = await asyncio.gather(*(everything(gate, sent) for sent in asked.values()))
        answers = dict(zip(asked, said, strict=True))
        heads = [await everything(gate, request("HEAD /v1/models", *lines)) for lines in PRESENTED.values()]
        entries = await gate.wait_log(len(answers) + len(heads))

    (one,) = set(answers.values())
    assert one.startswith(b"HTTP/1.1 401 Unauthorized\r\n") and b"invalid_client_key" in one
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in one
    assert set(heads) == {one[: one.index(b"\r\n\r\n") + 4]}
    assert upstream.seen == []
    assert {(entry["status"], entry["error"], entry["client"]) for entry in entries} == {
        (401, "invalid_client_key", None)
    }
    assert gate.events("fault") == []  # whoever knocks a thousand times writes a thousand lines and no more


async def everything(gate: Tidegate, sent: bytes) -> bytes:
    """All that comes until the connection is closed, but for what is anybody's: id and date."""
    async with RawClient(gate.port) as raw:
        await raw.send(sent)
        async with asyncio.timeout(20):
            said = await raw.read_until_closed()
    said = re.sub(rb"x-tidegate-id: [0-9a-f]{16}", b"x-tidegate-id: ID", said)
    return re.sub(rb"Date: [^\r]+", b"Date: DATE", said)


async def test_on_messages_a_stranger_is_told_in_the_shape_of_messages(tmp_path: Path) -> None:
    async with gated(tmp_path, client("ci", KEY)) as (gate, _):
        status, error = await ask(gate, "/v1/messages", {"model": "up/x"}, ("x-api-key", WRONG))
        other = await ask(gate, "/nobody/v1/messages", b"{", ("x-api-key", "short"))

    assert (status, error["error"]["type"], error["type"]) == (401, "authentication_error", "error")
    assert other == (status, error)


async def test_while_draining_a_stranger_hears_nothing_of_it_and_health_is_for_everybody(
    tmp_path: Path,
) -> None:
    async with gated(tmp_path, client("ci", KEY), server={"drain_delay": "30s"}) as (gate, _):
        before = await everything(gate, request("GET /v1/models"))
        health = await say(gate, request("GET /healthz"))
        gate.process.send_signal(signal.SIGTERM)
        await gate.wait_event("draining")
        after = await everything(gate, request("GET /v1/models"))
        ready = await say(gate, request("GET /readyz"))
        known, _ = await ask(gate, CHAT, {"model": "up/x"}, bearer(KEY))
        gate.process.send_signal(signal.SIGTERM)

    assert before == after
    assert (health[0], ready[0], known) == (200, 503, 503)


PLACES = [
    ("Authorization", f"Bearer {KEY}"),
    ("authorization", f"bearer  {KEY}"),
    ("x-api-key", KEY),
    ("X_Api_Key", KEY),
    ("api-key", KEY),
    ("x-goog-api-key", KEY),
]


@pytest.mark.parametrize("route", ["up", "plain"])
async def test_a_key_is_known_wherever_clients_put_it_and_never_goes_up(tmp_path: Path, route: str) -> None:
    async with gated(tmp_path, client("ci", KEY)) as (gate, upstream):
        body = {"model": f"{route}/z", "messages": []}
        status = [(await ask(gate, CHAT, body, place))[0] for place in PLACES]
        status.append((await ask(gate, CHAT, body, *PLACES[0:1], *PLACES[2:]))[0])
        for query in (f"?key={KEY}", f"?a=b&%6Bey={KEY}&c=d"):
            status.append((await ask(gate, CHAT + query, body))[0])
        browser = ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{KEY}")
        status.append((await ask(gate, CHAT, body, browser))[0])
        entries = await gate.wait_log(len(status))

    assert status == [200] * 10
    assert {entry["client"] for entry in entries} == {"ci"}
    assert len(upstream.seen) == 10
    for seen in upstream.seen:
        assert KEY not in f"{seen.target} {seen.headers}" and KEY.encode() not in seen.body
        own = {value for name, value in seen.headers if name.lower() == "authorization"}
        assert own == ({"Bearer sk-canary-own-key-0123456789"} if route == "plain" else set())


ALLOWED: list[tuple[list[str], str, Any, tuple[tuple[str, str], ...], int]] = [
    (["up/x"], CHAT, {"model": "up/x"}, (), 200),
    (["up/x"], CHAT, {"model": "up/y"}, (), 403),
    (["up/x"], "/up/v1/chat/completions", {"model": "x"}, (), 200),
    (["up/x"], "/up/v1/chat/completions", {"model": "y"}, (), 403),
    (["up/x"], CHAT, {"model": "x"}, (("x-tidegate-provider", "up"),), 200),
    (["up/x"], CHAT, {"model": "y", "provider": "up"}, (), 403),
    (["up/x"], CHAT, {"model": "x", "provider": "up"}, (), 200),
    (["up/x"], CHAT, {"model": "fast"}, (), 403),
    (["fast"], CHAT, {"model": "fast"}, (), 200),
    (["fast"], CHAT, {"model": "up/x"}, (), 403),
    (["both"], CHAT, {"model": "both"}, (), 200),
    (["up", "plain"], CHAT, {"model": "both"}, (), 403),
    (["up"], CHAT, {"model": "up/whatever"}, (), 200),
    (["up/*"], CHAT, {"model": "up/a/b"}, (), 200),
    (["mapped/big"], CHAT, {"model": "mapped/big"}, (), 403),
    (["mapped/big-2026"], CHAT, {"model": "mapped/big"}, (), 200),
    (["mapped/claimed"], CHAT, {"model": "claimed"}, (), 200),
    (["mapped/big-2026"], CHAT, {"model": "claimed"}, (), 403),
    (["plain/plain/z"], CHAT, {"model": "plain/z"}, (), 200),
    (["plain/z"], CHAT, {"model": "plain/z"}, (), 403),
    (["up/*"], "/up/v1/responses", {"input": "no model"}, (), 403),
    (["up"], "/up/v1/responses", {"input": "no model"}, (), 200),
    (["plain/*"], "/plain/v1/chat/completions", b"{", (), 403),
    (["plain"], "/plain/v1/chat/completions", b"{", (), 200),
    (["up/*"], "/up/v1/files", b"a,b", (("Content-Type", "text/csv"),), 403),
    (["up"], "/up/v1/files", b"a,b", (("Content-Type", "text/csv"),), 200),
    (["*"], "/up/v1/files", b"a,b", (("Content-Type", "text/csv"),), 200),
    (["*"], CHAT, {"model": "fast"}, (), 200),
    ([], CHAT, {"model": "fast"}, (), 403),
    ([], CHAT, {"model": "up/x"}, (), 403),
    (["fast"], CHAT, {"model": "nobody/x"}, (), 404),
]


async def test_a_client_may_use_what_it_is_allowed_whatever_way_it_asks(tmp_path: Path) -> None:
    lists = sorted({tuple(allow) for allow, *_ in ALLOWED})
    keys = {allow: f"tg-canary-{i:04}-0123456789abcdefghijklmnopqrst" for i, allow in enumerate(lists)}
    clients = [client(f"c{i}", keys[allow], allow=[*allow]) for i, allow in enumerate(lists)]
    found = []
    async with gated(tmp_path, *clients) as (gate, upstream):
        for allow, path, body, headers, wanted in ALLOWED:
            before = len(upstream.seen)
            status, said = await ask(gate, path, body, bearer(keys[tuple(allow)]), *headers)
            asked = len(upstream.seen) - before
            code = said["error"]["code"] if status >= 400 else None
            found.append((allow, path, body, headers, status))
            assert asked == (status == 200)
            assert (code == "not_allowed") == (wanted == 403)

    assert found == ALLOWED


async def test_a_websocket_is_held_to_the_model_in_its_query(tmp_path: Path) -> None:
    async with gated(tmp_path, client("ci", KEY, allow=["up/x"])) as (gate, upstream):
        statuses = []
        for model in ("up/y", "up/x"):
            asked = handshake(f"/v1/realtime?model={model}").replace(
                b"\r\n", f"\r\nSec-WebSocket-Protocol: openai-insecure-api-key.{KEY}\r\n".encode(), 1
            )
            statuses.append((await say(gate, asked))[0])
        seen = [seen.target for seen in upstream.seen]

    assert statuses == [403, 200]  # this upstream answers a handshake as any other request
    assert seen == ["/v1/realtime?model=x"]


@pytest.mark.parametrize(
    ("allow", "listed"),
    [
        (None, ["fast", "both", "up/x", "up/y", "plain/z", "mapped/big"]),
        (["up"], ["up/x", "up/y"]),
        (["up/y", "fast"], ["fast", "up/y"]),
        (["mapped/big-2026", "both"], ["both", "mapped/big"]),
        (["mapped/big"], []),
        ([], []),
    ],
)
async def test_a_client_is_shown_what_it_may_use(
    tmp_path: Path, allow: list[str] | None, listed: list[str]
) -> None:
    rest = {} if allow is None else {"allow": allow}
    async with gated(tmp_path, client("ci", KEY, **rest)) as (gate, _):
        key = f"Authorization: Bearer {KEY}"
        _, _, said = await say(gate, request("GET /v1/models", key))
        one = [
            name
            for name in ("fast", "both", "up/x", "up/y", "plain/z", "mapped/big")
            if (await say(gate, request(f"GET /v1/models/{name}", key)))[0] == 200
        ]

    assert [model["id"] for model in json.loads(said)["data"]] == listed == one


async def test_an_upstream_is_asked_for_its_models_by_us_and_shown_to_each_as_it_may(tmp_path: Path) -> None:
    write_clients(tmp_path, client("a", KEY, allow=["up/x"]), client("b", OTHER, allow=["up"]))
    async with ScriptedUpstream(MODELS) as upstream:
        routes = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}
        async with Tidegate(write_table(tmp_path, routes, middlewares=GATE)) as gate:
            told = [
                (await say(gate, request("GET /v1/models", f"Authorization: Bearer {key}")))[2]
                for key in (KEY, OTHER, KEY)
            ]

    assert [[m["id"] for m in json.loads(said)["data"]] for said in told] == [
        ["up/x"],
        ["up/x", "up/y"],
        ["up/x"],
    ]
    assert len(upstream.seen) == 1


async def test_the_log_and_the_metrics_call_a_client_by_its_name(tmp_path: Path) -> None:
    async with gated(tmp_path, client("ci@build-7", KEY), client("cd", OTHER)) as (gate, _):
        await ask(gate, CHAT, {"model": "up/x"}, bearer(KEY))
        await ask(gate, CHAT, {"model": "nobody/x"}, bearer(OTHER))
        await ask(gate, CHAT, {"model": "up/x"}, bearer(WRONG))
        entries = await gate.wait_log(3)
        told, status = await figures(gate), await status_of(gate)

    assert [entry["client"] for entry in entries] == ["ci@build-7", "cd", None]
    assert told.by("tidegate_requests_total", "client") == {"ci@build-7": 1, "cd": 1, "": 1}
    assert status["clients"] == {
        "ci@build-7": {"in_flight": 0, "requests": {"ok": 1}},
        "cd": {"in_flight": 0, "requests": {"proxy_error": 1}},
    }


BROKEN = {
    "half of it": '{"version": 1, "clients": [{"name": "ci", "key_sha',
    "nothing": "",
    "a name twice": clients_text(client("a", KEY), client("a", OTHER)),
    "a key twice": clients_text(client("a", KEY), client("b", KEY)),
    "a route that is not there": clients_text(client("a", KEY, allow=["upp"])),
    "the key itself": f"version: 1\nclients: [{{name: a, key_sha256: {OTHER}}}]\n",
    "a time of no calendar": clients_text(client("a", KEY, expires="2027-02-30")),
}


async def test_a_clients_file_with_a_mistake_changes_nothing_and_one_without_is_in_force(
    tmp_path: Path,
) -> None:
    body = {"model": "up/x", "messages": []}

    async def codes(gate: Tidegate) -> list[int]:
        return [(await ask(gate, CHAT, body, bearer(key)))[0] for key in (KEY, OTHER)]

    async with gated(tmp_path, client("ci", KEY)) as (gate, _):
        file = tmp_path / "clients.yaml"
        for number, text in enumerate(BROKEN.values(), 1):
            beside = tmp_path / "new"
            beside.write_text(text)
            beside.replace(file)
            await gate._until(lambda n=number: len(gate.events("reload_failed")) == n, 10.0, "refusal")
            assert await codes(gate) == [200, 401]
        file.unlink()
        await gate._until(lambda: len(gate.events("reload_failed")) == len(BROKEN) + 1, 10.0, "refusal")
        gone = await codes(gate)
        write_clients(tmp_path, client("cd", OTHER))
        await gate.wait_event("reloaded", within=10.0)
        mended = await codes(gate)
        problems = [event for event in gate.events("table_problem") if event["level"] == "error"]

    assert (gone, mended) == ([200, 401], [401, 200])
    places = [event["place"].rpartition("/")[2].partition(":")[0] for event in problems]
    assert places == ["clients.yaml"] * len(BROKEN) + ["routes.yaml"]
    assert OTHER not in "\n".join(gate.stderr)


async def test_nothing_is_served_with_a_clients_file_that_has_a_mistake_or_is_missing(tmp_path: Path) -> None:
    table = write_table(tmp_path, {"demo": {"upstream": "demo"}}, middlewares=GATE)
    for text in (None, "version: 1\nclients: [{name: a}]\n"):
        if text is not None:
            (tmp_path / "clients.yaml").write_text(text)
        process = await asyncio.create_subprocess_exec(
            *SERVE,
            "-c",
            str(table),
            env={"PATH": os.environ.get("PATH", os.defpath)},
            cwd=Path(__file__).resolve().parents[2],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        assert process.returncode == 1
        named = "the clients file" if text is None else "clients.yaml:2:"
        assert named in said.decode() and "nothing is served" in said.decode()


async def test_an_exchange_in_flight_goes_on_when_its_key_is_revoked(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(seen: Any, wire: Any) -> None:
        await release.wait()
        await chat()(seen, wire)

    async with gated(tmp_path, client("ci", KEY)) as (gate, upstream):
        upstream.behaviour = slow
        async with RawClient(gate.port) as raw:
            await raw.send(post(CHAT, {"model": "up/x", "messages": []}, [bearer(KEY)]))
            await upstream.wait_seen(1)
            write_clients(tmp_path, client("cd", OTHER))
            await gate.wait_event("reloaded", within=10.0)
            refused, _ = await ask(gate, CHAT, {"model": "up/x"}, bearer(KEY))
            release.set()
            status, _, _ = await read_answer(raw)

    assert (refused, status) == (401, 200)


async def test_every_worker_knows_the_clients_and_takes_an_edit(tmp_path: Path) -> None:
    async with gated(tmp_path, client("ci", KEY), server={"workers": 2}) as (gate, _):

        async def everybody(key: str) -> set[int]:
            async with RawClient(gate.port) as one, RawClient(gate.port) as other:
                statuses = set()
                for raw in (one, other):
                    await raw.send(post(CHAT, {"model": "up/x", "messages": []}, [bearer(key)]))
                    statuses.add((await read_answer(raw))[0])
                return statuses

        before = [await everybody(KEY), await everybody(OTHER)]
        write_clients(tmp_path, client("cd", OTHER))
        await gate.wait_event("reloaded", within=10.0)
        async with asyncio.timeout(10):
            while await everybody(OTHER) != {200}:  # workers load by themselves
                pass
        after = await everybody(KEY)
        status = await status_of(gate)

    assert (before, after) == ([{200}, {401}], {401})
    assert list(status["clients"]) == ["cd"] and status["clients"]["cd"]["requests"]["ok"] >= 2


async def test_two_keys_that_are_the_same_are_one(tmp_path: Path) -> None:
    async with gated(tmp_path, client("ci", KEY), client("cd", OTHER)) as (gate, _):
        body = {"model": "up/x", "messages": []}
        same = await ask(gate, CHAT, body, bearer(KEY), ("x-api-key", KEY))
        twice = [bearer(KEY), bearer(KEY)]
        several, error = await ask(gate, CHAT, body, *twice)
        different = await ask(gate, CHAT, body, bearer(KEY), ("x-api-key", OTHER))

    assert (same[0], different[0]) == (200, 401)
    assert (several, error["error"]["code"]) == (400, "invalid_request")  # as without client keys
