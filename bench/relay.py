"""Console relay: MB/s and round trip through the gateway against a plain TCP relay; memory of idle consoles.

The browser is a bare WebSocket over TLS, the display a program behind a host's console port; both are the same for all
ways. The gateway takes TLS off one side and puts it on the other; the plain relay does neither.
"""

from __future__ import annotations

import base64
import os
import resource
import secrets
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import sqlalchemy as sa

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.ca import Authority, write_private
from backend.clock import WallClock
from backend.db import Sessions, new_sessions
from backend.directory import sessions as signed_in
from backend.secrets import Keyring
from bench.figures import Figure, percentile
from bench.processes import Process, free_port, listens
from broker import tickets
from broker.models import Ticket
from broker.websocket import frame_head, unmask
from tests import make
from tests.postgres import Cluster

ROUNDS, TRIPS, DOWN_MIB, UP_MIB = 3, 1000, 192, 64
IDLE = (500, 2000)
MIB = 1 << 20
PLAIN = "a plain TCP relay (recv_into one buffer, sendall) between the same two ends, no TLS"
Say = Callable[[str], None]


class Wire:
    """The display's orders over a plain stream."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._buffer = memoryview(bytearray(262_144))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def take(self, size: int) -> None:
        """Read so many bytes and forget them."""
        while size:
            size -= self._some(min(size, len(self._buffer)))

    def _some(self, most: int) -> int:
        got = int(self.sock.recv_into(self._buffer[:most]))
        if not got:
            raise EOFError
        return got

    def trip_us(self) -> float:
        """One round trip of 20 bytes."""
        began = perf_counter()
        self.send(b"ECHO" + struct.pack(">I", 12) + bytes(12))
        self.take(12)
        return (perf_counter() - began) * 1e6

    def down_mb_s(self, mib: int) -> float:
        began = perf_counter()
        self.send(b"SEND" + struct.pack(">I", mib))
        self.take(mib * MIB)
        return mib * MIB / 1e6 / (perf_counter() - began)

    def up_mb_s(self, mib: int) -> float:
        piece = os.urandom(65536)
        began = perf_counter()
        self.send(b"SINK" + struct.pack(">I", mib))
        for _ in range(mib * MIB // len(piece)):
            self.send(piece)
        self.take(1)
        return mib * MIB / 1e6 / (perf_counter() - began)


class Browser(Wire):
    """The same inside a WebSocket's frames."""

    _left = 0

    def send(self, data: bytes) -> None:
        head, mask = bytearray(frame_head(2, len(data))), b"\x37\xfa\x21\x3d"
        head[1] |= 0x80
        self.sock.sendall(bytes(head) + mask + unmask(data, mask))

    def _some(self, most: int) -> int:
        while not self._left:  # the gateway's pings have no content
            length = self._exactly(2)[1] & 0x7F
            self._left = length if length < 126 else int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
        got = super()._some(min(most, self._left))
        self._left -= got
        return got

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class Place:
    """A database with one person and one VM, certificates, the far end and the gateway."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lh-relay-")))
        self.cluster = Cluster()
        self.cluster.start()
        stack.callback(self.cluster.stop)
        url = self.cluster.url(self.cluster.new_database())
        self.sessions: Sessions = new_sessions(url)
        stack.callback(self.sessions.kw["bind"].dispose)
        self.display, self.bare, self.relay, self.relay_tls, self.gateway = (free_port() for _ in range(5))
        self._certificates()
        self._rows()
        files = [str(self.folder / name) for name in ("ca.pem", "host.pem", "host-key.pem")]
        self._start(stack, "host", ["-m", "bench.relay_far", "host", str(self.display), str(self.bare), *files], self.display)
        self._start(stack, "relay", ["-m", "bench.relay_far", "plain", str(self.relay), str(self.bare)], self.relay)
        environ = {
            "DATABASE_URL": url, "SECRET_KEY_FILE": self.folder / "key", "PUBLIC_URL": "https://localhost:8443",
            "GATEWAY_PUBLIC": f"localhost:{self.gateway}", "GATEWAY_LISTEN": f"127.0.0.1:{self.gateway}",
            "TLS_CERT_FILE": self.folder / "web.pem", "TLS_KEY_FILE": self.folder / "web-key.pem", "CA_FILE": files[0],
            "HOSTS_CA_FILE": files[0],
            "CLIENT_CERT_FILE": self.folder / "gateway.pem", "CLIENT_KEY_FILE": self.folder / "gateway-key.pem",
            "LOG_LEVEL": "WARNING",
        }
        self.process = self._start(
            stack, "gateway", ["-m", "broker.gateway"], self.gateway, {f"LEASEHOLD_{k}": str(v) for k, v in environ.items()})
        self.trust = ssl.create_default_context(cafile=files[0])

    def _start(self, stack: ExitStack, name: str, argv: list[str], port: int, environ: dict[str, str] | None = None) -> Process:
        process = Process(name, argv, self.folder, environ or {})
        stack.callback(process.stop)
        process.wait_for(lambda: listens(port))
        return process

    def _certificates(self) -> None:
        now = WallClock().now()
        authority = Authority.create(now)
        authority.save(self.folder / "ca.pem", self.folder / "ca-key.pem")
        for role in ("web", "gateway", "host"):
            key, certificate = authority.issue("localhost", role, ["127.0.0.1", "localhost", "*.host.leasehold"], now)
            (self.folder / f"{role}.pem").write_text(certificate)
            write_private(self.folder / f"{role}-key.pem", key.encode())
        self.keyring = Keyring(key := secrets.token_bytes(32))
        write_private(self.folder / "key", key)

    def _rows(self) -> None:
        with self.sessions.begin() as tx:
            host = make.a_host(tx, "alpha", address="127.0.0.1", console_port=self.display)
            self.vm_id, self.user_id = make.a_vm(tx, "w1", state="up", host=host).id, make.a_user(tx, "alice").id
            self.session_id, self.cookie, _ = signed_in.create(
                tx, self.user_id, client="browser", address="127.0.0.1", now=WallClock().now())

    def open(self) -> Browser:
        """A console through the gateway, on a fresh ticket."""
        with self.sessions.begin() as tx:
            now = WallClock().now()
            ticket = tickets.mint(tx, user_id=self.user_id, session_id=self.session_id, vm_id=self.vm_id, lease_id=None,
                                  protocol="vnc", client="browser", now=now)
            tx.execute(sa.update(Ticket).where(Ticket.id == ticket.id).values(armed_at=now))
        plain = socket.create_connection(("127.0.0.1", self.gateway))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        browser = Browser(self.trust.wrap_socket(plain, server_hostname="localhost"))
        browser.sock.sendall("\r\n".join([
            "GET /console HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13",
            "Origin: https://localhost:8443", f"Sec-WebSocket-Protocol: binary, leasehold.{tickets.token(self.keyring, ticket)}",
            f"Cookie: __Host-leasehold={self.cookie}", "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += browser._exactly(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        browser.take(12)
        browser.send(b"RFB 003.008\n")
        browser.take(2)
        browser.send(b"\x01")
        browser.take(4)
        browser.trip_us()  # the display has answered: the console is open
        return browser

    def memory_kib(self) -> int:
        """The gateway's resident memory."""
        return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])


@contextmanager
def way(place: Place, name: str) -> Iterator[Wire]:
    """One way from here to the display."""
    if name == "gateway":
        wire: Wire = place.open()
    else:
        wire = Wire(socket.create_connection(("127.0.0.1", place.relay)))
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield wire
    finally:
        wire.sock.close()


def run(say: Say) -> list[Figure]:
    """Speed in turns, the ways one after the other in each round; then memory at rest."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ExitStack() as stack:
        place = Place(stack)
        down: dict[str, list[float]] = {"gateway": [], "plain": []}
        up: dict[str, list[float]] = {"gateway": [], "plain": []}
        trips: dict[str, list[float]] = {"gateway": [], "plain": []}
        for turn in range(ROUNDS):
            for name in down:
                with way(place, name) as wire:
                    trips[name] += [wire.trip_us() for _ in range(TRIPS)]
                    down[name].append(wire.down_mb_s(DOWN_MIB))
                    up[name].append(wire.up_mb_s(UP_MIB))
            say(f"round {turn + 1}: {down['gateway'][-1]:.0f} MB/s down, {up['gateway'][-1]:.0f} MB/s up through the gateway")
        figures = [
            Figure("console, display to browser", max(down["gateway"]), "MB/s", max(down["plain"]), PLAIN),
            Figure("console, browser to display", max(up["gateway"]), "MB/s", max(up["plain"]), PLAIN),
            _trip("console, round trip of 20 bytes", trips["gateway"], trips["plain"]),
        ]
        figures += _memory(place, trips["gateway"], say)
    return figures


def _trip(what: str, ours: list[float], floor: list[float]) -> Figure:
    return Figure(
        what, percentile(ours, 50), "µs", percentile(floor, 50), PLAIN, percentile(ours, 50) / 1e3, percentile(ours, 99) / 1e3,
        percentile(floor, 50) / 1e3, percentile(floor, 99) / 1e3, less_is_better=True)


def _memory(place: Place, alone: list[float], say: Say) -> list[Figure]:
    """Open consoles that do nothing; look at the process's memory, and at a round trip in between them."""
    empty, figures, held = place.memory_kib(), list[Figure](), list[Browser]()
    for count in IDLE:
        while len(held) < count:
            held.append(place.open())
        each = (place.memory_kib() - empty) / count
        trips = [held[n * 7 % count].trip_us() for n in range(TRIPS)]
        say(f"{count} consoles: {each:.1f} KiB each, beside {empty / 1024:.0f} MiB for the process")
        figures += [
            Figure(f"memory of an idle console, {count} in one process", each, "KiB"),
            Figure(f"round trip with {count - 1} idle consoles beside", percentile(trips, 50), "µs", percentile(alone, 50),
                   "the same round trip with one console in the process", less_is_better=True),
        ]
    for browser in held:
        browser.sock.close()
    return figures
