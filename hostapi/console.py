"""`open_console`: a byte stream to a VM's display through its host's agent, over mutual TLS; `open_peer`: one host's to
another's, for a VM that moves.

The caller sends one line of JSON, {"vm_id": …, "protocol": "vnc" | "spice"}, hears one line back, {"ok": true} or
{"ok": false, "code": …, "message": …}, and then talks to the display itself. Works with threads and under gevent.
"""

from __future__ import annotations

import socket
import ssl
from uuid import UUID

import msgspec

from hostapi.client import HostUnreachable
from hostapi.tls import roles
from hostapi.verbs import HostRefused

LINE_BYTES = 4096  # neither line may be longer


class Wanted(msgspec.Struct):
    """Which display is wanted."""

    vm_id: UUID
    protocol: str


class WantedPeer(msgspec.Struct):
    """Which stream of a migration is wanted."""

    migration_id: UUID
    channel: str


class Told(msgspec.Struct):
    """What the host says to it."""

    ok: bool
    code: str = ""
    message: str = ""


def open_console(
    address: str,
    port: int,
    context: ssl.SSLContext,
    vm_id: UUID,
    protocol: str,
    *,
    name: str | None = None,
    timeout_s: float = 10.0,
) -> ssl.SSLSocket:
    """The stream, without a time-out from then on. The host's certificate must carry `name` (or else the address).
    `HostRefused` when the host will not, `HostUnreachable` when
    nobody (or nobody whom we believe) answers within `timeout_s`."""
    return _open(address, port, context, Wanted(vm_id, protocol), name or address, timeout_s)


def open_peer(
    address: str, port: int, context: ssl.SSLContext, migration_id: UUID, channel: str, *, name: str, timeout_s: float = 10.0
) -> ssl.SSLSocket:
    """A stream to the other host's libvirt (`libvirt`) or to the QEMU that waits there (`memory`); refuses as
    `open_console` does."""
    return _open(address, port, context, WantedPeer(migration_id, channel), name, timeout_s)


def _open(
    address: str, port: int, context: ssl.SSLContext, wanted: Wanted | WantedPeer, name: str, timeout_s: float
) -> ssl.SSLSocket:
    try:
        plain = socket.create_connection((address, port), timeout_s)
    except OSError as silent:
        raise HostUnreachable(f"The host at {address}:{port} does not answer: {silent}") from silent
    stream: socket.socket = plain
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(plain)
        stream = tls = context.wrap_socket(plain, server_hostname=name)
        if "host" not in roles(tls.getpeercert()):
            raise HostUnreachable(f"Who answers at {address}:{port} is no host of ours.", "not_a_host")
        tls.sendall(msgspec.json.encode(wanted) + b"\n")
        told = msgspec.json.decode(_line(tls), type=Told)
        if not told.ok:
            raise HostRefused(told.code, told.message)
        tls.settimeout(None)
        return tls
    except (OSError, msgspec.DecodeError) as broken:
        stream.close()
        raise HostUnreachable(f"The host at {address}:{port} broke off: {broken}") from broken
    except (HostRefused, HostUnreachable):
        stream.close()
        raise


def keep_alive(stream: socket.socket) -> None:
    """Notice within about a minute that the other end has gone without a word."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        stream.setsockopt(socket.IPPROTO_TCP, option, value)


def _line(stream: ssl.SSLSocket) -> bytes:
    """One line and not a byte more: what follows belongs to the display."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte or len(line) >= LINE_BYTES:
            raise OSError("the line was cut off" if not byte else "the line is too long")
        line += byte
    return bytes(line)
