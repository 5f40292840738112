from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from middlewares.observation import (
    EventTap,
    Observation,
    blames_request,
    decode,
    dialect_of,
    refuses_content,
    wants_another_model,
)
from middlewares.sse import Event
from tests.middlewares.fakes import UNHURRIED

CHAT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "k2"}


def event(value: object, name: str = "") -> Event:
    return Event(name.encode(), value if isinstance(value, bytes) else msgspec.json.encode(value))


def chat(delta: object = None, finish: str | None = None, index: int = 0, **more: object) -> Event:
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return event({**CHAT, "choices": [choice], **more})


def typed(kind: str, **more: object) -> Event:
    """An event of messages or responses: its name and its type say the same."""
    return event({"type": kind, **more}, kind)


def read(dialect, *events: Event) -> Observation:
    seen = Observation(dialect)
    for one in events:
        seen.read_event(one)
    return seen


DONE = Event(b"", b"[DONE]")
ROLE = chat({"role": "assistant", "content": ""})
TEXT = chat({"content": "Hi"})
STOP = chat({}, "stop")
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 4}}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/chat/completions", "chat"),
        ("/completions", "chat"),
        ("/messages", "messages"),
        ("/responses", "responses"),
        ("/messages/count_tokens", "messages"),
        ("/messagesx", "other"),
        ("/embeddings", "other"),
        ("/chat/completions/", "other"),
        ("", "other"),
    ],
)
def test_the_path_tells_the_shape_of_the_answers(path, dialect):
    assert dialect_of(path) == dialect


BLOCK = {"index": 0, "content_block": {"type": "text", "text": ""}}


@pytest.mark.parametrize(
    ("dialect", "one", "content", "visible"),
    [
        ("chat", ROLE, False, False),
        ("chat", chat({"role": "assistant"}), False, False),
        ("chat", chat({"content": None}), False, False),
        ("chat", chat({}), False, False),
        ("chat", event({**CHAT, "choices": [], "usage": USAGE}), False, False),
        ("chat", STOP, False, False),
        ("chat", DONE, False, False),
        ("chat", TEXT, True, True),
        ("chat", chat({"content": " "}), True, True),
        ("chat", chat({"reasoning_content": "hm"}), True, False),
        ("chat", chat({"reasoning": "hm"}), True, False),
        ("chat", chat({"reasoning_details": [{"type": "reasoning.text"}]}), True, False),
        ("chat", chat({"reasoning_content": "", "content": ""}), False, False),
        ("chat", chat({"reasoning_content": None, "content": "x"}), True, True),
        ("chat", chat({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}), True, True),
        ("chat", chat({"tool_calls": []}), False, False),
        ("chat", chat({"function_call": {"name": "f"}}), True, True),
        ("chat", chat({"refusal": "No."}), True, True),
        ("chat", chat({"audio": {"data": "UklGRg=="}}), True, True),
        ("chat", chat({"images": [{"image_url": {"url": "data:"}}]}), True, True),
        ("chat", event({"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}), True, True),
        ("chat", event({"choices": [{"index": 0, "text": "", "finish_reason": None}]}), False, False),
        ("chat", event({"error": {"message": "overloaded"}}), False, False),
        ("chat", event(b"not json"), False, False),
        ("chat", Event(b"", None), True, True),
        ("messages", typed("message_start", message={"usage": {"input_tokens": 9}}), False, False),
        ("messages", typed("content_block_start", **BLOCK), False, False),
        ("messages", typed("content_block_start", content_block={"type": "thinking"}), False, False),
        ("messages", typed("content_block_start", content_block={"type": "tool_use"}), True, True),
        ("messages", typed("content_block_start", content_block={"type": "server_tool_use"}), True, True),
        ("messages", typed("ping"), False, False),
        ("messages", typed("content_block_delta", delta={"type": "text_delta", "text": "Hi"}), True, True),
        ("messages", typed("content_block_delta", delta={"type": "input_json_delta"}), True, True),
        ("messages", typed("content_block_delta", delta={"type": "thinking_delta"}), True, False),
        ("messages", typed("content_block_delta", delta={"type": "signature_delta"}), True, False),
        ("messages", typed("content_block_stop", index=0), False, False),
        ("messages", typed("message_delta", delta={"stop_reason": "end_turn"}), False, False),
        ("messages", typed("message_stop"), False, False),
        ("messages", DONE, False, False),
        ("responses", typed("response.created", response={"output": []}), False, False),
        ("responses", typed("response.in_progress", response={}), False, False),
        ("responses", typed("response.output_item.added", item={"type": "message"}), False, False),
        ("responses", typed("response.output_text.delta", delta="Hi"), True, True),
        ("responses", typed("response.refusal.delta", delta="No."), True, True),
        ("responses", typed("response.function_call_arguments.delta", delta="{"), True, True),
        ("responses", typed("response.audio.delta", delta="UklGRg=="), True, True),
        ("responses", typed("response.reasoning_summary_text.delta", delta="hm"), True, False),
        ("responses", typed("response.reasoning_text.delta", delta="hm"), True, False),
        ("responses", typed("response.output_text.done", text="Hi"), False, False),
        ("other", event({"type": "anything"}), True, False),
        ("other", event(b"not json"), True, False),
        ("other", Event(b"", None), True, True),
    ],
)
def test_a_content_event_is_told_from_the_others(dialect, one, content, visible):
    seen = read(dialect, one)
    assert (seen.content, seen.visible) == (content, visible)


def test_redacted_thinking_is_content_that_is_not_visible():
    seen = read("messages", typed("content_block_start", content_block={"type": "redacted_thinking"}))
    assert seen.content and not seen.visible


@pytest.mark.parametrize(
    ("dialect", "events", "complete"),
    [
        ("chat", [], False),
        ("chat", [ROLE, TEXT], False),
        ("chat", [DONE], True),
        ("chat", [ROLE, TEXT, STOP], True),
        ("chat", [ROLE, TEXT, STOP, DONE], True),
        ("chat", [ROLE, TEXT, DONE], True),
        ("chat", [STOP, event({"choices": [], "usage": USAGE})], True),
        ("chat", [chat({}, index=0), chat({}, index=1), chat({}, "stop", index=0)], False),
        ("chat", [chat({}, index=0), chat({}, "stop", 0), chat({}, "length", 1)], True),
        ("chat", [chat({}, index=0), chat({}, "stop", 1), chat({}, "stop", 0)], True),
        ("chat", [chat({}, index=1), chat({}, index=2), chat({}, "stop", 2)], False),
        ("chat", [event({"choices": [{"text": "Hi", "finish_reason": "stop"}]})], True),
        ("chat", [event({"error": {"message": "overloaded"}})], False),
        ("chat", [typed("message_stop")], False),
        ("chat", [Event(b"", None)], False),
        ("messages", [DONE], False),
        ("messages", [typed("message_delta", delta={"stop_reason": "end_turn"})], False),
        ("messages", [typed("message_stop")], True),
        ("messages", [event({"type": "message_stop"})], True),
        ("messages", [STOP], False),
        ("responses", [DONE], False),
        ("responses", [typed("response.completed", response={})], True),
        ("responses", [typed("response.incomplete", response={})], True),
        ("responses", [typed("response.failed", response={"error": {"code": "server_error"}})], True),
        ("responses", [typed("response.done", response={})], False),
        ("responses", [typed("response.output_text.done")], False),
        ("other", [DONE, STOP, typed("message_stop"), typed("response.completed")], False),
    ],
)
def test_a_stream_is_complete_with_its_terminal_event(dialect, events, complete):
    assert read(dialect, *events).complete is complete


@pytest.mark.parametrize(
    "events",
    [
        [chat({"content": "a"}, "stop", 0), chat({"content": "b"}, index=1)],
        [
            event(
                {"choices": [{"index": 0, "finish_reason": "stop"}, {"index": 1, "delta": {"content": "b"}}]}
            )
        ],
    ],
)
def test_a_choice_that_begins_after_another_has_ended_must_end_as_well(events):
    assert not read("chat", *events).complete
    assert read("chat", *events, chat({}, "stop", 1)).complete
    assert read("chat", *events, DONE).complete


@pytest.mark.parametrize(
    ("dialect", "events", "finish"),
    [
        ("chat", [TEXT], None),
        ("chat", [TEXT, STOP], "stop"),
        ("chat", [TEXT, chat({}, "length"), DONE], "length"),
        ("chat", [chat({}, "tool_calls")], "tool_calls"),
        ("messages", [typed("message_delta", delta={"stop_reason": "max_tokens"})], "max_tokens"),
        (
            "messages",
            [typed("message_delta", delta={"stop_reason": "end_turn"}), typed("message_delta", delta={})],
            "end_turn",
        ),
        ("responses", [typed("response.completed", response={"incomplete_details": None})], None),
        (
            "responses",
            [typed("response.incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})],
            "max_output_tokens",
        ),
    ],
)
def test_why_it_finished_is_known(dialect, events, finish):
    assert read(dialect, *events).finish == finish


@pytest.mark.parametrize(
    ("dialect", "events", "usage"),
    [
        ("chat", [TEXT, STOP], {}),
        ("chat", [chat({}, usage=None), event({"choices": [], "usage": USAGE}), DONE], USAGE),
        (
            "chat",
            [
                chat({}, usage={"prompt_tokens": 9, "completion_tokens": 1}),
                chat({}, usage={"completion_tokens": 2}),
            ],
            {"prompt_tokens": 9, "completion_tokens": 2},
        ),
        (
            "chat",
            [chat({}, usage={"prompt_tokens": 9}), chat({}, usage={"prompt_tokens": None})],
            {"prompt_tokens": 9},
        ),
        ("chat", [chat({}, usage=[1]), chat({}, usage="9")], {}),
        (
            "messages",
            [
                typed("message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}}),
                typed("message_delta", delta={}, usage={"output_tokens": 12}),
            ],
            {"input_tokens": 9, "output_tokens": 12},
        ),
        ("responses", [typed("response.completed", response={"usage": USAGE})], USAGE),
        ("responses", [typed("response.failed", response={"usage": None})], {}),
        ("other", [event({"usage": USAGE})], {}),
    ],
)
def test_the_tokens_are_those_told_last(dialect, events, usage):
    assert read(dialect, *events).usage == usage


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses", "other"])
@pytest.mark.parametrize(
    ("one", "error"),
    [
        (event({"error": {"message": "overloaded", "code": 529}}), True),
        (event({"error": "overloaded"}), True),
        (event({"type": "error", "error": {"type": "overloaded_error"}}, "error"), True),
        (event({"type": "error", "code": "server_error", "message": "…"}), True),
        (event({"message": "overloaded"}, "error"), True),
        (event({"error": None, "choices": []}), False),
        (event({"error": {}}), False),
        (event({"error": ""}), False),
        (event({"errors": ["x"]}), False),
        (DONE, False),
        (event(b'"error"'), False),
    ],
)
def test_an_error_inside_a_stream_is_seen(dialect, one, error):
    seen = read(dialect, one)
    assert (seen.error is not None) is error
    assert not error or seen.error == json.loads(one.data or b"")
    assert not seen.complete or one is DONE


@pytest.mark.parametrize(
    ("dialect", "events", "empty"),
    [
        ("chat", [chat({"reasoning_content": "hm"}), chat({}, "length")], True),
        ("chat", [ROLE, chat({}, "length")], True),
        ("chat", [TEXT, chat({}, "length")], False),
        ("chat", [chat({"tool_calls": [{"index": 0}]}), chat({}, "length")], False),
        ("chat", [chat({"reasoning_content": "hm"}), STOP], False),
        ("chat", [chat({"reasoning_content": "hm"})], False),
        (
            "messages",
            [
                typed("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}),
                typed("message_delta", delta={"stop_reason": "max_tokens"}),
            ],
            True,
        ),
        (
            "messages",
            [
                typed("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
                typed("message_delta", delta={"stop_reason": "max_tokens"}),
            ],
            False,
        ),
        (
            "responses",
            [
                typed("response.reasoning_text.delta", delta="hm"),
                typed(
                    "response.incomplete",
                    response={
                        "output": [{"type": "reasoning"}],
                        "incomplete_details": {"reason": "max_output_tokens"},
                    },
                ),
            ],
            True,
        ),
        (
            "responses",
            [typed("response.incomplete", response={"incomplete_details": {"reason": "content_filter"}})],
            False,
        ),
    ],
)
def test_an_answer_is_empty_when_the_budget_went_before_anything_visible(dialect, events, empty):
    assert read(dialect, *events).empty_answer is empty


def answered(message: object, finish: str) -> dict[str, object]:
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }


@pytest.mark.parametrize(
    ("dialect", "answer", "visible", "finish", "empty"),
    [
        ("chat", answered({"content": "Hi"}, "stop"), True, "stop", False),
        ("chat", answered({"content": "Hi"}, "length"), True, "length", False),
        ("chat", answered({"content": "", "reasoning_content": "hm"}, "length"), False, "length", True),
        ("chat", answered({"content": None}, "length"), False, "length", True),
        (
            "chat",
            answered({"content": None, "tool_calls": [{"id": "c"}]}, "tool_calls"),
            True,
            "tool_calls",
            False,
        ),
        ("chat", {"choices": [{"index": 0, "text": "Hi", "finish_reason": "length"}]}, True, "length", False),
        ("chat", {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}, False, "length", True),
        (
            "messages",
            {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"},
            True,
            "end_turn",
            False,
        ),
        (
            "messages",
            {"content": [{"type": "thinking"}], "stop_reason": "max_tokens"},
            False,
            "max_tokens",
            True,
        ),
        (
            "messages",
            {"content": [{"type": "redacted_thinking"}], "stop_reason": "max_tokens"},
            False,
            "max_tokens",
            True,
        ),
        ("messages", {"content": [{"type": "tool_use"}], "stop_reason": "tool_use"}, True, "tool_use", False),
        ("messages", {"content": [], "stop_reason": "max_tokens"}, False, "max_tokens", True),
        (
            "responses",
            {"output": [{"type": "reasoning"}, {"type": "message", "content": [{}]}]},
            True,
            None,
            False,
        ),
        (
            "responses",
            {"output": [{"type": "reasoning"}], "incomplete_details": {"reason": "max_output_tokens"}},
            False,
            "max_output_tokens",
            True,
        ),
        ("other", answered({"content": None}, "length"), False, None, False),
    ],
)
def test_a_plain_answer_is_observed_alike(dialect, answer, visible, finish, empty):
    seen = Observation(dialect)
    seen.read_answer(msgspec.json.encode({**answer, "usage": {"input_tokens": 9, "output_tokens": None}}))
    assert (seen.visible, seen.finish, seen.empty_answer) == (visible, finish, empty)
    assert seen.usage == ({} if dialect == "other" else {"input_tokens": 9})


ODD = st.sampled_from(
    [None, True, 0, 1.5, "", "length", "error", "message_delta", "thinking_delta", "x.delta"]
)
NAMES = st.sampled_from(
    [
        "type",
        "error",
        "choices",
        "delta",
        "message",
        "usage",
        "index",
        "finish_reason",
        "text",
        "content",
        "output",
        "response",
        "incomplete_details",
        "reason",
        "content_block",
        "stop_reason",
        "tool_calls",
        "code",
        "x",
    ]
)
KINDS = st.sampled_from(
    [
        "error",
        "content_block_delta",
        "content_block_start",
        "message_start",
        "message_delta",
        "message_stop",
        "response.completed",
        "response.output_text.delta",
    ]
)


def _json(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=4)


VALUES = st.recursive(ODD | st.integers() | st.text(max_size=3), _json, max_leaves=12)
OBJECTS = st.tuples(
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.fixed_dictionaries({}, optional={"type": KINDS, "choices": st.lists(VALUES, max_size=3)}),
).map(lambda both: {**both[0], **both[1]})


@UNHURRIED
@given(st.sampled_from(["chat", "messages", "responses", "other"]), st.lists(OBJECTS | VALUES, max_size=4))
@example("chat", [{"choices": [{"index": [], "delta": 1, "finish_reason": {"a": []}}]}])
@example("messages", [{"type": "message_delta", "delta": {"stop_reason": ["x"]}, "usage": 1}])
@example("responses", [{"type": "response.completed", "response": {"incomplete_details": {"reason": {}}}}])
def test_json_of_any_shape_is_observed_without_raising(dialect, values):
    seen = Observation(dialect)
    for value in values:
        seen.read_event(event(value))
        plain = Observation(dialect)
        plain.read_answer(msgspec.json.encode(value))
        assert plain.empty_answer in (True, False)
    assert seen.empty_answer in (True, False)
    assert not seen.visible or seen.content or dialect == "responses"


@UNHURRIED
@given(st.sampled_from(["chat", "messages", "responses", "other"]), st.binary(max_size=20))
@example("chat", b"\xff")
@example("chat", b'{"choices": "\\ud83d"}')
@example("messages", b"[" * 100_000)
@example("responses", b'{"type":' + b"[" * 500 + b"]" * 500 + b"}")
@example("responses", b'{"type":' * 100_000)
@example("chat", b'{"choices":[{"finish_reason":' + b"[" * 900 + b"]" * 900 + b"}]}")
@example("chat", b"1e999")
def test_bytes_of_any_kind_are_observed_without_raising(dialect, data):
    seen = read(dialect, Event(b"", data))
    seen.read_answer(data)
    assert seen.empty_answer is False


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b"[]", {}),
        (b"", {}),
        (b"{", {}),
        (b"\xff", {}),
        (b"null", {}),
        (b"{" * 100_000, {}),
    ],
)
def test_what_is_no_object_is_decoded_as_an_empty_one(data, value):
    assert decode(data) == value


def test_the_tap_counts_events_keeps_the_first_and_tells_of_content_once():
    told: list[int] = []
    tap = EventTap("chat", lambda: told.append(tap.events))
    told_of = [(tap.events, tap.first, tap.between_events)]
    for piece in (
        b": ping\n\ndata: {",
        b'}\n\ndata: {"choices":[{"delta":{"content":"Hi"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"!"}}]}\n\ndata: [DONE]\n\n',
    ):
        tap.feed(piece)
        told_of.append((tap.events, tap.first, tap.between_events))
    first = Event(b"", b"{}")
    assert told_of == [(0, None, True), (0, None, False), (2, first, True), (4, first, True)]
    assert told == [2]
    assert tap.seen.complete and tap.seen.visible


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("said", "refuses", "another"),
    [
        ({"code": "content_policy_violation"}, True, False),
        ({"code": None, "type": "content_filter"}, True, False),
        ({"code": "context_length_exceeded"}, False, True),
        ({"code": "model_not_found", "type": "invalid_request_error"}, False, True),
        ({"code": "overloaded", "type": "server_error"}, False, False),
        ({"code": 404}, False, False),
        ({"code": ["model_not_found"], "type": {}}, False, False),
        ({}, False, False),
    ],
)
def test_an_error_about_what_was_asked_is_known_by_its_code(said, refuses, another, inside):
    value = {"error": said} if inside else {"type": "error", **said}
    assert (refuses_content(value), wants_another_model(value)) == (refuses, another)
    assert blames_request(value) == (refuses or another)


@pytest.mark.parametrize("error", [None, "model_not_found", ["model_not_found"], 7])
def test_an_error_in_words_only_blames_nobody(error):
    assert not blames_request({"error": error})
