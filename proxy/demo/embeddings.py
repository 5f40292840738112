"""The embedded model as embeddings: a few numbers that depend on the words alone.

Source: https://platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

_DIMENSIONS = 64
_MOST_DIMENSIONS = 4096
_MOST_NUMBERS = 256 * 1024
"""In one answer: inputs times dimensions."""


def answer(model: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """One vector of length 1 for each input, as numbers or in base64 as the request asks.

    None if that would be more numbers than a demo should make.
    """
    given = body.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    wanted = body.get("dimensions")
    size = wanted if type(wanted) is int and 0 < wanted <= _MOST_DIMENSIONS else _DIMENSIONS
    if len(inputs) * size > _MOST_NUMBERS:
        return None
    packed = body.get("encoding_format") == "base64"
    vectors = [_vector(_words(each), size) for each in inputs]
    tokens = sum(len(_words(each)) for each in inputs)
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _words(given: object) -> list[str]:
    if isinstance(given, str):
        return given.split()
    return [str(token) for token in given] if isinstance(given, list) else []


def _vector(words: list[str], size: int) -> list[float]:
    """Words fall into buckets, so that texts that share words are near each other."""
    buckets = [0.0] * size
    for word in words:
        digest = hashlib.sha256(word.lower().encode("utf-8", "replace")).digest()
        buckets[int.from_bytes(digest[:4]) % size] += 1.0 if digest[4] % 2 else -1.0
    length = math.sqrt(sum(number * number for number in buckets))
    return [number / length for number in buckets] if length else [1.0, *buckets[1:]]


def _packed(vector: list[float]) -> str:
    """Little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
