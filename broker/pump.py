"""Moves a console's bytes both ways: one chunk in flight each way, so a slow reader slows its own sender alone."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import gevent

CHUNK = 65536
BULK = 8192  # after a read this large there is probably more at once
TURN = 4 * CHUNK  # then the others have a turn, however fast both ends are

# One buffer for all connections: it is filled and copied from without ever waiting in between.
_shared = memoryview(bytearray(CHUNK))


def read(sock: Any) -> bytes:
    """What the socket has, at most 64 KiB; b"" at its end. A waiting connection holds no buffer.

    TLS hands out 16 KiB at most a read; whatever else is there already comes along.
    """
    size = sock.recv_into(_shared)
    if BULK <= size < CHUNK:
        sock.settimeout(0.0)
        try:
            while size < CHUNK and (more := sock.recv_into(_shared[size:])):
                size += more
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            sock.settimeout(None)
    return bytes(_shared[:size])


def copy(read: Callable[[], bytes], write: Callable[[bytes], None], count: Callable[[int], None]) -> None:
    """Until `read` answers b"": write what it answers, count it, and let others work now and then."""
    since = 0
    while data := read():
        write(data)
        count(len(data))
        since += len(data)
        if since >= TURN:
            since = 0
            gevent.sleep(0)
