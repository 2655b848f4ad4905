"""The far end of the relay benchmark: `host` (a display behind a host's console port) or `plain` (a bare TCP relay).

The display obeys 8-byte orders: b"ECHO" + n echoes the next n bytes, b"SEND" + n sends n MiB, b"SINK" + n takes n MiB and
answers with one byte. `python -m bench.relay_far host PORT PLAIN_PORT CA CERT KEY` | `… plain PORT TARGET_PORT`
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import resource  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import Any  # noqa: E402

from gevent.server import StreamServer  # noqa: E402

from hostapi.tls import server_context  # noqa: E402

MIB = 1 << 20
CHUNK = os.urandom(65536)


def obey(sock: Any) -> None:
    """Do as told until the other end goes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while len(order := exactly(sock, 8)) == 8:
        kind, count = order[:4], struct.unpack(">I", order[4:])[0]
        if kind == b"ECHO":
            sock.sendall(exactly(sock, count))
        elif kind == b"SEND":
            for _ in range(count * MIB // len(CHUNK)):
                sock.sendall(CHUNK)
        else:
            left = count * MIB
            while left:
                left -= len(sock.recv(min(65536, left)))
            sock.sendall(b"!")


def exactly(sock: Any, size: int) -> bytes:
    """So many bytes; fewer at the end."""
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return data


def host(port: int, plain_port: int, ca: str, cert: str, key: str) -> None:
    """A host's console port whose every VM has this display behind VNC's login; and the display alone, in the clear."""
    context = server_context(ca, cert, key)

    def console(sock: Any, _: Any) -> None:
        try:
            tls = context.wrap_socket(sock, server_side=True)
            while tls.recv(1) != b"\n":
                pass
            tls.sendall(b'{"ok": true}\n')
            tls.sendall(b"RFB 003.008\n")
            exactly(tls, 12)
            tls.sendall(b"\x01\x02")
            exactly(tls, 1)
            tls.sendall(bytes(16))
            exactly(tls, 16)
            tls.sendall(bytes(4))
            obey(tls)
        except OSError:
            pass

    def bare(sock: Any, _: Any) -> None:
        with suppress(OSError):
            obey(sock)

    StreamServer(("127.0.0.1", plain_port), bare).start()
    StreamServer(("127.0.0.1", port), console, backlog=1024).serve_forever()


def plain(port: int, target: int) -> None:
    """Copy bytes both ways: recv_into one buffer, sendall."""

    def relay(near: Any, _: Any) -> None:
        far = socket.create_connection(("127.0.0.1", target))
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threads = [threading.Thread(target=copy, args=pair, daemon=True) for pair in ((near, far), (far, near))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def copy(source: Any, target: Any) -> None:
        buffer = memoryview(bytearray(65536))
        try:
            while size := source.recv_into(buffer):
                target.sendall(buffer[:size])
        except OSError:
            pass
        for one in (source, target):
            one.close()

    StreamServer(("127.0.0.1", port), relay).serve_forever()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, *arguments = sys.argv[1:]
    numbers = [int(a) for a in arguments if a.isdigit()]
    {"host": host, "plain": plain}[role](*numbers, *[a for a in arguments if not a.isdigit()])
