"""What of a viewer's bytes is a person's doing, however they are cut."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
from hypothesis import given

from broker.rfb import Inputs

QUIET = [
    struct.pack(">B3x16s", 0, b"pixel format    "),
    struct.pack(">BxH3i", 2, 3, 0, 1, -223),
    struct.pack(">BB4H", 3, 1, 0, 0, 800, 600),
    struct.pack(">BB4H", 150, 1, 0, 0, 800, 600),
    struct.pack(">B3xIB", 248, 7, 3) + b"abc",
    struct.pack(">BxHHBx", 251, 800, 600, 1) + bytes(16),
    struct.pack(">BxBB", 250, 1, 2),
]
INPUT = [
    struct.pack(">BBxxI", 4, 1, 0x61),
    struct.pack(">BBHH", 5, 0, 10, 10),
    struct.pack(">B3xi", 6, 5) + b"hello",
    struct.pack(">B3xi", 6, -4) + b"\0\0\0\1",
    struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E),
]


@given(st.lists(st.sampled_from([*((m, False) for m in QUIET), *((m, True) for m in INPUT)]), max_size=12), st.data())
def test_keys_and_pointer_are_heard_and_nothing_else_is(messages: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    stream, inputs, heard = b"".join(m for m, _ in messages), Inputs(), False
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        heard = inputs.heard(stream[:size]) or heard
        stream = stream[size:]
    assert heard is any(is_input for _, is_input in messages)


def test_a_viewer_that_says_something_new_is_never_idle() -> None:
    inputs = Inputs()
    assert inputs.heard(bytes([77]) + bytes(20)) and inputs.heard(QUIET[2])
