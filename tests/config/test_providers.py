from __future__ import annotations

import pytest

from config.providers import PROVIDERS, gate_of, key_fits

KEY = "sk-kimi-" + "x" * 30


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("sk-kimi-", "api.kimi.com"),
        (KEY, "API.KIMI.COM."),
        ("sk-", "api.kimi.com"),
        ("", "api.kimi.com"),
        ("sk-", "openrouter.ai"),
        ("sk-or-v1-abc", "openrouter.ai"),
        ("sk-ant-abc", "api.anthropic.com"),
        ("sk-proj-abc", "api.openai.com"),
        ("sk-abc", "api.moonshot.ai"),
        ("abc", "ollama.com"),
        (KEY, "llm.example.org"),
        (KEY, ""),
    ],
)
def test_a_key_fits_its_host_and_any_unknown_one(key, host):
    assert key_fits(key, host) is None


@pytest.mark.parametrize("host", [provider.host for provider in PROVIDERS if provider.host != "api.kimi.com"])
def test_a_kimi_key_fits_no_other_known_host(host):
    assert key_fits(KEY, host) == f"a key that begins with sk-kimi- belongs to api.kimi.com, not to {host}"


@pytest.mark.parametrize(
    ("key", "host", "message"),
    [
        ("sk-abc", "api.kimi.com", "keys for api.kimi.com begin with sk-kimi-, and this one does not"),
        (
            "sk-or-abc",
            "api.kimi.com",
            "a key that begins with sk-or- belongs to openrouter.ai, not to api.kimi.com",
        ),
        (
            "sk-or-abc",
            "api.openai.com",
            "a key that begins with sk-or- belongs to openrouter.ai, not to api.openai.com",
        ),
        (
            "sk-ant-abc",
            "openrouter.ai",
            "a key that begins with sk-ant- belongs to api.anthropic.com, not to openrouter.ai",
        ),
    ],
)
def test_a_key_of_another_provider_is_told_without_the_key(key, host, message):
    assert key_fits(key, host) == message


def test_the_gate_names_the_terms_and_their_source():
    gate = gate_of("API.kimi.com")
    assert gate is not None
    assert "User-Agent" in gate
    assert "suspension of the membership" in gate
    assert "https://www.kimi.com/code/docs" in gate
    assert gate_of("api.moonshot.ai") is None
    assert gate_of("example.org") is None
