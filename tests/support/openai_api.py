"""OpenAI's API as far as its SDK is used here: one key, one model, and every endpoint's own shape.

What a client uploads comes back as its SHA-256, so that a test can tell that every byte arrived.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

from tests.support.completions import (
    CREATED,
    Completion,
    answer_to,
    complete,
    last_user_text,
    prompt_tokens,
    words,
)
from tests.support.forms import Form
from tests.support.provider_rules import Provider, Refused, bearer, invalid, model_list
from tests.support.responses import answer_response
from tests.support.tools import calls_for
from tests.support.wire import DONE, Seen, Wire

OPENAI_KEY = "openai-simulated-key"
OPENAI_MODEL = "gpt-4o"
VECTOR = (0.5, -0.25, 1.0)
SPEECH = bytes(range(256)) * 64
"""Binary, and no text in any encoding."""


@dataclass(frozen=True)
class OpenAI(Provider):
    key: str = OPENAI_KEY
    base: str = "/v1"

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        if bearer(seen) != self.key:
            error = {"message": "Incorrect API key provided", "type": "invalid_request_error", "param": None}
            raise Refused(401, {"error": error | {"code": "invalid_api_key"}})
        match method, path:
            case "POST", "/completions":
                await _completion(wire, _asked(seen))
            case "POST", "/responses":
                await answer_response(wire, _asked(seen))
            case "POST", "/embeddings":
                await wire.json(200, _embeddings(_asked(seen)))
            case "POST", "/moderations":
                await wire.json(200, _moderation(_asked(seen)))
            case "POST", "/audio/transcriptions":
                await wire.json(200, {"text": _uploaded(seen, "file")})
            case "POST", "/audio/speech":
                await _speech(wire, _asked(seen))
            case "POST", "/images/generations":
                await wire.json(200, _image(_asked(seen)["prompt"]))
            case "POST", "/images/edits":
                await wire.json(200, _image(_uploaded(seen, "image")))
            case _, str(files) if files.partition("?")[0].startswith("/files"):
                await _files(method, files, seen, wire)
            case _:
                await super().serve(method, path, seen, wire)

    async def models(self, seen: Seen, wire: Wire) -> None:
        await wire.json(200, model_list(OPENAI_MODEL))

    async def chat(self, seen: Seen, wire: Wire) -> None:
        body = _asked(seen)
        calls = calls_for(body, last_user_text(body))
        await complete(
            seen,
            wire,
            Completion(
                _structured(body) or ("" if calls else answer_to(body)),
                body["model"],
                prompt_tokens(body),
                finish_reason="tool_calls" if calls else "stop",
                tool_calls=calls,
            ),
        )


def _asked(seen: Seen) -> dict[str, Any]:
    if seen.header("Content-Type") != "application/json":
        raise invalid(400, "Content-Type must be application/json")
    body = seen.json()
    _require_model(body.get("model"))
    return dict(body)


def _require_model(model: object) -> None:
    if model != OPENAI_MODEL:
        raise invalid(404, f"The model {model!r} does not exist")


def _uploaded(seen: Seen, name: str) -> str:
    """The SHA-256 of the file in a form whose model must be ours."""
    form = Form.of(seen)
    _require_model(form.text("model"))
    return hashlib.sha256(form[name].data).hexdigest()


def _structured(body: dict[str, Any]) -> str:
    """What a client asked for by a schema: its text for every property."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return ""
    properties = wanted["json_schema"]["schema"]["properties"]
    return json.dumps(dict.fromkeys(properties, last_user_text(body)))


async def _completion(wire: Wire, body: dict[str, Any]) -> None:
    base = {"id": "cmpl-simulated", "object": "text_completion", "created": CREATED, "model": body["model"]}

    def event(text: str, finish: str | None = None) -> dict[str, Any]:
        return {**base, "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]}

    if not body.get("stream"):
        await wire.json(200, event(body["prompt"], "stop"))
        return
    await wire.sse(*map(event, words(body["prompt"])), event("", "stop"), DONE, done=False)
    await wire.finish()


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    packed = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    vector: Any = packed if body.get("encoding_format") == "base64" else list(VECTOR)
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _moderation(body: dict[str, Any]) -> dict[str, Any]:
    flagged = "violence" in body["input"]
    result = {
        "flagged": flagged,
        "categories": {"violence": flagged},
        "category_scores": {"violence": 0.9},
        "category_applied_input_types": {"violence": ["text"]},
    }
    return {"id": "modr-simulated", "model": body["model"], "results": [result]}


async def _speech(wire: Wire, body: dict[str, Any]) -> None:
    await wire.head(200, {"Content-Type": "audio/mpeg"})
    for start in range(0, len(SPEECH), 4096):
        await wire.chunk(SPEECH[start : start + 4096])
    await wire.finish()


def _image(said: str) -> dict[str, Any]:
    return {"created": CREATED, "data": [{"b64_json": base64.b64encode(said.encode()).decode()}]}


async def _files(method: str, path: str, seen: Seen, wire: Wire) -> None:
    """One file, which is there before it is uploaded; its content is SPEECH."""
    file = {
        "id": "file-simulated",
        "object": "file",
        "bytes": len(SPEECH),
        "created_at": CREATED,
        "filename": "simulated.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    match method, path:
        case "POST", "/files":
            form = Form.of(seen)
            data = form["file"].data
            named = {"id": hashlib.sha256(data).hexdigest(), "filename": form["file"].filename}
            await wire.json(200, {**file, **named, "bytes": len(data), "purpose": form.text("purpose")})
        case "GET", "/files":
            await wire.json(200, {"object": "list", "data": [file], "has_more": False})
        case "GET", "/files/file-simulated":
            await wire.json(200, file)
        case "GET", "/files/file-simulated/content":
            await wire.head(200, {"Content-Type": "application/octet-stream"})
            await wire.chunk(SPEECH)
            await wire.finish()
        case "DELETE", "/files/file-simulated":
            await wire.json(200, {"id": "file-simulated", "object": "file", "deleted": True})
        case _:
            raise invalid(404, f"No such File object: {path}")
