"""Streams between two hosts while a VM moves: mutual TLS between their agents, Unix sockets at both ends.

libvirt and QEMU are told of sockets in a folder that has the same path on both hosts. On the host that the VM leaves, the
agent listens there and carries what comes to the other agent; that one connects it to its libvirt, or to the socket on which
the arriving QEMU listens. So migrations need no libvirtd that listens on the network and no certificates but the agents' own.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from agent.pump import pump
from hostapi.client import HostUnreachable
from hostapi.console import open_peer
from hostapi.tls import host_name
from hostapi.types import Peer
from hostapi.verbs import HostRefused

log = logging.getLogger("peers")
RUN = Path("/run/leasehold-migration")
CONNECT_S = 10.0


def folder_of(migration_id: UUID) -> Path:
    """Where a migration's sockets are, on either host. QEMU, which has a user of its own, makes one of them."""
    return RUN / str(migration_id)


def make_folder(migration_id: UUID) -> Path:
    """The same, made: others may enter it only by its name, which nobody can guess."""
    RUN.mkdir(mode=0o711, exist_ok=True)
    folder = folder_of(migration_id)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


class Gates:
    """Which hosts may send which VM here. Forgotten when the agent restarts: a migration that was under way has failed
    then anyhow, for its streams went through this process."""

    def __init__(self, libvirt_socket: str) -> None:
        self._libvirt = libvirt_socket
        self._open: dict[UUID, tuple[UUID, UUID]] = {}  # migration -> VM, and the host that it comes from
        self._streams: dict[UUID, list[socket.socket]] = {}
        self._lock = threading.Lock()

    def open(self, migration_id: UUID, vm_id: UUID, source_id: UUID) -> None:
        """Let this VM in; an earlier gate of the same VM is closed."""
        for old in [one for one, (known, _) in self._open.items() if known == vm_id and one != migration_id]:
            self.close(old)
        make_folder(migration_id)
        with self._lock:
            self._open[migration_id] = (vm_id, source_id)

    def close(self, migration_id: UUID) -> None:
        """Nothing comes in any more; streams that are open are cut."""
        with self._lock:
            self._open.pop(migration_id, None)
            streams = self._streams.pop(migration_id, [])
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(folder_of(migration_id), ignore_errors=True)

    def close_for(self, vm_id: UUID) -> None:
        """The VM runs here by itself: nothing of it is awaited."""
        for migration_id in [one for one, (known, _) in self._open.items() if known == vm_id]:
            self.close(migration_id)

    def awaited(self) -> set[UUID]:
        """The VMs that may be arriving now."""
        with self._lock:
            return {vm_id for vm_id, _ in self._open.values()}

    def enter(self, names: set[str], migration_id: UUID, channel: str) -> socket.socket:
        """Connect a host that shows a certificate of these names to what it wants."""
        with self._lock:
            _, source_id = self._open.get(migration_id, (None, None))
        if source_id is None or host_name(source_id) not in names:
            raise HostRefused("not_expected", "No VM is expected from that host.")
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(CONNECT_S)
        try:
            stream.connect(self._libvirt if channel == "libvirt" else str(folder_of(migration_id) / "memory.sock"))
        except OSError as no:
            stream.close()
            raise HostRefused("not_expected", f"The {channel} socket does not answer: {no.strerror}.") from no
        with self._lock:
            self._streams.setdefault(migration_id, []).append(stream)
        return stream


@contextmanager
def tunnel(migration_id: UUID, to: Peer, context: Callable[[], ssl.SSLContext]) -> Iterator[Path]:
    """While this lasts, the sockets in the folder that it answers lead to the other host."""
    folder, over = make_folder(migration_id), threading.Event()
    listeners = [_listen(folder / f"{channel}.sock") for channel in ("libvirt", "memory")]
    try:
        for listener, channel in zip(listeners, ("libvirt", "memory"), strict=True):
            threading.Thread(
                target=_serve, args=(listener, channel, migration_id, to, context, over), name=f"tunnel {channel}", daemon=True
            ).start()
        yield folder
    finally:
        over.set()
        for listener in listeners:
            listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o777)
    listener.listen(8)
    listener.settimeout(0.5)
    return listener


def _serve(
    listener: socket.socket, channel: str, migration_id: UUID, to: Peer, context: Callable[[], ssl.SSLContext],
    over: threading.Event,
) -> None:  # fmt: skip
    while not over.is_set():
        try:
            near, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        threading.Thread(
            target=_carry, args=(near, channel, migration_id, to, context, over), name="tunnel", daemon=True
        ).start()


def _carry(
    near: socket.socket, channel: str, migration_id: UUID, to: Peer, context: Callable[[], ssl.SSLContext],
    over: threading.Event,
) -> None:  # fmt: skip
    with near:
        try:
            far = open_peer(to.address, to.port, context(), migration_id, channel, name=host_name(to.host_id))
        except (HostRefused, HostUnreachable) as no:
            log.info("no %s stream to %s: %s", channel, to.address, no)
            return
        with far:
            try:
                pump(near, far, over)
            except OSError as broken:
                log.info("%s stream to %s broke: %s", channel, to.address, broken)
