"""`pump(left, right)`: bytes both ways between two sockets in one thread, never more held than was read once."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading

CHUNK = 64 * 1024
BULK = 8192  # after a read this large there is probably more at once
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _End:
    """One side: its socket, what was read from the other side and waits to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.waiting = memoryview(b"")
        self.watched = 0  # what the selector is told to look for
        self.ended = False  # it says so only once, and maybe right behind its last bytes
        self.read_needs, self.write_needs = READ, WRITE  # TLS may have to write in order to read, and vice versa

    def read(self) -> bytes | None:
        """What has arrived; None when nothing has, b"" at the end. TLS gives a record of 16 KiB at a time: what else is
        there already comes along."""
        parts, size = list[bytes](), 0
        self.read_needs = READ
        try:
            while not self.ended and (not parts or len(parts[-1]) >= BULK and size < CHUNK):
                parts.append(self.sock.recv(CHUNK - size))
                size += len(parts[-1])
                self.ended = not parts[-1]
        except ssl.SSLWantWriteError:
            self.read_needs = WRITE
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        return b"".join(parts) if size or self.ended else None

    def write(self) -> None:
        """Write what can be written: TLS takes a record at a time."""
        try:
            self.write_needs = WRITE
            while self.waiting:
                self.waiting = self.waiting[self.sock.send(self.waiting) :]
        except ssl.SSLWantReadError:
            self.write_needs = READ
        except (ssl.SSLWantWriteError, BlockingIOError):
            return

    @property
    def pending(self) -> bool:
        """Whether there is something to read that no selector knows of: bytes that TLS has decrypted, or the end."""
        return self.ended or isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0


def pump(left: socket.socket, right: socket.socket, stopping: threading.Event) -> None:
    """Carry bytes until either side ends. A side is read from only when the other has taken what came before:
    a slow reader slows the writer down, and nothing piles up here."""
    ends = (_End(left), _End(right))
    ways = (ends, (ends[1], ends[0]))
    ready: set[object] = {left, right}
    with selectors.DefaultSelector() as selector:
        while not stopping.is_set():
            for source, target in ways:
                if not _carry(source, target, ready):
                    return
            if any(source.pending and not target.waiting for source, target in ways):
                ready = set()
                continue
            for end, other in ways:
                _watch(selector, end, (end.write_needs if end.waiting else 0) | (0 if other.waiting else end.read_needs))
            ready = {key.fileobj for key, _ in selector.select(1.0)}


def _carry(source: _End, target: _End, ready: set[object]) -> bool:
    """One read, if there may be something, and its write; False when the source has ended and all of it is written."""
    if not target.waiting and (source.sock in ready or source.pending):
        arrived = source.read()
        if arrived == b"":
            return False
        target.waiting = memoryview(arrived or b"")
    target.write()
    return True


def _watch(selector: selectors.BaseSelector, end: _End, wanted: int) -> None:
    if wanted == end.watched:
        return
    if not end.watched:
        selector.register(end.sock, wanted)
    elif wanted:
        selector.modify(end.sock, wanted)
    else:
        selector.unregister(end.sock)
    end.watched = wanted
