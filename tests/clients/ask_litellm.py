"""LiteLLM's SDK asks a model, plain and streamed; runs in .venv-clients-litellm.

    python ask_litellm.py MODEL

Prints one JSON object of what it got.
"""

import json
import sys

import litellm


def main(model: str) -> None:
    plain = litellm.completion(model=model, messages=[{"role": "user", "content": "Answer PONG."}])
    stream = litellm.completion(
        model=model, messages=[{"role": "user", "content": "one two three"}], stream=True
    )
    streamed = [chunk.choices[0].delta.content or "" for chunk in stream]
    print(json.dumps({"plain": plain.choices[0].message.content, "streamed": streamed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
