"""The request that is explained: what every endpoint's client sends, and the bodies that are given."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.explain.terminal import TABLE, Explain, body_file, told, up


@pytest.mark.parametrize(
    ("path", "method", "query", "model"),
    [
        ("/v1/embeddings", "POST", "", "mini"),
        ("/v1/messages", "POST", "", "mini"),
        ("/v1/audio/transcriptions", "POST", "", "mini"),
        ("/v1/images/edits", "POST", "", "mini"),
        ("/v1/realtime", "GET", "?model=mini", "mini"),
        ("/v1/realtime?model=other&x=1", "GET", "?model=mini&x=1", "mini"),
        ("/v1/things/not/invented", "POST", "", "mini"),
    ],
)
def test_every_kind_of_endpoint_is_asked_as_its_clients_ask_it(
    explain: Explain, path: str, method: str, query: str, model: str
) -> None:
    said = told(explain, "fast", "--path", path)
    _, out, _ = explain("fast", "--path", path)

    assert said["model"] == model
    assert said["url"] == f"https://open.example{path.partition('?')[0]}{query}"
    assert said["changes"] == {"model": ["fast", "mini"]}
    assert out.startswith(f"{method} {path.partition('?')[0]}")


def test_a_path_without_a_body_has_no_place_for_a_model_and_says_so(explain: Explain) -> None:
    said = told(explain, "gpt-4o", "--path", "/v1/files")
    _, out, _ = explain("gpt-4o", "--path", "/v1/files")

    assert (said["route"], said["rule"], said["model"]) == ("plain", "default_route", None)
    assert "GET /v1/files" in out and "there is no place for a model" in out


def test_an_anthropic_client_sends_its_key_as_it_does(explain: Explain) -> None:
    said = told(explain, "kimi/kimi-for-coding", "--path", "/v1/messages")

    assert up(said)["x-api-key"] == "[redacted]"
    assert up(said)["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in up(said)


def test_a_form_given_as_a_body_gets_the_model(explain: Explain, tmp_path: Path) -> None:
    file = tmp_path / "form"
    file.write_bytes(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\r\n--b--\r\n'
    )
    said = told(explain, "fast", "--path", "/v1/audio/transcriptions", "--body", str(file))

    assert said["model"] == "mini" and said["changes"] == {"model": ["fast", "mini"]}


def test_a_body_may_come_from_stdin(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'{"max_tokens": 1}'))
    monkeypatch.setattr(sys, "stdin", stdin)
    said = told(explain, "kimi/x", "--body", "-")

    assert said["changes"]["max_tokens"] == ["1", "1500"]


@pytest.mark.parametrize("content", ["{", "", "[1]", "sk-a-key-0123456789abcdef"])
def test_a_body_that_is_no_json_is_refused_as_the_request_would_be(
    explain: Explain, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "body"
    file.write_text(content)
    error = told(explain, "gpt-4o", "--body", str(file))["error"]

    assert (error["status"], error["code"]) == (400, "invalid_json")
    assert "sk-a-key" not in json.dumps(error)


def test_a_body_that_cannot_be_read_is_told(explain: Explain, tmp_path: Path) -> None:
    assert explain("m", "--body", str(tmp_path / "none")) == (
        1,
        "",
        "tidegate: --body none: No such file or directory\n",
    )


def test_a_body_that_is_too_large_is_refused_as_the_request_would_be(
    explain: Explain, tmp_path: Path
) -> None:
    text = TABLE.replace("version: 1\n", "version: 1\nserver: {max_body: 1KiB}\n")
    error = told(explain, "gpt-4o", "--body", body_file(tmp_path, user="x" * 2000), text=text)["error"]

    assert (error["status"], error["code"]) == (413, "body_too_large")
