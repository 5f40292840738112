"""WebSocket frames: their ends are found for any sizes, masks and pieces."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from middlewares.frames import Frames

CLOSE = 0x8


def frame(opcode: int, payload: bytes, *, masked: bool, final: bool = True) -> bytes:
    """One frame; 16-bit and 64-bit lengths are used where they have to be."""
    size = len(payload)
    mask = 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 1 << 16:
        length = bytes([mask | 126]) + struct.pack(">H", size)
    else:
        length = bytes([mask | 127]) + struct.pack(">Q", size)
    return bytes([(0x80 if final else 0) | opcode]) + length + (b"\1\2\3\4" if masked else b"") + payload


FRAMES = st.builds(
    frame,
    st.sampled_from([0x0, 0x1, 0x2, 0x9, 0xA]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([125, 126, 127, 65535, 65536, 70000]).map(lambda n: b"\x88" * n),
    ),
    masked=st.booleans(),
    final=st.booleans(),
)


@given(
    st.lists(FRAMES, max_size=8),
    st.booleans(),
    st.binary(max_size=125),
    st.lists(st.integers(1, 70_000), max_size=12),
)
def test_a_close_frame_is_seen_when_it_is_whole_and_nothing_else_is_taken_for_one(
    frames: list[bytes], masked: bool, reason: bytes, cuts: list[int]
) -> None:
    before, close = b"".join(frames), frame(CLOSE, reason, masked=masked)
    seen = Frames()
    data = before + close
    fed = 0
    for size in [*cuts, *([1] * 3), len(data)]:
        piece = data[fed : fed + size]
        seen.feed(piece)
        fed += len(piece)
        assert seen.closed == (fed >= len(data))


def test_a_close_frame_is_seen_byte_by_byte_and_what_follows_it_changes_nothing() -> None:
    seen = Frames()
    data = frame(1, b"x" * 300, masked=True) + frame(CLOSE, b"\x03\xe8", masked=True)
    for i in range(len(data)):
        assert not seen.closed
        seen.feed(data[i : i + 1])
    assert seen.closed
    seen.feed(b"\x00\xff")
    assert seen.closed
