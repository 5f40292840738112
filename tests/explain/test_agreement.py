"""The dry run and the real process, asked the same: what the one explains is what the other does."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from proxy.explain.question import Question, compose
from tests.explain.asking import ENV, ask, by_route, check, told_of
from tests.explain.tables import questions, tables
from tests.support.process import Tidegate, write_table
from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each try of a smaller table would start a process: the one that failed has to do.
FEW = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        upstream.behaviour = by_route
        yield upstream


async def agree(gate: Tidegate, upstream: ScriptedUpstream, table: Path, question: Question) -> None:
    told = await told_of(table, question, ENV)
    answer = await ask(gate, upstream, compose(question))

    check(told, answer, upstream)


@settings(FEW, max_examples=12)
@given(data=st.data())
async def test_on_random_tables_what_is_explained_is_what_happens(
    upstream: ScriptedUpstream, data: st.DataObject
) -> None:
    made: dict[str, Any] = data.draw(tables(upstream.origin))
    asked = data.draw(st.lists(questions(), min_size=8, max_size=30))
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder), made.pop("routes"), **made)
        async with Tidegate(table, env=ENV) as gate:
            for question in asked:
                note(f"{question}")
                await agree(gate, upstream, table, question)
