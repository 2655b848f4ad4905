"""`Place`: where a standalone Leasehold lives, its files and ports, and whether this machine will do."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backend.ca import write_private
from standalone.trouble import Trouble

ROOM_MIB = 2048  # what the guest, PostgreSQL and a few desktops may grow to
PROGRAMS = {  # what must be installed, and the Debian package it comes in
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}


@dataclass(frozen=True)
class Place:
    """The state folder and the two ports that people use; everything else follows from them."""

    state: Path
    port: int

    @property
    def gateway_port(self) -> int:
        return self.port + 1

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def run(self) -> Path:
        """Sockets: a state folder's own path may be too long for one (107 bytes) or closed to other users."""
        return Path("/run") / f"leasehold-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    @property
    def tls(self) -> Path:
        return self.state / "tls"

    @property
    def storage(self) -> Path:
        return self.state / "storage"

    @property
    def agent(self) -> Path:
        return self.state / "agent"

    @property
    def ready(self) -> Path:
        return self.state / "ready.json"

    def passwords(self, names: tuple[str, ...]) -> dict[str, str]:
        """A password for each of these people, made when this folder first sees them."""
        file = self.state / "passwords.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        if fresh := [name for name in names if name not in known]:
            letters = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that looks like something else
            known |= {name: "-".join(_word(letters, 5) for _ in range(3)) for name in fresh}
            write_private(file, json.dumps(known).encode())
        return known


def prepare(state: Path, port: int) -> tuple[Place, IO[str]]:
    """The place, proved fit to start in, and the lock that keeps a second start out as long as it is open."""
    if os.geteuid() != 0:
        raise Trouble("Leasehold starts virtual machines, which takes root: start it with “make run”, or with sudo.")
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise Trouble(f"The program {program} is missing: run “make setup”, or apt-get install {package}.")
    state = state.absolute()
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("w")
    except OSError as no:
        raise Trouble(
            f"The state folder {state} cannot be written: {no.strerror}. Name another one: STATE=folder make run."
        ) from no
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Trouble(
            f"Leasehold runs in {state} already. To run beside it: STATE=folder PORT={port + 10} make run."
        ) from None
    free_mib = shutil.disk_usage(state).free >> 20
    if free_mib < ROOM_MIB:
        raise Trouble(
            f"The disk of {state} has {free_mib:,} MiB free and {ROOM_MIB:,} MiB are needed: "
            "make room, or name a folder on another disk: STATE=folder make run."
        )
    place = Place(state, port)
    for number, what in ((place.port, "the portal"), (place.gateway_port, "the console gateway")):
        if not 0 < number < 65536:
            raise Trouble(f"PORT={port} will not do: {what} would listen on {number}. Choose one between 1 and 65534.")
        if not is_free(number):
            raise Trouble(
                f"Port {number}, which {what} needs, is taken by another program: "
                f"stop that, or choose another port: PORT={port + 10} make run."
            )
    place.ready.unlink(missing_ok=True)
    for folder in (place.run, place.tls, place.storage, state / "log"):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place, lock


def is_free(port: int) -> bool:
    """Whether a server may listen on this port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def loopbacks() -> list[str]:
    """The loopback's addresses here; a viewer told "localhost" may try IPv6 alone."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "[::1]"]


def free_pair() -> tuple[int, int]:
    """Two free ports below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000, 2)
        if is_free(port) and is_free(port + 1):
            return port, port + 1


def _word(letters: str, length: int) -> str:
    return "".join(random.SystemRandom().choice(letters) for _ in range(length))
