"""Every simulated host of the rows at an address of its own, over mutual TLS: `python -m sim.hosts`, settings from the
environment. Sentences for the world are read from its input."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import assembly  # noqa: F401 -- every table must be known before the first question
from agent.consoles import Consoles
from backend import config, logs
from backend.ca import Authority
from backend.clock import Clock, WallClock
from backend.config import Settings
from backend.db import new_sessions
from hostapi.client import HostUnreachable
from hostapi.desk import Desk
from hostapi.server import HostServer
from sim.rows import places, simulate
from sim.screens import Displays, any_host
from sim.world import SimDoor, World


class Reception:
    """A machine's present desk; whoever comes while it has no power, no network or no agent is hung up on."""

    def __init__(self, door: SimDoor) -> None:
        self._door = door

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._door.desk(), name)
        except HostUnreachable as silent:
            raise ConnectionResetError(str(silent)) from silent


def any_host_of(settings: Settings, clock: Clock) -> ssl.SSLContext:
    """How the simulated hosts of this installation show themselves."""
    authority = Authority.load(settings.hosts_ca_file, settings.hosts_ca_key_file)
    return any_host(authority, clock, Path(settings.hosts_ca_file).parent)


def obey(world: World, sentences: Iterable[str]) -> None:
    """Let happen what is told, a sentence a line."""
    for sentence in sentences:
        try:
            world.do(sentence)
        except ValueError as unknown:
            print(unknown, flush=True)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser("sim.hosts", description=__doc__)
    parser.add_argument("--boot-s", type=float, default=3.0, help="how long the simulated guests boot")
    given = parser.parse_args()
    settings, clock = config.load(), WallClock()
    logs.configure("WARNING")
    sessions = new_sessions(settings.database_url)
    world = World(clock, boot_s=given.boot_s, shutdown_s=given.boot_s / 4, lively=True)
    names = simulate(world, sessions)
    context, displays = any_host_of(settings, clock), Displays(world)
    for host_id, address, port, console_port in places(sessions):
        desk = cast(Desk, Reception(world.door(names[host_id])))
        HostServer(desk, address, port, context).start()
        Consoles(displays.port, address, console_port, context).start()
    sessions.kw["bind"].dispose()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=obey, args=(world, sys.stdin), daemon=True).start()
    print("READY", flush=True)
    stopping.wait()


if __name__ == "__main__":
    main()
