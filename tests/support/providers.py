"""Simulated providers, as strict as the real ones about keys, clients, models and parameters.

Each is a behaviour for a scripted upstream; `simulated(kimi())` listens with the provider's own base path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.support.completions import Completion, answer_to, complete, prompt_tokens, words
from tests.support.messages import answer_message
from tests.support.provider_rules import (
    Provider,
    Refused,
    bearer,
    chat_body,
    invalid,
    model_list,
    numbered,
    require_model,
    require_temperature,
    token_budget,
)
from tests.support.upstream import ScriptedUpstream
from tests.support.wire import Behaviour, Seen, Wire, sse_event

KIMI_KEY = "sk-kimi-simulated"
OPENROUTER_KEY = "sk-or-simulated"
OLLAMA_KEY = "ollama-simulated"
KIMI_AGENTS = ("KimiCLI/", "claude-cli/", "RooCode/", "Kilo-Code/", "opencode/")
KIMI_MODEL = "kimi-for-coding"
OPENROUTER_COMMENT = b": OPENROUTER PROCESSING\n\n"

_INVALID_KEY = {"error": {"message": "Invalid Authentication", "type": "invalid_authentication_error"}}
_NO_AGENT = {
    "error": {
        "type": "access_terminated_error",
        "message": "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI, "
        "Claude Code, Roo Code, Kilo Code, etc.",
    }
}


@dataclass(frozen=True)
class Kimi(Provider):
    """Kimi For Coding: admits known coding agents only, reasons first, and wants temperature 1."""

    key: str = KIMI_KEY
    agents: tuple[str, ...] = KIMI_AGENTS
    pause: float = 0.0
    reasoning: int = 1000
    base: str = "/coding/v1"

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        if (method, path) == ("POST", "/messages"):
            await self.messages(seen, wire)
        else:
            await super().serve(method, path, seen, wire)

    async def models(self, seen: Seen, wire: Wire) -> None:
        await wire.json(200, model_list(KIMI_MODEL))

    async def chat(self, seen: Seen, wire: Wire) -> None:
        if not self._knows(bearer(seen)):
            raise Refused(401, _INVALID_KEY)
        if not (seen.header("User-Agent") or "").startswith(self.agents):
            raise Refused(403, _NO_AGENT)
        body = chat_body(seen)
        require_model(body, KIMI_MODEL)
        require_temperature(body, 1)
        await wire.pause(self.pause)
        await complete(seen, wire, self._completion(body))

    def _completion(self, body: dict[str, Any]) -> Completion:
        """Reasoning counts against the budget; one that is too small for both is spent on reasoning alone."""
        text = answer_to(body)
        budget = token_budget(body)
        enough = budget is None or budget >= self.reasoning + len(words(text))
        spent = self.reasoning if enough or budget is None else budget
        return Completion(
            text=text if enough else "",
            model=KIMI_MODEL,
            prompt_tokens=prompt_tokens(body),
            reasoning="Hmm, " * spent,
            finish_reason="stop" if enough else "length",
        )

    async def messages(self, seen: Seen, wire: Wire) -> None:
        """The Anthropic surface: its own key header, any User-Agent, whatever the model is called."""
        if not self._knows(seen.header("x-api-key")):
            error = {"type": "authentication_error", "message": "Invalid Authentication"}
            raise Refused(401, {"type": "error", "error": error})
        body = chat_body(seen)
        await wire.pause(self.pause)
        await answer_message(wire, body)

    def _knows(self, key: str | None) -> bool:
        return key == self.key and key.startswith("sk-kimi-")


@dataclass(frozen=True)
class Moonshot(Provider):
    """The Moonshot open platform of one region; it knows no key but its own."""

    key: str
    region: Literal["ai", "cn"] = "ai"
    base: str = "/v1"

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        if bearer(seen) != self.key:
            raise Refused(401, _INVALID_KEY)
        await super().serve(method, path, seen, wire)

    async def models(self, seen: Seen, wire: Wire) -> None:
        await wire.json(200, model_list("kimi-k2.6", "kimi-k2"))

    async def chat(self, seen: Seen, wire: Wire) -> None:
        body = chat_body(seen)
        require_model(body, "kimi-k2.6", "kimi-k2")
        if body["model"] == "kimi-k2.6":
            require_temperature(body, 1, 0.6)
        await complete(seen, wire, Completion(answer_to(body), body["model"], prompt_tokens(body)))


@dataclass(frozen=True)
class OpenRouter(Provider):
    """OpenRouter: comments within streams, errors inside a 200, and models that fail in known ways."""

    key: str = OPENROUTER_KEY
    base: str = "/api/v1"
    generation: str = "gen-simulated"

    async def models(self, seen: Seen, wire: Wire) -> None:
        await wire.json(200, model_list("moonshotai/kimi-k2.6", "openai/gpt-4o"))

    async def chat(self, seen: Seen, wire: Wire) -> None:
        if bearer(seen) != self.key:
            raise Refused(401, numbered(401, "No auth credentials found"))
        body = chat_body(seen)
        headers = {"X-Generation-Id": self.generation}
        done = Completion(answer_to(body), body["model"], prompt_tokens(body), ident=self.generation)
        match body["model"]:
            case "fail/credits":
                raise Refused(402, numbered(402, "Insufficient credits"), headers)
            case "fail/busy":
                raise Refused(429, numbered(429, "Rate limit exceeded"), headers | {"Retry-After": "7"})
            case "fail/first" | "fail/middle" as model:
                await self._fail(wire, body, done, model == "fail/middle", headers)
            case str(model) if "/" in model:
                await complete(seen, wire, done, headers=headers, comment=OPENROUTER_COMMENT)
            case model:
                raise Refused(400, numbered(400, f"{model} is not a valid model ID"), headers)

    async def _fail(
        self, wire: Wire, body: dict[str, Any], done: Completion, late: bool, headers: dict[str, str]
    ) -> None:
        error = numbered(502, "Provider returned error")
        if not body.get("stream"):
            raise Refused(502, error, headers)
        await wire.sse(OPENROUTER_COMMENT, OPENROUTER_COMMENT, done=False, headers=headers)
        if late:
            for number in (1, 2, 3):
                await wire.chunk(sse_event(done.event({"role": "assistant", "content": f"word{number} "})))
            error = done.event({"content": ""}, "error") | error
        await wire.chunk(sse_event(error))
        await wire.finish()


@dataclass(frozen=True)
class Ollama(Provider):
    """Ollama Cloud: one model that is broken and one whose session quota is used up."""

    key: str = OLLAMA_KEY
    base: str = "/v1"

    async def serve(self, method: str, path: str, seen: Seen, wire: Wire) -> None:
        if bearer(seen) != self.key:
            raise invalid(401, "unauthorized", "authentication_error")
        await super().serve(method, path, seen, wire)

    async def models(self, seen: Seen, wire: Wire) -> None:
        await wire.json(200, model_list("kimi-k2:1t", "kimi-k2.5", "quota"))

    async def chat(self, seen: Seen, wire: Wire) -> None:
        body = chat_body(seen)
        match body["model"]:
            case "kimi-k2:1t":
                broken = "unmarshal: invalid character 'I' looking for beginning of value"
                raise invalid(500, broken, "api_error")
            case "quota":
                used_up = "you (user) have reached your session usage limit, upgrade for higher limits"
                raise invalid(429, used_up, "rate_limit_error")
            case model:
                await complete(seen, wire, Completion(answer_to(body), model, prompt_tokens(body)))


def kimi(key: str = KIMI_KEY, agents: tuple[str, ...] = KIMI_AGENTS, pause: float = 0.0) -> Kimi:
    return Kimi(key, agents, pause)


def moonshot(region: Literal["ai", "cn"] = "ai", key: str | None = None) -> Moonshot:
    return Moonshot(key or f"sk-moonshot-{region}", region)


def openrouter(key: str = OPENROUTER_KEY) -> OpenRouter:
    return OpenRouter(key)


def ollama(key: str = OLLAMA_KEY) -> Ollama:
    return Ollama(key)


def simulated(behaviour: Behaviour, base: str | None = None) -> ScriptedUpstream:
    """A scripted upstream whose url ends in `base`: by default the provider's own, else /coding/v1."""
    own = behaviour.base if isinstance(behaviour, Provider) else "/coding/v1"
    return ScriptedUpstream(behaviour, base=own if base is None else base)
