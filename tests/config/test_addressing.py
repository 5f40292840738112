# ruff: noqa: E501 (messages are compared whole)
"""What a provider would answer 404 to: a path without its version, a model with our prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.providers import PROVIDERS
from middlewares.registry import catalog
from tests.config.tables import load_text, told

BUILT = catalog()
ROOT = ", or end it in a slash if its API begins at the root"


def of(upstream: str, folder: Path, **environ: str) -> list[tuple[int, int, str]]:
    text = f"version: 1\nroutes:\n  a: {{upstream: '{upstream}', middlewares: [prefix_rewrite]}}\n"
    return told(load_text(text, folder, environ, catalog=BUILT))


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        (
            "https://api.openai.com",
            "api.openai.com serves its API under /v1: write https://api.openai.com/v1",
        ),
        (
            "https://api.openai.com/",
            "api.openai.com serves its API under /v1: write https://api.openai.com/v1",
        ),
        (
            "https://openrouter.ai",
            "openrouter.ai serves its API under /api/v1: write https://openrouter.ai/api/v1",
        ),
        (
            "https://openrouter.ai/v1",
            "openrouter.ai serves its API under /api/v1: write https://openrouter.ai/api/v1",
        ),
        (
            "https://openrouter.ai/api",
            "openrouter.ai serves its API under /api/v1: write https://openrouter.ai/api/v1",
        ),
        (
            "https://api.kimi.com/v1",
            "api.kimi.com serves its API under /coding/v1: write https://api.kimi.com/coding/v1",
        ),
        (
            "https://llm.example:8443",
            "this upstream has no /v1, and requests go up without theirs: write https://llm.example:8443/v1"
            + ROOT,
        ),
        (
            "http://127.0.0.1:11434",
            "this upstream has no /v1, and requests go up without theirs: write http://127.0.0.1:11434/v1"
            + ROOT,
        ),
        ("${U}", "the path of '${U}' is not where its provider's API begins"),
        (
            "https://a.test/v1/chat/completions",
            "this upstream ends in /chat/completions, which requests bring along themselves: write https://a.test/v1",
        ),
    ],
)
def test_an_upstream_whose_path_is_no_apis_is_told(upstream: str, message: str, tmp_path: Path) -> None:
    assert of(upstream, tmp_path, U="https://canary.test") == [(3, 17, message)]


@pytest.mark.parametrize(
    "upstream",
    [
        "https://llm.example/",
        "https://llm.example/v1",
        "https://llm.example/v1/",
        "https://models.github.ai/inference",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://open.bigmodel.cn/api/paas/v4",
        "https://api.moonshot.ai/anthropic/v1",
        *[f"https://{provider.host}{provider.base}" for provider in PROVIDERS],
        *[f"https://{provider.host}{provider.base}/" for provider in PROVIDERS],
    ],
)
def test_an_upstream_with_a_version_or_a_path_of_its_own_is_fine(upstream: str, tmp_path: Path) -> None:
    assert of(upstream, tmp_path) == []


WITHOUT = "'acme' has no prefix_rewrite, so 'acme/MODEL' goes up as it is: write - prefix_rewrite, or - prefix_rewrite: {strip: ''} if that is meant"


@pytest.mark.parametrize(
    ("route", "more", "column"),
    [
        ("", "", 3),
        (", middlewares: [usage]", "", 65),
        (", serves: [x]", "", 3),
        ("", "default_route: acme", 3),
        (", list: [x]", "default_route: acme", 3),
        (", list: []", "", 3),
        (", list: [], serves: [x]", "models: {y: acme/x}", 3),
        (", explicit_only: true", "", 3),
        (", middlewares: [params: {set: {temperature: 1}}]", "", 65),
    ],
)
def test_a_route_that_sends_its_own_prefix_up_is_told(
    route: str, more: str, column: int, tmp_path: Path
) -> None:
    text = f"version: 1\nroutes:\n  acme: {{upstream: 'https://acme.example/v1'{route}}}\n{more}\n"
    ((line, _, message),) = told(load_text(text, tmp_path, catalog=BUILT))

    assert (line, message) == (3, WITHOUT)


@pytest.mark.parametrize(
    ("route", "more"),
    [
        (", middlewares: [prefix_rewrite: {strip: ''}]", ""),
        (", middlewares: [[prefix_rewrite]]", ""),
        (", middlewares: [params: {set: {model: x}}]", ""),
        (", list: [], serves: [x]", ""),
        (", list: []", "default_route: acme"),
    ],
)
def test_a_route_that_nobody_reaches_by_its_prefix_is_fine(route: str, more: str, tmp_path: Path) -> None:
    text = f"version: 1\nroutes:\n  acme: {{upstream: 'https://acme.example/v1'{route}}}\n{more}\n"

    assert told(load_text(text, tmp_path, catalog=BUILT)) == []


def test_the_demo_and_a_chain_that_could_not_be_read_are_left_alone(tmp_path: Path) -> None:
    text = "version: 1\nroutes:\n  demo: {upstream: demo}\n  a: {upstream: 'https://a.test/v1', middlewares: 5}\n"
    ((line, _, message),) = told(load_text(text, tmp_path, catalog=BUILT))

    assert line == 4 and message.startswith("expected a list of middlewares")
