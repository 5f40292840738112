"""Anthropic's API as far as its SDK is used here: its own key header, and a version that must be named."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.completions import prompt_tokens
from tests.support.messages import answer_message
from tests.support.provider_rules import Provider, Refused, model_list
from tests.support.wire import Seen, Wire

ANTHROPIC_KEY = "anthropic-simulated-key"
ANTHROPIC_MODEL = "claude-simulated"


def refused(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Refused:
    """An error in the shape of Anthropic."""
    return Refused(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)


@dataclass(frozen=True)
class Anthropic(Provider):
    key: str = ANTHROPIC_KEY
    base: str = "/v1"

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        if seen.header("x-api-key") != self.key:
            raise refused(401, "authentication_error", "invalid x-api-key")
        if seen.header("anthropic-version") is None:
            raise refused(400, "invalid_request_error", "anthropic-version: header is required")
        if (method, path) == ("GET", "/models"):
            await wire.json(200, model_list(ANTHROPIC_MODEL))
            return
        body = seen.json()
        if body["model"] != ANTHROPIC_MODEL:
            raise refused(404, "not_found_error", f"model: {body['model']}")
        match method, path:
            case "POST", "/messages":
                await answer_message(wire, body)
            case "POST", "/messages/count_tokens":
                await wire.json(200, {"input_tokens": prompt_tokens(body)})
            case _:
                raise refused(404, "not_found_error", f"no such path: {method} {path}")
