"""The JSON Schema beside the shipped table: fresh, complete, and held against the loader."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from config.catalog import Catalog
from config.jsonschema import schema
from config.loader import load
from middlewares.registry import BUILT_IN
from tests.config.written_tables import ENVIRON, tables
from tests.support.process import ROOT
from tests.test_docs import SOUND, completed

TABLE = ROOT / "config/routes.yaml"
CATALOG = Catalog({name: registered.entry for name, registered in BUILT_IN.items()})
SCHEMA: dict[str, Any] = json.loads(json.dumps(schema(CATALOG)))
VALIDATOR = Draft202012Validator(SCHEMA)


def parsed(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_shipped_table_names_the_schema_beside_it_in_its_first_line() -> None:
    first = TABLE.read_text().splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")

    assert named != first
    assert (TABLE.parent / named).is_file()


def test_the_shipped_schema_is_the_one_that_the_structs_make() -> None:
    """`make schema` writes it anew."""
    assert json.loads((ROOT / "config/routes.schema.json").read_text()) == SCHEMA


def test_the_shipped_table_and_every_table_of_the_documents_fit() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    shown = [text for _, text in SOUND]

    assert len(shown) > 20
    for text in (TABLE.read_text(), *map(completed, shown)):
        VALIDATOR.validate(parsed(text))


def properties(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property that is described anywhere in the schema."""
    if isinstance(part, dict):
        for name, described in part.get("properties", {}).items() if part.get("type") == "object" else ():
            yield f"{path}/{name}", described
        for name, inner in part.items():
            if name not in {"examples", "default"}:
                yield from properties(inner, f"{path}/{name}")
    elif isinstance(part, list):
        for i, inner in enumerate(part):
            yield from properties(inner, f"{path}/{i}")


PROPERTIES = list(properties(SCHEMA))


def test_every_property_and_every_struct_is_described() -> None:
    structs = [(name, part) for name, part in SCHEMA["$defs"].items() if "properties" in part]

    assert len(PROPERTIES) > 80
    assert [path for path, part in [*PROPERTIES, *structs] if not part.get("description", "").strip()] == []


@pytest.mark.parametrize(("path", "part"), PROPERTIES, ids=[path for path, _ in PROPERTIES])
def test_every_property_has_examples_that_fit_it(path: str, part: dict[str, Any]) -> None:
    validator = Draft202012Validator({**part, "$defs": SCHEMA["$defs"]})

    assert part["examples"]
    for example in part["examples"]:
        validator.validate(example)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(tables(CATALOG))
def test_the_schema_takes_whatever_the_loader_takes(table: dict[str, Any]) -> None:
    text = json.dumps(table, indent=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "routes.yaml")
        path.write_text(text)
        loaded = load(path, CATALOG, environ=ENVIRON)
    event("loads" if loaded.ok else "does not load")
    if loaded.ok:
        VALIDATOR.validate(table)


ACME = "version: 1\nroutes:\n  acme: {upstream: https://acme.example/v1, middlewares: [%s]}\n"


@pytest.mark.parametrize(
    "text",
    [
        ACME % "prefix_rewrte",
        ACME % "key: {envv: ACME}",
        ACME % "key: ACME",
        ACME % "key: {env: 5}",
        ACME % "timeout: {total: 600}",
        ACME % "timeout: {total: 10 s}",
        ACME % "timeout: {total: 5d}",
        ACME % "timeout: 600s",
        ACME % "retry: {attempts: 0}",
        ACME % "retry: {attempts: many}",
        ACME % "retry: {when: [conect]}",
        ACME % "stream: {commit: first_tokn}",
        ACME % "stream: {hold: 8MB}",
        ACME % "token_floor",
        ACME % "{headers: {}, usage: {}}",
        ACME % "concurrency: {}",
        ACME % "" + "modles: {}\n",
        ACME % "" + "server: {listen: 127.0.0.1:8080}\n",
        ACME % "" + "server: {max_body: 64}\n",
        ACME % "" + "server: {workers: many}\n",
        ACME % "" + "models: {a: }\n",
        ACME % "" + "middlewares: [key: {env: A}]\n",
        ACME % "" + "middlewares: [timeout: {idle: 5s}]\n",
        "version: 1\nroutes: {acme: {upsteam: demo}}\n",
        "version: 1\nroutes: {acme: {upstream: demo, explicit_only: yes}}\n",
        "version: '1'\nroutes: {acme: {upstream: demo}}\n",
        "routes: {acme: {upstream: demo}}\n",
    ],
)
def test_a_typical_mistake_fits_neither_schema_nor_loader(text: str, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(text)

    assert not load(path, CATALOG, environ={}).ok
    assert not VALIDATOR.is_valid(parsed(text))
