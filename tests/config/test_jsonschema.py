from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from config.jsonschema import schema
from tests.config.catalog import CATALOG
from tests.config.tables import SOUND
from tests.config.test_loader import CONTRACT_SHAPED

# Part of the test extra; a bare environment may do without.
jsonschema = pytest.importorskip("jsonschema")

SCHEMA = schema(CATALOG)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def is_valid(text: str) -> bool:
    return bool(VALIDATOR.is_valid(YAML(typ="safe", pure=True).load(text)))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_the_schema_takes_what_the_loader_takes():
    VALIDATOR.validate(YAML(typ="safe", pure=True).load(CONTRACT_SHAPED))


@pytest.mark.parametrize(
    "text",
    [
        "x-anything: [1, {a: b}]",
        'server: {workers: "${N}", max_connections: "${N}", max_body: "${N}MiB", drain_delay: "${N}"}',
        'server: {workers: auto, listen: ["${ADDRESS}"]}',
        "models: {a: demo/b, c: [demo/b, demo/d]}",
        'routes: {demo: {upstream: demo, explicit_only: "${B}", middlewares: [usage, usage: , [[usage]]]}}',
        'routes: {demo: {upstream: demo, middlewares: [floor: {min: "${N}", when_absent: leave}]}}',
        "routes: {demo: {upstream: demo, middlewares: [floor: {min: 1, ratio: 0.5}]}}",
        "routes: {demo: {upstream: demo, middlewares: [key: {env: A}]}}",
        "routes: {demo: {upstream: demo, middlewares: [key: [{env: A}, {env: B, pass: true}]]}}",
        "routes: {demo: {upstream: demo, middlewares: [params: {set: {a: [1, {b: null}]}}]}}",
        "middlewares: [timeout: {total: 1h}, client_keys: {file: a}, rate_limit]",
    ],
)
def test_the_schema_takes_every_notation(text):
    base = "version: 1\n" if text.startswith("routes") else SOUND
    assert is_valid(base + text)


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\nroutes: {}",
        "version: 1",
        SOUND + "y-anything: 1",
        SOUND + "server: {workrs: 1}",
        SOUND + "server: {workers: 0}",
        SOUND + "server: {max_body: 64}",
        SOUND + "server: {max_body: 64MB}",
        SOUND + "server: {drain_delay: 10}",
        SOUND + "models: {a: []}",
        SOUND + "models: {a: {}}",
        SOUND + "middlewares: [usage]",
        SOUND + "middlewares: [timeout: {connect: 1s}]",
        "version: 1\nroutes: {demo: {}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: usage}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [retry]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [floor]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [floor: ]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [floor: {min: 0}]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [floor: {min: five}]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [floor: {min: 1, when_absent: drop}]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [{usage: , floor: {min: 1}}]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [timeout: {total: 10}]}}",
        "version: 1\nroutes: {demo: {upstream: demo, middlewares: [rate_limit: {requests: 60}]}}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text):
    assert not is_valid(text)


def test_docstrings_become_descriptions():
    definitions = SCHEMA["$defs"]
    assert definitions["Route"]["description"].startswith("One provider.")
    assert definitions["Floor"]["description"].startswith("A required number")
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
