"""LangChain asks a model; runs in .venv-clients-langchain.

python ask_langchain.py openai|anthropic|tools|embeddings MODEL

Prints one JSON object of what it got.
"""

import json
import sys
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"fog in {city}"


def chat(model: Any) -> dict[str, Any]:
    return {
        "plain": text(model.invoke("Answer PONG.")),
        "streamed": [text(chunk) for chunk in model.stream("one two three")],
    }


def text(message: Any) -> str:
    """Anthropic's content is a text or a list of parts."""
    content = message.content
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def tools(model: Any) -> dict[str, Any]:
    """The model asks for the tool in a stream, gets its answer, and says the last word."""
    messages: list[Any] = [("human", "How is the weather in Kiel?")]
    asked = None
    for chunk in model.bind_tools([weather]).stream(messages):
        asked = chunk if asked is None else asked + chunk
    assert asked is not None
    answers = [weather.invoke(call) for call in asked.tool_calls]
    final = model.bind_tools([weather]).invoke([*messages, asked, *answers])
    return {"calls": [(call["name"], call["args"]) for call in asked.tool_calls], "final": final.content}


def embeddings(model: str) -> dict[str, Any]:
    # Otherwise it asks for numbers of tokens, after fetching a tokenizer from the network.
    embedder = OpenAIEmbeddings(model=model, check_embedding_ctx_length=False)
    return {"vectors": embedder.embed_documents(["one", "two"])}


def main(what: str, model: str) -> None:
    match what:
        case "openai":
            told = chat(ChatOpenAI(model=model))
        case "anthropic":
            told = chat(ChatAnthropic(model=model))
        case "tools":
            told = tools(ChatOpenAI(model=model))
        case "embeddings":
            told = embeddings(model)
        case _:
            sys.exit(f"what is {what}?")
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
