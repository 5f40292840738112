"""Multipart: only the `model` part is read, and only its value may change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewares.faults import ClientFault
from middlewares.multipart import Form

KIND = "multipart/form-data; boundary=b0undary"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return (
        f'--b0undary\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


END = b"--b0undary--\r\n"
MODEL = part("model", b"up/whisper")
FILE = part("file", bytes(range(256)), '; filename="a.wav"\r\nContent-Type: audio/wav')


@pytest.mark.parametrize(
    "body", [MODEL + FILE + END, FILE + MODEL + END, b"preamble\r\n" + FILE + MODEL + END + b"epilogue"]
)
def test_the_models_value_is_replaced_and_every_other_byte_stays(body: bytes) -> None:
    form = Form.parse(body, KIND)
    assert (form.model, form.untouched, form.encode()) == ("up/whisper", True, body)
    form.rename("whisper-1")

    assert form.encode() == body.replace(b"up/whisper", b"whisper-1")
    assert form.changes == {"model": ("up/whisper", "whisper-1")}


def test_a_copy_is_changed_by_itself() -> None:
    form = Form.parse(MODEL + END, KIND)
    twin = form.copy()
    twin.rename("a")
    twin.rename("b")

    assert (form.model, form.untouched) == ("up/whisper", True)
    assert twin.changes == {"model": ("up/whisper", "b")}
    assert twin.copy().encode() == twin.encode()


def test_without_a_model_part_there_is_nothing_to_rename() -> None:
    form = Form.parse(FILE + END, KIND)
    form.rename("x")

    assert (form.model, form.encode()) == (None, FILE + END)


@pytest.mark.parametrize(
    ("value", "stream"), [(b"true", True), (b"false", False), (b"True", False), (b"", False)]
)
def test_a_stream_is_asked_for_by_a_field(value: bytes, stream: bool) -> None:
    assert Form.parse(MODEL + part("stream", value) + END, KIND).stream is stream


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="b0undary"',
        "Multipart/Form-Data; charset=utf-8; BOUNDARY=b0undary; x=1",
    ],
)
def test_the_boundary_may_be_written_in_several_ways(kind: str) -> None:
    assert Form.parse(MODEL + END, kind).model == "up/whisper"


@pytest.mark.parametrize(
    "head",
    [
        "content-disposition:form-data;name=model",
        'Content-Type: text/plain\r\nContent-Disposition: Form-Data; Name="model"',
        'Content-Disposition: form-data; x="; name=other"; name="model"',
    ],
)
def test_a_parts_name_is_read_as_parameters_are(head: str) -> None:
    assert Form.parse(f"--b0undary\r\n{head}\r\n\r\nm\r\n".encode() + END, KIND).model == "m"


@pytest.mark.parametrize(
    "body",
    [
        part("file", b"x", '; filename="; name=model; x="'),
        part("other", b'Content-Disposition: form-data; name="model"\r\n\r\nnot-this'),
        part("other", b"\r\n--b0undaryX\r\nContent-Disposition: form-data; name=model\r\n\r\nnot-this"),
        b"--b0undary\r\n\r\nno headers at all\r\n",
        b"--b0undary\r\nContent-Disposition: form-data; name=file\r\n\r\n",
    ],
)
def test_what_only_looks_like_a_model_part_is_none(body: bytes) -> None:
    form = Form.parse(body + END, KIND)

    assert (form.model, form.encode()) == (None, body + END)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (MODEL + END, "multipart/form-data"),
        (MODEL, KIND),
        (MODEL[:-10], KIND),
        (b"", KIND),
        (b"no delimiter", KIND),
        (MODEL + part("model", b"other") + END, KIND),
        (part("model", b"x", '; filename="x"') + END, KIND),
        (part("model", b"x", "; name=other") + END, KIND),
        (part("x", b"x", "; name*=utf-8''model") + END, KIND),
        (part("model", b"\xff") + END, KIND),
        (b"--b0undary\r\nContent-Disposition: form-data; name=model\r\n" + END, KIND),
        (b"--b0undary\r\nContent-Disposition: form-data; name=model\r\n\r\n" + END[:-2], KIND),
    ],
    ids="no-boundary open half empty text twice file two-names extended not-utf-8 no-end no-value".split(),
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(ClientFault) as raised:
        Form.parse(body, kind)

    assert raised.value.code == "invalid_request"


NAMES = st.sampled_from(["file", "prompt", "language", "temperature", "stream"])
VALUES = st.binary(max_size=40).filter(lambda value: b"--b0undary" not in value)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=5, unique_by=lambda pair: pair[0]),
    st.integers(0, 5),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
)
def test_any_form_keeps_its_bytes_but_the_models(
    others: list[tuple[str, bytes]], at: int, model: str
) -> None:
    parts = [part(name, b"1" if name == "stream" else value) for name, value in others]
    before, after = b"".join(parts[:at]), b"".join(parts[at:])
    form = Form.parse(before + MODEL + after + END, KIND)
    form.rename(model)

    assert form.encode() == before + part("model", model.encode()) + after + END


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_make_it_fail_in_another_way(noise: bytes, framed: bool) -> None:
    body = b"--b0undary\r\n" + noise + b"\r\n" + END if framed else noise
    try:
        form = Form.parse(body, KIND)
    except ClientFault:
        return
    assert form.encode() == body
