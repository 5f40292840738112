from __future__ import annotations

import pytest

from middlewares.faults import (
    STATUS,
    ClientFault,
    Fault,
    Refusal,
    TimeoutFault,
    UpstreamFault,
    anthropic_error,
    openai_error,
)

PUBLISHED = {
    "invalid_json": 400,
    "invalid_request": 400,
    "invalid_client_key": 401,
    "not_allowed": 403,
    "model_not_found": 404,
    "not_found": 404,
    "client_timeout": 408,
    "body_too_large": 413,
    "rate_limited": 429,
    "queue_full": 429,
    "upstream_connect": 502,
    "upstream_reset": 502,
    "upstream_protocol": 502,
    "upstream_cut": 502,
    "key_missing": 503,
    "breaker_open": 503,
    "draining": 503,
    "timeout_connect": 504,
    "timeout_first_byte": 504,
    "timeout_first_token": 504,
    "timeout_idle": 504,
    "timeout_total": 504,
}
"""The table that programs rely on."""


@pytest.mark.parametrize(("code", "status"), PUBLISHED.items())
def test_each_published_code_has_its_status(code, status):
    assert Fault(code, "…").status == status == STATUS[code]


def test_besides_the_published_codes_there_is_only_the_error_that_should_not_happen():
    assert STATUS.keys() - PUBLISHED.keys() == {"internal_error"}
    assert STATUS["internal_error"] == 500


def test_an_unknown_code_is_a_mistake_in_the_program():
    with pytest.raises(KeyError):
        Fault("no_such_code", "…")


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (ClientFault("invalid_json", "…"), "proxy_error"),
        (Refusal("key_missing", "…"), "proxy_error"),
        (UpstreamFault("upstream_connect", "…"), "upstream_error"),
        (UpstreamFault("upstream_reset", "…"), "upstream_error"),
        (UpstreamFault("upstream_protocol", "…"), "upstream_error"),
        (UpstreamFault("upstream_cut", "…"), "cut"),
        (TimeoutFault("idle", "…"), "timeout"),
    ],
)
def test_a_fault_knows_how_the_log_tells_it(fault, outcome):
    assert fault.outcome == outcome


@pytest.mark.parametrize("clock", ["connect", "first_byte", "first_token", "idle", "total"])
def test_a_timeout_names_its_clock(clock):
    fault = TimeoutFault(clock, "Too long.")
    assert (fault.code, fault.status, fault.clock) == (f"timeout_{clock}", 504, clock)
    assert str(fault) == fault.message == "Too long."


@pytest.mark.parametrize(
    ("fault", "headers"),
    [
        (ClientFault("invalid_json", "…"), [("x-tidegate-error", "invalid_json")]),
        (
            Refusal("rate_limited", "…", retry_after=30),
            [("x-tidegate-error", "rate_limited"), ("Retry-After", "30")],
        ),
        (
            Refusal("draining", "…", retry_after=0),
            [("x-tidegate-error", "draining"), ("Retry-After", "0")],
        ),
        (UpstreamFault("upstream_cut", "…"), [("x-tidegate-error", "upstream_cut")]),
        (Refusal("key_missing", "…"), [("x-tidegate-error", "key_missing")]),
        (
            TimeoutFault("idle", "…"),
            [("x-tidegate-error", "timeout_idle"), ("x-should-retry", "false")],
        ),
    ],
)
def test_the_headers_tell_the_code_the_wait_and_whether_to_come_back(fault, headers):
    assert fault.headers == headers


@pytest.mark.parametrize("code", sorted(STATUS))
def test_x_should_retry_stands_on_every_504_and_on_no_other(code):
    headers = dict(Fault(code, "…").headers)
    assert headers.get("x-should-retry") == ("false" if STATUS[code] == 504 else None)


@pytest.mark.parametrize(
    ("code", "openai", "anthropic"),
    [
        ("invalid_json", "invalid_request_error", "invalid_request_error"),
        ("invalid_client_key", "authentication_error", "authentication_error"),
        ("not_allowed", "permission_error", "permission_error"),
        ("model_not_found", "invalid_request_error", "not_found_error"),
        ("client_timeout", "invalid_request_error", "invalid_request_error"),
        ("body_too_large", "invalid_request_error", "request_too_large"),
        ("rate_limited", "rate_limit_error", "rate_limit_error"),
        ("internal_error", "proxy_error", "api_error"),
        ("upstream_connect", "proxy_error", "api_error"),
        ("breaker_open", "proxy_error", "overloaded_error"),
        ("timeout_total", "proxy_error", "timeout_error"),
    ],
)
def test_both_shapes_hold_message_type_and_code(code, openai, anthropic):
    fault = Fault(code, "What happened.", param="model")
    assert openai_error(fault) == {
        "error": {"message": "What happened.", "type": openai, "param": "model", "code": code}
    }
    assert anthropic_error(fault) == {
        "type": "error",
        "error": {"type": anthropic, "message": "What happened.", "code": code},
    }


@pytest.mark.parametrize("code", sorted(STATUS))
def test_every_code_has_both_shapes(code):
    fault = Fault(code, "What happened.")
    told = openai_error(fault)["error"]
    assert isinstance(told, dict) and told.keys() == {"message", "type", "param", "code"}
    assert told["param"] is None
    also = anthropic_error(fault)["error"]
    assert isinstance(also, dict) and also.keys() == {"type", "message", "code"}
