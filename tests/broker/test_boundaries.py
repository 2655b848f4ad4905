"""A native client gets each of the VM's messages in a TLS record of its own, however they arrive."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.spice import Boundaries

MINI, FULL = struct.Struct("<HI"), struct.Struct("<QHII")
bodies = st.lists(st.binary(max_size=40), max_size=12)


def message(body: bytes, mini: bool) -> bytes:
    return MINI.pack(4, len(body)) + body if mini else FULL.pack(1, 4, len(body), 0) + body


def test_two_pings_read_at_once_leave_apart() -> None:
    ping = message(bytes(12), mini=True)
    assert list(Boundaries(mini=True).pieces(ping + ping)) == [ping, ping]


@pytest.mark.parametrize("mini", [True, False])
@given(bodies=bodies, chunk=st.integers(1, 100))
def test_no_piece_holds_more_than_one_message_and_nothing_is_lost(mini: bool, bodies: list[bytes], chunk: int) -> None:
    stream = b"".join(message(body, mini) for body in bodies)
    ends, at = set(), 0
    for body in bodies:
        at += len(message(body, mini))
        ends.add(at)
    boundaries, came = Boundaries(mini), b""
    for start in range(0, len(stream), chunk):
        for piece in boundaries.pieces(stream[start : start + chunk]):
            assert len(piece) > 0
            assert not ends & set(range(len(came) + 1, len(came) + len(piece))), "a message ends within the piece"
            came += piece
    assert came == stream
