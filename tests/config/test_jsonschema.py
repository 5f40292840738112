from __future__ import annotations

import json

import pytest
from msgspec import structs
from ruamel.yaml import YAML

from config.catalog import Catalog
from config.descriptions import TABLE
from config.jsonschema import schema
from config.schema import ClientTimeouts, ListenerTls, Route, Server, Table, UpstreamTls
from middlewares.headers import ResponseOptions
from middlewares.registry import BUILT_IN
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
        "models:\nmiddlewares: null\nserver:",
        "server: {timeouts: , trusted_proxies: }",
        "routes: {demo: {upstream: demo, middlewares: , serves: , list: }}",
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
        "version: 1\nroutes: {}",
        "version: 1\nroutes: {a/b: {upstream: demo}}",
        "version: 1\nroutes: {v1: {upstream: demo}}",
        SOUND + "server: {listen: []}",
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
    assert definitions["floor"]["description"].startswith("A required number")
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


REAL = schema(Catalog({name: registered.entry for name, registered in BUILT_IN.items()}))


def test_a_bare_name_is_offered_only_where_its_defaults_will_do():
    bare = REAL["$defs"]["middleware"]["oneOf"][0]["enum"]
    assert {"prefix_rewrite", "headers", "timeout"} <= set(bare)
    assert not {"key", "token_floor", "params"} & set(bare)


def test_a_list_of_keys_is_not_empty():
    single = next(item for item in REAL["$defs"]["middleware"]["oneOf"] if "properties" in item)
    (_, listed) = single["properties"]["key"]["anyOf"]
    assert listed["minItems"] == 1


def test_options_are_defined_under_the_name_of_their_middleware():
    assert {"headers", "key", "token_floor", "timeout"} <= set(REAL["$defs"])
    assert not [name for name in REAL["$defs"] if "Options" in name and name != "ResponseOptions"]


def test_defaults_are_shown_as_they_are_written():
    server = REAL["$defs"]["Server"]["properties"]
    assert [
        server[name]["default"] for name in ("max_body", "max_upload", "drain_timeout", "drain_delay")
    ] == [
        "64MiB",
        "2GiB",
        "15m",
        "0s",
    ]
    assert REAL["$defs"]["ClientTimeouts"]["properties"]["keepalive"]["default"] == "75s"
    assert REAL["$defs"]["timeout"]["properties"]["connect"]["default"] == "10s"


@pytest.mark.parametrize(
    "struct", [Table, Server, ClientTimeouts, ListenerTls, Route, UpstreamTls, ResponseOptions]
)
def test_every_field_of_the_table_is_described(struct):
    assert list(TABLE[struct.__name__]) == [field.encode_name for field in structs.fields(struct)]


def test_every_option_that_is_described_is_one():
    for name in set(TABLE) & set(BUILT_IN):
        properties = REAL["$defs"][name]["properties"]
        assert set(TABLE[name]) == set(properties)
        assert all(properties[option]["description"] for option in TABLE[name])
