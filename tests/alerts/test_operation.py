"""The alerts and the dashboard: well-formed, firing when they should, and looking at what exists."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from msgspec import Struct

from middlewares.clocks import Clock
from middlewares.faults import STATUS, Outcome
from proxy.status import Status
from tests.support.metrics import ADMIN, Figures, figures, page
from tests.support.process import ROOT, Tidegate, write_table
from tests.support.raw import RawClient, post
from tests.support.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    chat,
    cut_after,
    garbage,
    head_then_silent,
    reset_before_head,
    silent,
)

ALERTS = ROOT / "config/alerts.yaml"
DASHBOARD = ROOT / "config/grafana-dashboard.json"
CHAT = "/v1/chat/completions"
CLOCKS = {"first_byte": "300ms", "first_token": "450ms", "idle": "600ms", "total": "9s"}
_SERIES = re.compile(r"tidegate_\w+")
_MATCHER = re.compile(r"(\w+)\s*(=~|=|!~|!=)\s*\"([^\"]*)\"")


def promtool(*arguments: str, text: bytes = b"") -> str:
    """What promtool says; it fails if promtool finds anything. Without promtool the test is skipped."""
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("CI"), "promtool is missing: apt-get install prometheus"
        pytest.skip("promtool is not installed: apt-get install prometheus")
    said = subprocess.run([program, *arguments], input=text, capture_output=True, timeout=50, check=False)
    told = (said.stdout + said.stderr).decode()
    assert said.returncode == 0, told
    return told


@dataclass
class Fault:
    """A way for a provider to fail, and what it counts as; `chain` is its route's."""

    behaviour: Behaviour
    result: str
    chain: list[Any] = field(default_factory=list)
    stream: bool = True


TIMED = [{"timeout": CLOCKS}]
FAULTS = {
    "plain": Fault(chat("well"), "ok", stream=False),
    "stream": Fault(chat("well"), "ok", ["usage"]),
    "error": Fault(answer(500, {"error": {"message": "no"}}), "500"),
    "reset": Fault(reset_before_head(), "upstream_reset"),
    "garbage": Fault(garbage(), "upstream_protocol"),
    "cut": Fault(cut_after(3), "upstream_cut"),
    "silent": Fault(silent(), "timeout_first_byte", TIMED),
    "tokenless": Fault(head_then_silent(), "timeout_first_token", TIMED),
    "idle": Fault(head_then_silent(), "timeout_idle", [{"timeout": CLOCKS | {"first_token": "8s"}}]),
    "total": Fault(silent(), "timeout_total", [{"timeout": {"total": "300ms"}}]),
    "broken": Fault(reset_before_head(), "breaker_open", [{"breaker": {"failures": 1, "cooldown": "1h"}}]),
    "keyless": Fault(chat("well"), "key_missing", [{"key": {"env": "NOT_THERE"}}]),
}


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Tidegate, Figures]]:
    """A process that has served everything: answers, streams, errors, clocks, a ladder, an open breaker."""
    async with asyncio.timeout(40), AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(ScriptedUpstream(fault.behaviour))
            for name, fault in FAULTS.items()
        }
        routes = {
            name: {"upstream": upstream.url, "middlewares": ["prefix_rewrite", *FAULTS[name].chain]}
            for name, upstream in upstreams.items()
        }
        routes["demo"] = {"upstream": "demo", "middlewares": ["prefix_rewrite", "usage"]}
        models = {"ladder": ["error/x", "reset/x", "stream/x"]}
        # Nobody is there: its state is told all the same.
        limit = {"requests": "1000000/s", "per": "route", "store": "redis://127.0.0.1:9/0"}
        chain = [{"rate_limit": limit}]
        table = write_table(folder, routes, middlewares=chain, models=models, server=ADMIN)
        async with Tidegate(table) as gate:
            exchanges = 0
            for name, fault in FAULTS.items():
                for _ in range(2):  # the second one meets an open breaker
                    await ask(gate, {"model": f"{name}/x", "stream": fault.stream})
                    exchanges += 1
            for model in ("ladder", "nobody/knows", "demo/reasoner"):
                await ask(gate, {"model": model, "max_tokens": 10})
            await gate.wait_log(exchanges + 3)
            yield gate, await figures(gate)


async def ask(gate: Tidegate, body: dict[str, Any]) -> None:
    async with RawClient(gate.port) as client:
        await client.send(post(CHAT, {"messages": [], **body}))
        await client.read_head()
        with suppress(EOFError, ConnectionError):
            await client.read_body()


async def test_promtool_has_nothing_to_say_of_the_metrics_of_a_process_that_served_everything(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (gate, told):
        (_, _, text) = await page(gate, "/metrics")
        for name, fault in FAULTS.items():
            assert told.value("tidegate_attempts_total", route=name, result=fault.result) >= 1, name
        assert told.by("tidegate_breaker_state", "route") == {"broken": 2}
        assert told.value("tidegate_requests_total", route="stream", outcome="ok") == 3  # once for the ladder
        assert told.value("tidegate_empty_answers_total", route="demo") == 1

    assert promtool("check", "metrics", text=text) == ""


async def test_every_metric_that_is_looked_at_is_there_and_its_labels_have_these_values(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (_, told):
        names = told.names
        labels = {
            label for family in told.families.values() for sample in family.samples for label in sample.labels
        }
    looked_at = {name for _, expr in expressions() for name in _SERIES.findall(expr)}

    assert looked_at - names == set()
    # And nothing is told that nobody looks at: the one half of a histogram's samples stands for the other.
    assert {name for name in names if not name.endswith(("_sum", "_count"))} - looked_at == set()
    for place, expr in expressions():
        for label, how, value in _MATCHER.findall(expr):
            if value in ("$route", "tidegate"):
                continue
            assert label in labels, place
            for one in alternatives(value):
                assert any(re.fullmatch(one, known) for known in KNOWN[label]), (place, label, how, value)


STATUSES = {str(number) for number in (200, 400, 401, 402, 403, 404, 429, 499, 500, 502, 503, 504)}
KNOWN: dict[str, set[str]] = {
    "outcome": set(get_args(Outcome)),
    "status": STATUSES,
    "kind": {"prompt", "completion", "reasoning", "cached"},
    "result": {"ok", "error_event", "client_gone", "timeout_idle_client", *STATUS, *STATUSES},
}


def alternatives(pattern: str) -> Iterator[str]:
    """`5..|timeout_(connect|idle)`: `5..`, `timeout_connect`, `timeout_idle`."""
    for part in re.split(r"\|(?![^(]*\))", pattern):
        inner = re.fullmatch(r"(.*)\((.*)\)(.*)", part)
        if inner is None:
            yield part
        else:
            yield from (inner[1] + word + inner[3] for word in inner[2].split("|"))


def test_the_alert_on_a_provider_knows_every_clock() -> None:
    (expr,) = [expr for place, expr in expressions() if place == "TidegateProviderDown"]
    results = next(value for label, _, value in _MATCHER.findall(expr) if label == "result")

    assert {f"timeout_{clock}" for clock in get_args(Clock)} <= {*alternatives(results)}


def test_promtool_takes_the_alerts() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    cases = (ROOT / "tests/alerts/alerts_test.yaml").read_text()
    names = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))

    assert names <= set(re.findall(r"alertname: (\w+)", cases))
    assert "SUCCESS" in promtool("test", "rules", str(ROOT / "tests/alerts/alerts_test.yaml"))


def test_promtool_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": filled_in(expr)}
        for number, (_, expr) in enumerate(of_the_dashboard())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert len(rules) >= 15
    promtool("check", "rules", str(file))


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]

    # Without an id of its own, Grafana makes a new one; the uid makes an import replace the one before.
    assert "id" not in board and board["uid"] == "tidegate"
    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def expressions() -> list[tuple[str, str]]:
    """Each query with where it stands: alerts by their names, panels by their titles."""
    alerts = re.split(r"^ *- alert: ", ALERTS.read_text(), flags=re.MULTILINE)[1:]
    found = [(text.split("\n", 1)[0], text.partition("expr:")[2].partition("labels:")[0]) for text in alerts]
    return found + of_the_dashboard()


def of_the_dashboard() -> list[tuple[str, str]]:
    board = json.loads(DASHBOARD.read_text())
    queries = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    asked = [re.fullmatch(r"label_values\((\w+), (\w+)\)", query) for query in variables]
    return queries + [("variable", found[1]) for found in asked if found is not None]


def filled_in(expr: str) -> str:
    """A query as Grafana would send it."""
    return expr.replace("$__rate_interval", "1m").replace("$route", ".*")


def section(title: str) -> str:
    """A section of the operator's page, up to the next of its rank."""
    rank = title.split(" ", maxsplit=1)[0]
    text = (ROOT / "docs/operation.md").read_text()
    return text.partition(f"\n{title}\n")[2].partition(f"\n{rank} ")[0]


async def test_the_page_for_operators_lists_the_metrics_with_their_labels(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(tidegate_\w+)` \|([^|]*)\|", section("## Metrics"), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    async with served(tmp_path) as (_, told):
        real: dict[str, set[str]] = {}
        for family in told.families.values():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            real[name] = {label for sample in family.samples for label in sample.labels} - {"le"}

    assert documented == real


def test_the_page_for_operators_explains_every_result_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]*) \| [^|]*\|$", section("### What ended a call"), re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", " ".join(rows))) - {"result"}
    ours = {code for code in STATUS if code.startswith(("upstream_", "timeout_"))}
    told = {"ok", "error_event", "timeout_idle_client", "client_gone", "draining", "internal_error"}

    refused = {"breaker_open", "key_missing", "queue_full", "rate_limited"}
    assert documented == ours | told | refused | {"400", "599"}


def test_the_page_for_operators_describes_every_field_of_the_status() -> None:
    cells = re.findall(r"^\| (`[^|]*) \|", section("## Status"), re.MULTILINE)
    documented: set[str] = set()
    for cell in cells:
        names = re.findall(r"`([\w.]+)`", cell)
        # `routes.NAME.key.usable`, `.reason`: the second begins where the first does.
        start = names[0].rpartition(".")[0]
        documented |= {start + name if name.startswith(".") else name for name in names}

    real = fields_of(Status) - {"routes", "config", "stores", "clients"}
    assert documented == real


def fields_of(struct: type[Struct], start: str = "") -> set[str]:
    """The names of a struct's fields and of those below them, with dots between."""
    found: set[str] = set()
    for one in msgspec.structs.fields(struct):
        name = start + one.encode_name
        found.add(name)
        inner = [kind for kind in (one.type, *get_args(one.type)) if is_struct(kind)]
        below = f"{name}.NAME." if get_origin(one.type) is dict else f"{name}."
        for kind in inner if struct not in inner else ():  # each worker has the fields of all together
            found |= fields_of(kind, below)
    return found


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)
