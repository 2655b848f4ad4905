"""The gateway as a process of its own, and a real QEMU with passwords set over QMP."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pki import Pki

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(true: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
    """What `true` answers, as soon as it is anything true."""
    until = time.monotonic() + limit_s
    while not (answer := true()):
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.02)
    return answer


class GatewayProcess:
    """`python -m broker.gateway` on a free port."""

    def __init__(self, folder: Path, pki: Pki, database_url: str, key: Path, name: str = "gateway") -> None:
        self.port, self.folder, self.name = free_port(), folder, name
        self.public = f"localhost:{self.port}"
        self.origin = "https://localhost:8443"
        shown, own = pki.issue("web", "localhost"), pki.issue("gateway", "gateway")
        self.ca_file, self.ca_pem = pki.ca_file, pki.ca_file.read_text()
        self.log = folder / f"{name}.log"
        settings = {
            "database_url": database_url, "secret_key_file": key, "public_url": self.origin, "gateway_public": self.public,
            "gateway_listen": f"127.0.0.1:{self.port}", "gateway_name": name, "tls_cert_file": shown.cert_file,
            "tls_key_file": shown.key_file, "ca_file": pki.ca_file, "hosts_ca_file": pki.ca_file,
            "client_cert_file": own.cert_file, "client_key_file": own.key_file,
        }
        self.environ = {f"LEASEHOLD_{k.upper()}": str(v) for k, v in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "broker.gateway"], cwd=ROOT, env={**os.environ, **self.environ}, stderr=log, stdout=log)
        wait_until(self.answers, "the gateway answers")

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            with self.connect() as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                return sock.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def connect(self) -> ssl.SSLSocket:
        """A TLS connection to it, its certificate checked."""
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        return ssl.create_default_context(cafile=str(self.ca_file)).wrap_socket(plain, server_hostname="localhost")

    def runs(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is not None and self.runs():
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def memory_kib(self) -> int:
        """Its resident memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


class Qemu:
    """A VM without a disk: its firmware's screen, a VNC and a SPICE display on loopback, both closed at first."""

    def __init__(self, folder: Path, video: str = "virtio-vga") -> None:
        self.folder, self.vnc, self.spice = folder, free_port(), free_port()
        self.monitor = folder / "qmp"
        self.log = (folder / "qemu.log").open("wb")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none",
             "-device", video, "-vnc", f"127.0.0.1:{self.vnc - 5900},password=on",
             "-spice", f"addr=127.0.0.1,port={self.spice},disable-ticketing=off",
             "-device", "virtio-serial", "-chardev", "spicevmc,id=agent,name=vdagent",
             "-device", "virtserialport,chardev=agent,name=com.redhat.spice.0",
             "-device", "virtio-keyboard", "-device", "virtio-tablet",
             "-qmp", f"unix:{self.monitor},server=on,wait=off"],
            stdout=self.log, stderr=self.log)
        wait_until(self.monitor.exists, "QEMU's monitor is there")
        self.sock = socket.socket(socket.AF_UNIX)
        wait_until(self._connected, "QEMU's monitor answers")
        self.lines = self.sock.makefile("rb")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def _connected(self) -> bool:
        return self.sock.connect_ex(str(self.monitor)) == 0

    def ask(self, command: str, **arguments: Any) -> Any:
        """QMP: the answer's `return`."""
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            line = self.lines.readline()
            assert line, f"QEMU ended with {self.process.wait(10)}"
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                assert "return" in answer, answer
                return answer["return"]

    def password(self, protocol: str, password: str) -> None:
        """What the agent's set_ticket does."""
        self.ask("set_password", protocol=protocol, password=password)
        self.ask("expire_password", protocol=protocol, time="+120")

    def lives(self) -> bool:
        return self.process.poll() is None and self.ask("query-status")["status"] == "running"

    def screendump(self) -> bytes:
        """The screen as PPM."""
        path = self.folder / "screen.ppm"
        self.ask("screendump", filename=str(path))
        return path.read_bytes()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.lines.close()
        self.sock.close()
        self.log.close()
