"""Client keys for tests, and the files that have their hashes."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

KEY = "tg-canary-of-a-client-0123456789abcdefghijklmnop"
OTHER = "tg-canary-of-another-0123456789abcdefghijklmnop"
GATE = [{"client_keys": {"file": "clients.yaml"}}]
"""For the `middlewares` of a table."""


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def client(name: str, key: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "key_sha256": hashed(key), **rest}


def clients_text(*clients: dict[str, Any]) -> str:
    return json.dumps({"version": 1, "clients": clients}, indent=2) + "\n"


def write_clients(folder: Path, *clients: dict[str, Any]) -> Path:
    """clients.yaml in that folder; JSON is YAML."""
    path = folder / "clients.yaml"
    path.write_text(clients_text(*clients))
    path.chmod(0o600)
    return path


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")
