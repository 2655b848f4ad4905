"""The console port: who gets through, what a hostile first line does, and that a slow reader slows the writer."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from agent.consoles import Consoles
from hostapi.tls import client_context, server_context
from hostapi.verbs import HostRefused
from tests.pki import Certificate, Pki

VM, DOWN = UUID(int=1), UUID(int=2)  # the same in every process: they stand in the names of tests


class Display:
    """Stands for QEMU: echoes, and counts what it could write."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []
        self.floods, self.written = False, 0
        self.idle = False  # leaves its connections to the test
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            if self.idle:
                continue
            threading.Thread(target=self._flood if self.floods else self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return

    def _flood(self, connection: socket.socket) -> None:
        try:
            while True:
                self.written += connection.send(b"x" * 65536)
        except OSError:
            return

    def close(self) -> None:
        for one in [self.listener, *self.connections]:
            one.close()


@pytest.fixture
def display() -> Iterator[Display]:
    display = Display()
    yield display
    display.close()


@pytest.fixture
def consoles(display: Display, pki: Pki) -> Iterator[Consoles]:
    def port(vm_id: UUID, protocol: str) -> int | None:
        if vm_id == DOWN:
            raise HostRefused("hypervisor_down", "libvirt does not answer.")
        return display.listener.getsockname()[1] if (vm_id, protocol) == (VM, "vnc") else None

    consoles = Consoles(port, "127.0.0.1", 0, server_context(*pki.issue("host")))
    consoles.start()
    yield consoles
    consoles.stop()


def connect(consoles: Consoles, certificate: Certificate) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", consoles.port), timeout=20)
    return client_context(*certificate).wrap_socket(plain, server_hostname="127.0.0.1")


def line(sock: ssl.SSLSocket) -> dict[str, object]:
    got = b""
    while not got.endswith(b"\n"):
        part = sock.recv(1)
        if not part:
            raise EOFError(got)
        got += part
    answer: dict[str, object] = json.loads(got)
    return answer


def opened(consoles: Consoles, pki: Pki) -> ssl.SSLSocket:
    sock = connect(consoles, pki.issue("gateway"))
    sock.sendall(json.dumps({"vm_id": str(VM), "protocol": "vnc"}).encode() + b"\n")
    assert line(sock) == {"ok": True}
    return sock


def test_a_gateway_reaches_the_display(consoles: Consoles, pki: Pki) -> None:
    with opened(consoles, pki) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"


def test_bytes_right_behind_the_first_line_are_the_displays(consoles: Consoles, pki: Pki) -> None:
    with connect(consoles, pki.issue("gateway")) as sock:
        sock.sendall(json.dumps({"vm_id": str(VM), "protocol": "vnc"}).encode() + b"\nhello")
        assert line(sock) == {"ok": True}
        assert sock.recv(5) == b"hello"


@pytest.mark.parametrize("role", ["manager", "host", "nobody"])
def test_only_gateways_get_through(consoles: Consoles, display: Display, pki: Pki, role: str) -> None:
    with connect(consoles, pki.issue(role)) as sock:
        sock.sendall(json.dumps({"vm_id": str(VM), "protocol": "vnc"}).encode() + b"\n")
        assert line(sock)["code"] == "not_a_gateway"
    assert display.connections == []


def test_a_gateway_of_another_ca_does_not_get_through(consoles: Consoles, pki: Pki, tmp_path: Path) -> None:
    alien = Pki(tmp_path / "alien").issue("gateway")
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        with connect(consoles, Certificate(pki.ca_file, alien.cert_file, alien.key_file)) as sock:
            line(sock)


@pytest.mark.parametrize("preamble", [
    b"\n", b"hello\n", b"[]\n", b"{}\n", b'{"vm_id": "x", "protocol": "vnc"}\n', b"\xff\xfe\n", b"A" * 5000,
    b'{"vm_id": "%s", "protocol": "rdp"}\n' % str(VM).encode(),
    b'{"vm_id": "%s", "protocol": "vnc", "port": 22}\n' % str(VM).encode(),
    b'{"vm_id": "%s", "protocol": "vnc", "host": "10.0.0.1"}\n' % str(VM).encode(),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
])
def test_a_hostile_first_line_is_refused_in_words(consoles: Consoles, display: Display, pki: Pki, preamble: bytes) -> None:
    with connect(consoles, pki.issue("gateway")) as sock:
        sock.sendall(preamble)
        answer = line(sock)
    assert (answer["ok"], answer["code"]) == (False, "bad_preamble")
    assert display.connections == []
    with opened(consoles, pki) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize(("vm_id", "protocol", "code"), [
    (uuid4(), "vnc", "no_display"), (VM, "spice", "no_display"), (DOWN, "vnc", "hypervisor_down"),
])
def test_a_display_that_cannot_be_had_is_refused(consoles: Consoles, pki: Pki, vm_id: UUID, protocol: str, code: str) -> None:
    with connect(consoles, pki.issue("gateway")) as sock:
        sock.sendall(json.dumps({"vm_id": str(vm_id), "protocol": protocol}).encode() + b"\n")
        answer = line(sock)
    assert (answer["ok"], answer["code"]) == (False, code)
    assert str(answer["message"]).endswith(".")


def test_much_goes_both_ways_at_once_unharmed(consoles: Consoles, pki: Pki) -> None:
    sent, got = os.urandom(8 << 20), bytearray()
    plain = socket.create_connection(("127.0.0.1", consoles.port), timeout=60)
    sock = client_context(*pki.issue("gateway")).wrap_socket(plain, server_hostname="127.0.0.1")
    sock.sendall(json.dumps({"vm_id": str(VM), "protocol": "vnc"}).encode() + b"\n")
    assert line(sock) == {"ok": True}
    sock.setblocking(False)
    view, end = memoryview(sent), time.monotonic() + 60
    while len(got) < len(sent):
        assert time.monotonic() < end
        for work in (lambda v: sock.send(v[:65536]) if v else 0, lambda _: got.extend(sock.recv(65536))):
            try:
                view = view[work(view) or 0 :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                time.sleep(0.0005)
    assert got == sent
    sock.close()


def test_who_does_not_read_slows_the_display_down(consoles: Consoles, display: Display, pki: Pki) -> None:
    display.floods = True
    with opened(consoles, pki) as sock:
        last = -1
        while display.written != last:  # until nothing more fits into the buffers between
            last = display.written
            time.sleep(0.5)
        assert 0 < last < 64 << 20
        sock.recv(65536)


def test_the_end_of_one_side_is_the_end_of_the_other(consoles: Consoles, display: Display, pki: Pki) -> None:
    sock = opened(consoles, pki)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    display.connections[0].shutdown(socket.SHUT_RDWR)
    assert sock.recv(1) == b""
    sock.close()
    with opened(consoles, pki) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        qemu = display.connections[1]
        qemu.settimeout(20)
    end = time.monotonic() + 20
    while qemu.fileno() >= 0 and _alive(qemu):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_end_right_behind_many_bytes_is_seen(consoles: Consoles, display: Display, pki: Pki) -> None:
    display.idle = True
    gateway = opened(consoles, pki)
    while not display.connections:
        time.sleep(0.01)
    size = 40_000
    gateway.sendall(b"y" * size)
    ended = threading.Thread(target=_say_good_bye, args=(gateway,), daemon=True)  # TLS says the end; the socket stays open
    ended.start()
    qemu, got = display.connections[0], 0
    qemu.settimeout(60)
    while data := qemu.recv(65536):
        got += len(data)
    assert got == size
    ended.join(60)
    gateway.close()


def _say_good_bye(gateway: ssl.SSLSocket) -> None:
    with suppress(OSError):
        gateway.unwrap()


def _alive(qemu: socket.socket) -> bool:
    try:
        qemu.sendall(b"?")
    except OSError:
        return False
    return True


def test_silent_strangers_hold_nobody_up(consoles: Consoles, pki: Pki) -> None:
    silent = [socket.create_connection(("127.0.0.1", consoles.port)) for _ in range(30)]
    with opened(consoles, pki) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    for one in silent:
        one.close()
