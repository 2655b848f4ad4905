"""Console relay: MB/s and round trip through gateway and host, against bare relays; memory of idle consoles.

The browser is a bare WebSocket over TLS, the display a program that speaks in the clear, as QEMU does; both are the same
for all ways. Between them are the gateway and the agent's console port, or two relays in their place that do nothing but
copy and have TLS between the same ends, or a single relay without any TLS.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
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
from bench.processes import Process, cpu_s, free_port, listens
from broker import tickets
from broker.models import Ticket
from broker.websocket import frame_head, unmask
from sim import make
from sim.postgres import Cluster

ROUNDS, TRIPS, DOWN_MIB, UP_MIB = 3, 1000, 192, 64
IDLE = (500, 2000)
MIB = 1 << 20
TLS = "two bare relays in the place of gateway and host (recv_into one buffer, sendall), with the same TLS hops"
PLAIN = "one bare TCP relay between the same two ends, no TLS"
GOAL = 0.5  # of the relays with TLS
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
        self.console_port, self.ports, self.gateway = free_port(), {"tls": free_port(), "plain": free_port()}, free_port()
        self._certificates()
        self._rows()
        pem = {name: self.folder / f"{name}.pem" for name in ("ca", "web", "gateway", "host", "host-key")}
        ours = (pem["ca"], pem["host"], pem["host-key"])
        display, bare, far = free_port(), free_port(), free_port()
        python = partial(self._start, stack)
        python("display", display, "bench.relay_far", "display", display, bare)
        host = python("host", self.console_port, "bench.relay_host", self.console_port, display, *ours)
        python("plain", self.ports["plain"], "bench.relay_far", "relay", self.ports["plain"], bare, "-", "-")
        beyond = python("far", far, "bench.relay_far", "relay", far, bare, pem["host"], "-")
        near = python("near", self.ports["tls"], "bench.relay_far", "relay", self.ports["tls"], far, pem["web"], pem["gateway"])
        environ = {
            "DATABASE_URL": url, "SECRET_KEY_FILE": self.folder / "key", "PUBLIC_URL": "https://localhost:8443",
            "GATEWAY_PUBLIC": f"localhost:{self.gateway}", "GATEWAY_LISTEN": f"127.0.0.1:{self.gateway}",
            "TLS_CERT_FILE": self.folder / "web.pem", "TLS_KEY_FILE": self.folder / "web-key.pem", "CA_FILE": pem["ca"],
            "HOSTS_CA_FILE": pem["ca"],
            "CLIENT_CERT_FILE": self.folder / "gateway.pem", "CLIENT_KEY_FILE": self.folder / "gateway-key.pem",
            "LOG_LEVEL": "WARNING",
        }
        settings = {f"LEASEHOLD_{name}": str(value) for name, value in environ.items()}
        gateway = python("gateway", self.gateway, "broker.gateway", environ=settings)
        self.processes = {"gateway": gateway, "host": host}
        self.relaying = {"gateway": (gateway, host), "tls": (near, beyond)}
        self.trust = ssl.create_default_context(cafile=pem["ca"])

    def _start(
        self, stack: ExitStack, name: str, port: int, *argv: object, environ: Mapping[str, str] | None = None
    ) -> Process:
        """A module of ours that listens there."""
        process = Process(name, ["-m", *map(str, argv)], self.folder, environ or {})
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
            host = make.a_host(tx, "alpha", address="127.0.0.1", console_port=self.console_port)
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

    def bare(self, name: str) -> Wire:
        """A connection through the relays of a floor."""
        sock: Any = socket.create_connection(("127.0.0.1", self.ports[name]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(self.trust.wrap_socket(sock, server_hostname="localhost") if name == "tls" else sock)
        wire.trip_us()  # it is there
        return wire

    def memory_kib(self, name: str) -> int:
        """The resident memory of gateway or host."""
        return int(Path(f"/proc/{self.processes[name].pid}/status").read_text().split("VmRSS:")[1].split()[0])

    def cpu_s(self, name: str) -> float:
        """The CPU seconds used so far by what is between browser and display; 0 where it is not counted."""
        return sum(cpu_s(process.pid) for process in self.relaying.get(name, ()))


@dataclass
class Way:
    """What was measured of one way to the display."""

    down: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    trips: list[float] = field(default_factory=list)
    cpu_s: float = 0

    def measure(self, place: Place, name: str) -> None:
        wire = place.open() if name == "gateway" else place.bare(name)
        try:
            self.trips += [wire.trip_us() for _ in range(TRIPS)]
            before = place.cpu_s(name)
            self.down.append(wire.down_mb_s(DOWN_MIB))
            self.cpu_s += place.cpu_s(name) - before
            self.up.append(wire.up_mb_s(UP_MIB))
        finally:
            wire.sock.close()

    @property
    def cpu_ms(self) -> float:
        """CPU ms for a GB from display to browser."""
        return self.cpu_s * 1000 / (len(self.down) * DOWN_MIB * MIB / 1e9)


def run(say: Say) -> Iterator[Figure]:
    """Speed in turns, the ways one after the other in each round; then memory at rest."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ExitStack() as stack:
        place = Place(stack)
        ways = {"gateway": Way(), "tls": Way(), "plain": Way()}
        for turn in range(ROUNDS):
            for name, way in ways.items():
                way.measure(place, name)
            say(f"round {turn + 1}, MB/s down and up: "
                + ", ".join(f"{name} {way.down[-1]:.0f} {way.up[-1]:.0f}" for name, way in ways.items()))
        yield from _speed(**ways)
        yield from _memory(place, ways["gateway"].trips, say)


def _speed(gateway: Way, tls: Way, plain: Way) -> list[Figure]:
    figures = []
    for floor, floor_is, goal in ((tls, TLS, GOAL), (plain, PLAIN, None)):
        beside = "" if floor is tls else ", beside plain TCP"
        trips = [percentile(way.trips, percent) for way in (gateway, floor) for percent in (50, 99)]
        figures += [
            Figure(f"console, display to browser{beside}", max(gateway.down), "MB/s", max(floor.down), floor_is,
                   share_wanted=goal),
            Figure(f"console, browser to display{beside}", max(gateway.up), "MB/s", max(floor.up), floor_is, share_wanted=goal),
            Figure(f"console, round trip of 20 bytes{beside}", trips[0], "µs", trips[2], floor_is, *(one / 1e3 for one in trips),
                   less_is_better=True, share_wanted=goal),
        ]
        if floor is tls:
            figures.append(Figure("  CPU of gateway and host for 1 GB to the browser", gateway.cpu_ms, "ms", tls.cpu_ms, floor_is,
                                  less_is_better=True))
    return figures


def _memory(place: Place, alone: list[float], say: Say) -> Iterator[Figure]:
    """Open consoles that do nothing; look at the processes' memory, and at a round trip in between them."""
    empty = {name: place.memory_kib(name) for name in place.processes}
    held = list[Browser]()
    for count in IDLE:
        began, more = perf_counter(), count - len(held)
        held += [place.open() for _ in range(more)]
        took = (perf_counter() - began) * 1000 / more
        each = {name: (place.memory_kib(name) - empty[name]) / count for name in empty}
        trips = [held[n * 7 % count].trip_us() for n in range(TRIPS)]
        kept = ", ".join(f"{kib:.1f} KiB each in the {name}" for name, kib in each.items())
        say(f"{count} consoles: {kept}; {took:.0f} ms to open one")
        for name, kib in each.items():
            yield Figure(f"memory of an idle console, {count} in one {name}", kib, "KiB")
        yield Figure(f"round trip with {count - 1} idle consoles beside", percentile(trips, 50), "µs", percentile(alone, 50),
                     "the same round trip with one console in the process", less_is_better=True)
    for browser in held:
        browser.sock.close()
