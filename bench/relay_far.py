"""The far end of the relay benchmark and its floors.

`python -m bench.relay_far display PORT BARE_PORT`: a display behind VNC's login, and the same without it. It obeys 8-byte
orders: b"ECHO" + n echoes the next n bytes, b"SEND" + n sends n MiB, b"SINK" + n takes n MiB and answers with one byte.
`… relay PORT TARGET_PORT IN OUT`: copies bytes both ways. IN is the certificate that it answers TLS with, OUT the one that
it asks the target with, both PATH.pem beside PATH-key.pem and ca.pem; “-” is no TLS.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import resource  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import struct  # noqa: E402
import sys  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.server import StreamServer  # noqa: E402

from hostapi.tls import client_context  # noqa: E402

MIB = 1 << 20
CHUNK = os.urandom(65536)


def obey(sock: Any) -> None:
    """Do as told until the other end goes."""
    buffer = memoryview(bytearray(262_144))
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
                left -= sock.recv_into(buffer, min(len(buffer), left))
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


def display(port: int, bare_port: int) -> None:
    """Serve the display, with and without its login."""

    def bare(sock: Any, _: Any) -> None:
        with suppress(OSError):
            obey(sock)

    def behind_login(sock: Any, _: Any) -> None:
        with suppress(OSError):
            for said, size in ((b"RFB 003.008\n", 12), (b"\x01\x02", 1), (bytes(16), 16), (bytes(4), 0)):
                sock.sendall(said)
                exactly(sock, size)
            obey(sock)

    StreamServer(("127.0.0.1", bare_port), bare).start()
    StreamServer(("127.0.0.1", port), behind_login, backlog=1024).serve_forever()


def relay(port: int, target: int, inward: Path | None, outward: Path | None) -> None:
    """Copy bytes both ways: recv_into one buffer, sendall."""
    server = client = None
    if inward:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(inward, _key(inward))
    if outward:
        client = client_context(outward.parent / "ca.pem", outward, _key(outward))

    def serve(near: Any, _: Any) -> None:
        far = socket.create_connection(("127.0.0.1", target))
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near = server.wrap_socket(near, server_side=True) if server else near
        far = client.wrap_socket(far, server_hostname="127.0.0.1") if client else far
        gevent.joinall([gevent.spawn(copy, near, far), gevent.spawn(copy, far, near)], count=1)
        near.close()
        far.close()

    def copy(source: Any, target: Any) -> None:
        buffer = memoryview(bytearray(65536))
        with suppress(OSError):
            while size := source.recv_into(buffer):
                target.sendall(buffer[:size])

    StreamServer(("127.0.0.1", port), serve).serve_forever()


def _key(certificate: Path) -> Path:
    return certificate.with_name(f"{certificate.stem}-key.pem")


def main() -> None:
    """Serve until killed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, first, second, *files = sys.argv[1:]
    if role == "display":
        display(int(first), int(second))
    else:
        relay(int(first), int(second), *(None if file == "-" else Path(file) for file in files))


if __name__ == "__main__":
    main()
