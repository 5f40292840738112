"""What the simulated providers share: where they listen, how they refuse, and what they check."""

from __future__ import annotations

import json
from typing import Any

from tests.support.wire import Seen, Wire


class Refused(Exception):
    """An answer other than 200: status, body, headers."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers


class Provider:
    """Under its base path a provider lists models and completes chats; what is `Refused` is answered so."""

    base: str

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        try:
            if not seen.path.startswith(self.base + "/"):
                raise invalid(404, f"no such path: {seen.path}", "not_found_error")
            await self.serve(seen.method, seen.path.removeprefix(self.base), seen, wire)
        except Refused as refused:
            await wire.json(refused.status, refused.body, refused.headers)

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        match method, path:
            case "GET", "/models":
                await self.models(seen, wire)
            case "POST", "/chat/completions":
                await self.chat(seen, wire)
            case _:
                raise invalid(404, f"no such path: {method} {path}", "not_found_error")

    async def models(self, seen: Seen, wire: Wire) -> None:
        raise NotImplementedError

    async def chat(self, seen: Seen, wire: Wire) -> None:
        raise NotImplementedError


def invalid(status: int, message: str, kind: str = "invalid_request_error") -> Refused:
    """An error in the shape of OpenAI."""
    return Refused(status, {"error": {"message": message, "type": kind, "param": None, "code": None}})


def numbered(code: int, message: str) -> dict[str, Any]:
    """An error body in the shape of OpenRouter."""
    return {"error": {"code": code, "message": message}}


def model_list(*names: str) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "simulated"} for name in names]
    return {"object": "list", "data": data}


def bearer(seen: Seen) -> str | None:
    """The key of `Authorization: Bearer`, spelled exactly so."""
    scheme, _, key = (seen.header("Authorization") or "").partition(" ")
    return key if scheme == "Bearer" else None


def chat_body(seen: Seen) -> dict[str, Any]:
    """The request body: a JSON object with a model and messages."""
    if (seen.header("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
        raise invalid(400, "Content-Type must be application/json")
    try:
        body = seen.json()
    except ValueError as error:
        raise invalid(400, f"invalid JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise invalid(400, "model is required")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise invalid(400, "messages must not be empty")
    return body


def require_model(body: dict[str, Any], *names: str) -> None:
    if body["model"] not in names:
        message = f"Not found the model {body['model']} or Permission denied"
        raise invalid(404, message, "resource_not_found_error")


def require_temperature(body: dict[str, Any], *allowed: float) -> None:
    if body.get("temperature") not in (None, *allowed):
        raise invalid(400, "invalid temperature: only 1 is allowed for this model")


def token_budget(body: dict[str, Any]) -> int | None:
    """The smaller of the limits that the request sets, None without any."""
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    for limit in limits:
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise invalid(400, f"invalid max_tokens: {json.dumps(limit)}")
    return min(limits, default=None)
