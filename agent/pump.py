"""`pump(left, right)`: bytes both ways between two sockets in one thread, never more held than was read once."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading

CHUNK = 64 * 1024
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _End:
    """One side: its socket, what was read from the other side and waits to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.waiting = memoryview(b"")
        self.read_needs, self.write_needs = (
            READ,
            WRITE,
        )  # TLS may have to write in order to read, and vice versa

    def read(self) -> bytes | None:
        """What has arrived; None when nothing has, b"" at the end."""
        try:
            self.read_needs = READ
            return self.sock.recv(CHUNK)
        except ssl.SSLWantWriteError:
            self.read_needs = WRITE
            return None
        except (ssl.SSLWantReadError, BlockingIOError):
            return None

    def write(self) -> None:
        """Write what can be written."""
        try:
            self.write_needs = WRITE
            self.waiting = self.waiting[self.sock.send(self.waiting) :]
        except ssl.SSLWantReadError:
            self.write_needs = READ
        except (ssl.SSLWantWriteError, BlockingIOError):
            return


def pump(left: socket.socket, right: socket.socket, stopping: threading.Event) -> None:
    """Carry bytes until either side ends. A side is read from only when the other has taken what came before:
    a slow reader slows the writer down, and nothing piles up here."""
    ends = (_End(left), _End(right))
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end.sock, READ)
        while not stopping.is_set():
            if not _carry(*ends) or not _carry(*reversed(ends)):
                return
            if _may_go_on(ends):
                continue
            for end, other in (ends, tuple(reversed(ends))):
                wanted = (end.write_needs if end.waiting else 0) | (0 if other.waiting else end.read_needs)
                _watch(selector, end.sock, wanted)
            selector.select(1.0)


def _carry(source: _End, target: _End) -> bool:
    """One read and one write in this direction; False when the source has ended and all of it is written."""
    if not target.waiting:
        arrived = source.read()
        if arrived == b"":
            return False
        target.waiting = memoryview(arrived or b"")
    if target.waiting:
        target.write()
    return True


def _may_go_on(ends: tuple[_End, _End]) -> bool:
    """Whether TLS holds decrypted bytes that no selector knows of, and there is room for them."""
    left, right = ends
    return any(
        isinstance(end.sock, ssl.SSLSocket) and end.sock.pending() > 0 and not other.waiting
        for end, other in ((left, right), (right, left))
    )


def _watch(selector: selectors.DefaultSelector, sock: socket.socket, wanted: int) -> None:
    registered = sock in selector.get_map()
    if wanted and registered:
        selector.modify(sock, wanted)
    elif wanted:
        selector.register(sock, wanted)
    elif registered:
        selector.unregister(sock)
