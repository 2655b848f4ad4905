"""The console port: a gateway, known by its certificate, reaches the displays of this host's VMs through it, and another
host, while a VM moves between the two, its libvirt and the QEMU that waits for the VM."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Literal
from uuid import UUID

import msgspec

from agent.pump import pump
from hostapi.console import keep_alive
from hostapi.tls import dns_names, roles
from hostapi.types import Protocol
from hostapi.verbs import HostRefused

log = logging.getLogger("consoles")
GREETING_S = 10.0  # handshake and first line; whoever needs longer is no gateway
LONGEST_LINE = 1024
MOST_CONSOLES = 2000


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """The first line: which display."""

    vm_id: UUID
    protocol: Literal["vnc", "spice"]


class WantedPeer(msgspec.Struct, forbid_unknown_fields=True):
    """The first line of a host: which stream of a migration."""

    migration_id: UUID
    channel: Literal["libvirt", "memory"]


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Consoles:
    """Listens for gateways and hosts; a thread a stream. `display_port` answers where a VM's display listens on loopback,
    `enter` connects a host of these names to a stream of a migration that is expected from it."""

    def __init__(
        self,
        display_port: Callable[[UUID, Protocol], int | None],
        address: str,
        port: int,
        ssl_context: ssl.SSLContext,
        enter: Callable[[set[str], UUID, str], socket.socket] | None = None,
    ) -> None:
        self._display_port, self._enter, self.ssl_context = display_port, enter, ssl_context
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=128)
        self._places = threading.BoundedSemaphore(MOST_CONSOLES)
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for any free one."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Listen in a thread of its own."""
        threading.Thread(target=self._listen, name="consoles", daemon=True).start()

    def stop(self) -> None:
        """Stop listening; open consoles end within a second."""
        self._stopping.set()
        self._listener.close()

    def _listen(self) -> None:
        self._listener.settimeout(0.5)
        while not self._stopping.is_set():
            try:
                connection, peer = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as no:
                if self._stopping.wait(0.5):  # closed by `stop`; else too many open files: let some be closed
                    return
                log.warning("cannot accept a console: %s", no)
                continue
            if not self._places.acquire(blocking=False):
                log.warning("too many consoles; %s is turned away", peer[0])
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection, peer[0]), name="console", daemon=True
            ).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        gateway: ssl.SSLSocket | None = None
        try:
            connection.settimeout(GREETING_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connection)
            gateway = self.ssl_context.wrap_socket(connection, server_side=True)
            with self._open_wanted(gateway) as display:
                gateway.sendall(b'{"ok": true}\n')
                pump(gateway, display, self._stopping)
        except _Refused as no:
            log.info("console refused to %s: %s", peer, no)
            _say(gateway, no)
        except OSError as broken:  # ssl.SSLError is one
            log.info("console of %s ended: %s", peer, broken)
        finally:
            (gateway or connection).close()
            self._places.release()

    def _open_wanted(self, peer: ssl.SSLSocket) -> socket.socket:
        if self._enter is None or "host" not in roles(peer.getpeercert()):
            return self._open_display(peer)
        names = dns_names(peer.getpeercert())
        try:
            wanted = msgspec.json.decode(_line(peer), type=WantedPeer)
            return self._enter(names, wanted.migration_id, wanted.channel)
        except msgspec.DecodeError as wrong:
            raise _Refused("bad_preamble", f"The first line must name migration_id and channel: {wrong}") from wrong
        except HostRefused as no:
            raise _Refused(no.failure.code, no.failure.message) from no

    def _open_display(self, gateway: ssl.SSLSocket) -> socket.socket:
        if "gateway" not in roles(gateway.getpeercert()):
            raise _Refused(
                "not_a_gateway", "Only a gateway may open consoles; this certificate is not a gateway's."
            )
        try:
            wanted = msgspec.json.decode(_line(gateway), type=Wanted)
        except msgspec.DecodeError as wrong:
            raise _Refused("bad_preamble", f"The first line must name vm_id and protocol: {wrong}") from wrong
        try:
            port = self._display_port(wanted.vm_id, wanted.protocol)
        except HostRefused as no:
            raise _Refused(no.failure.code, no.failure.message) from no
        if port is None:
            raise _Refused(
                "no_display", f"The VM does not run here, or has no {wanted.protocol.upper()} display."
            )
        try:
            display = socket.create_connection(("127.0.0.1", port), timeout=GREETING_S)
        except OSError as no:
            raise _Refused("no_display", f"The VM's display does not answer: {no.strerror}.") from no
        display.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return display


def _line(gateway: ssl.SSLSocket) -> bytes:
    """The first line, byte by byte: what follows it belongs to the display."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) >= LONGEST_LINE:
            raise _Refused("bad_preamble", f"The first line is longer than {LONGEST_LINE} bytes.")
        try:
            byte = gateway.recv(1)
        except TimeoutError:
            raise _Refused("bad_preamble", "The first line did not come in time.") from None
        if not byte:
            raise _Refused("bad_preamble", "The connection ended within the first line.")
        line += byte
    return bytes(line)


def _say(gateway: ssl.SSLSocket | None, no: _Refused) -> None:
    if gateway is None:
        return
    try:
        gateway.settimeout(GREETING_S)
        gateway.sendall(msgspec.json.encode({"ok": False, "code": no.code, "message": str(no)}) + b"\n")
        gateway.unwrap()
    except OSError as gone:
        log.debug("nobody hears the refusal: %s", gone)
