"""What is not ours runs in a dry run as it would: it may refuse, fail, answer by itself, or know a key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main

MODULE = '''
import os

from middlewares.faults import ClientFault, Refusal
from middlewares.bodies import FixedBody
from middlewares.exchange import Reply
from multidict import CIMultiDict


class Forbids:
    def __init__(self, options, deps):
        pass

    async def __call__(self, exchange, call_next):
        raise ClientFault("not_allowed", "Not for you.")


class Declines(Forbids):
    async def __call__(self, exchange, call_next):
        raise Refusal("rate_limited", "Not now.", retry_after=1)


class Fails(Forbids):
    async def __call__(self, exchange, call_next):
        raise KeyError(os.environ["ACME_KEY"])


class Answers(Forbids):
    async def __call__(self, exchange, call_next):
        return Reply(200, CIMultiDict(), FixedBody(b"cached"))


class Tells(Forbids):
    """Copies the key that was put on, and one that it has found by itself."""

    async def __call__(self, exchange, call_next):
        exchange.headers["X-Copy"] = exchange.headers["Authorization"]
        exchange.headers["X-Own"] = "so " + os.environ["ACME_KEY"]
        exchange.rename_model("told")
        reply = await call_next(exchange)
        exchange.rename_model("too late")
        return reply


class Peeks(Forbids):
    async def __call__(self, exchange, call_next):
        if os.environ["ACME_KEY"] in str(list(exchange.headers.items())):
            raise ClientFault("not_allowed", "It is given the key.")
        return await call_next(exchange)


class Copies(Forbids):
    async def __call__(self, exchange, call_next):
        return await call_next(exchange.fork("elsewhere", exchange.watch, exchange.stack))


class LeavesBadly(Forbids):
    async def __call__(self, exchange, call_next):
        exchange.stack.callback(lambda: {}[os.environ["ACME_KEY"]])
        return await call_next(exchange)


class Cannot:
    def __init__(self, options, deps):
        raise ValueError("no such thing")

    async def __call__(self, exchange, call_next):
        return await call_next(exchange)
'''
KEY = "the-canary-of-acme-0123456789"
Told = Callable[..., tuple[int, Any]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Explain a model of a table whose route `acme` has these middlewares, and `next` none."""
    (tmp_path / "explained_middlewares.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "explained_middlewares", raising=False)
    monkeypatch.setenv("ACME_KEY", KEY)

    def run(*names: str, model: str = "acme/m", top: tuple[str, ...] = ()) -> tuple[int, Any]:
        chain: list[Any] = [{"key": {"env": "ACME_KEY"}}]
        table = {
            "version": 1,
            "middlewares": [f"explained_middlewares:{name}" for name in top],
            "routes": {
                "acme": {
                    "upstream": "https://acme.example/v1",
                    "middlewares": chain + [f"explained_middlewares:{name}" for name in names],
                },
                "next": {"upstream": "https://next.example/v1"},
            },
            "models": {"ladder": ["acme/m", "next/n"], "upward": ["next/n", "acme/m", "next/o"]},
        }
        file = tmp_path / "routes.yaml"
        file.write_text(json.dumps(table))
        code = main(["explain", "-c", str(file), model, "--json"])
        out, err = capsys.readouterr()
        assert KEY not in out + err
        human = main(["explain", "-c", str(file), model])
        said, _ = capsys.readouterr()
        assert human == code and KEY not in said
        return code, json.loads(out) if out else err

    return run


def states(said: Any) -> list[tuple[str, bool, str | None]]:
    return [(rung["route"], rung["usable"], rung["reason"]) for rung in said["ladder"]]


def test_a_refusal_is_told_with_its_status(told: Told) -> None:
    code, said = told("Forbids")

    assert code == 1
    assert (said["error"]["status"], said["error"]["code"], said["error"]["message"]) == (
        403,
        "not_allowed",
        "Not for you.",
    )
    assert told("Declines")[1]["error"]["status"] == 429
    assert told(top=("Forbids",))[1]["error"]["code"] == "not_allowed"


def test_a_middleware_that_fails_is_told_without_what_it_says(told: Told) -> None:
    code, said = told("Fails")

    assert code == 1 and said["error"]["status"] == 500
    assert said["error"]["message"].startswith("A middleware failed: KeyError at explained_middlewares.py:")
    assert told("LeavesBadly")[0] == 0


def test_a_ladder_goes_on_where_it_would_and_stops_where_it_would(told: Told) -> None:
    _, declined = told("Declines", model="ladder")
    _, forbidden = told("Forbids", model="upward")
    _, failed = told("Fails", model="upward")

    assert states(declined) == [
        ("acme", False, "refused by a middleware: rate_limited"),
        ("next", True, None),
    ]
    assert (declined["model"], declined["url"]) == ("acme/m", "https://acme.example/v1/chat/completions")
    untried = ("next", False, "not tried: the request ends before it")
    assert states(forbidden) == [("next", True, None), ("acme", False, "Not for you."), untried]
    assert states(failed)[0] == ("next", True, None) and states(failed)[2] == untried
    assert "A middleware failed: KeyError" in str(states(failed)[1][2])
    assert forbidden["ladder"][2]["url"] is None and forbidden["ladder"][2]["model"] == "next/o"


def test_a_middleware_may_answer_by_itself(told: Told) -> None:
    code, said = told("Answers")

    assert code == 0
    assert states(said) == [("acme", True, "a middleware answers by itself")]


def test_what_is_sent_is_told_as_it_is_at_that_moment_and_no_key_in_it(told: Told) -> None:
    code, said = told("Tells")
    sent = {line["name"]: line["upstream"] for line in said["headers"]}

    assert code == 0 and said["model"] == "told"
    assert sent["X-Copy"] == sent["Authorization"] == "Bearer [redacted]"
    assert sent["X-Own"] == "so [redacted]"


def test_the_key_itself_is_not_in_the_run(told: Told) -> None:
    assert states(told("Peeks")[1]) == [("acme", True, None)]


def test_an_exchange_that_a_middleware_made_itself_counts_for_its_rung(told: Told) -> None:
    assert states(told("Copies")[1]) == [("acme", True, None)]
    assert states(told("Copies", model="upward")[1])[1] == ("acme", True, None)


def test_one_that_cannot_be_made_is_told_as_serve_tells_it(told: Told) -> None:
    code, said = told("Cannot")

    assert code == 1
    assert said == "tidegate: middleware 'explained_middlewares:Cannot': ValueError: no such thing\n"
