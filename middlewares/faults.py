"""Every way in which an exchange can fail here, and whose doing it was.

    Fault
    ├── ClientFault      the request cannot be served as it came           4xx
    ├── Refusal          we decline: limits, draining, no usable key       4xx, 503
    ├── UpstreamFault    the provider could not be reached or broke off    502
    └── TimeoutFault     one of the five clocks ran out                    504

A fault is what the client is told, so its message never holds a secret, a header or a body. An
upstream's own error answer is no fault: it passes as it is. `proxy.upstream` is the only place
where foreign exceptions become faults.
"""

from __future__ import annotations

from typing import Literal

Outcome = Literal["ok", "upstream_error", "proxy_error", "client_gone", "timeout", "cut"]
"""How an exchange ended, as the log tells it."""

STATUS: dict[str, int] = {
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
    "internal_error": 500,
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
"""The status of each code; programs rely on both."""


class ClientGone(Exception):
    """The client closed its connection: there is nobody to tell anything."""


class Fault(Exception):
    """An exchange that ends with an error made here.

    `code` is one of `STATUS`; `param` names the field or header at fault; `retry_after` is in
    seconds.
    """

    outcome: Outcome = "proxy_error"

    def __init__(
        self, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]
        self.message = message
        self.param = None if param is None else str(param)  # it may be a subclass that JSON refuses
        self.retry_after = retry_after
        self.spent = False
        """Whether it was tried as often as it may be: a client that tries on would only multiply that."""
        self.counted = False
        """Whether it is known as the end of an attempt already; it may be raised again on its way out."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What the answer says of the fault besides its body."""
        lines = [("x-tidegate-error", self.code)]
        if self.retry_after is not None:
            lines.append(("Retry-After", str(self.retry_after)))
        if self.status == 401:
            lines.append(("WWW-Authenticate", "Bearer"))
        if self.status == 504 or self.spent:
            lines.append(("x-should-retry", "false"))
        return lines


class ClientFault(Fault):
    """The request cannot be served as it came."""


class Refusal(Fault):
    """We decline, for a reason of ours."""


class UpstreamFault(Fault):
    """The provider could not be reached, broke off, or did not speak HTTP."""

    @property
    def outcome(self) -> Outcome:  # type: ignore[override]  # a fact of the code, not of the class
        return "cut" if self.code == "upstream_cut" else "upstream_error"


class TimeoutFault(Fault):
    """A clock ran out; `clock` names it."""

    outcome: Outcome = "timeout"

    def __init__(self, clock: str, message: str) -> None:
        super().__init__(f"timeout_{clock}", message)
        self.clock = clock


_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_error(fault: Fault) -> dict[str, object]:
    """The error object of https://platform.openai.com/docs/guides/error-codes."""
    kind = _OPENAI_TYPES.get(fault.status, "proxy_error")
    return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}


def anthropic_error(fault: Fault) -> dict[str, object]:
    """The error object of https://docs.anthropic.com/en/api/errors, with our code beside it."""
    kind = _ANTHROPIC_TYPES.get(fault.status, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": fault.message, "code": fault.code},
    }
