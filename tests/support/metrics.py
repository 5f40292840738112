"""What a running tidegate says of itself on its admin listener."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import Tidegate
from tests.support.raw import RawClient, header

ADMIN = {"admin": "127.0.0.1:0"}
"""For the `server` of a table."""
Labels = frozenset[tuple[str, str]]


class Figures:
    """One scrape; a sample that is not there counts 0, as it does for whoever adds rates up."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values: dict[str, dict[Labels, float]] = {}
        for family in self.families.values():
            for sample in family.samples:
                self._values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        """Every sample's name."""
        return set(self._values)

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        wanted = labels.items()
        return sum(value for key, value in self._values.get(name, {}).items() if wanted <= dict(key).items())

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The same for each value of one label; what is 0 is left out."""
        found: dict[str, float] = {}
        for key, value in self._values.get(name, {}).items():
            told = dict(key)
            if labels.items() <= told.items() and value:
                found[told[label]] = found.get(told[label], 0) + value
        return found

    def labels(self, label: str) -> set[str]:
        """Every value of a label."""
        return {
            value
            for values in self._values.values()
            for key in values
            for name, value in key
            if name == label
        }


async def page(
    gate: Tidegate, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, list[tuple[str, str]], bytes]:
    """One page of the admin listener."""
    await gate.wait_event("listening", role="admin")
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    async with RawClient(int(gate.address("admin").rpartition(":")[2])) as client:
        await client.send(f"{method} {path} HTTP/1.1\r\nHost: admin\r\n{lines}\r\n".encode())
        status, told = await client.read_head(bodiless=method == "HEAD")
        return status, told, await client.read_body()


async def figures(gate: Tidegate) -> Figures:
    """The metrics now."""
    status, headers, body = await page(gate, "/metrics")
    assert (status, header(headers, "content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Figures(body.decode())


async def status_of(gate: Tidegate) -> dict[str, Any]:
    """The status now."""
    status, headers, body = await page(gate, "/status")
    assert (status, header(headers, "content-type")) == (200, "application/json")
    told: dict[str, Any] = json.loads(body)
    return told
