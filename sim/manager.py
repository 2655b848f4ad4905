"""The real manager, runner and loops, on simulated hosts in its own process: `python -m sim.manager`, settings from the
environment. Sentences for the world are read from its input."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from agent.consoles import Consoles
from assembly import COMMANDS, loops
from backend import config, garbage, logs
from backend import loops as loop_runner
from backend.ca import Authority
from backend.clock import WallClock
from backend.db import new_sessions
from backend.secrets import Keyring
from backend.tasks.runner import Runner
from sim.hosts import any_host_of, obey
from sim.rows import Machines, simulate
from sim.screens import Displays
from sim.world import World


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser("sim.manager", description=__doc__)
    parser.add_argument("--boot-s", type=float, default=0.0, help="how long the simulated guests boot")
    parser.add_argument("--launch-s", type=float, default=0.0, help="how long their start takes a host")
    parser.add_argument("--console-port", type=int, help="where gateways reach the displays (default: there are none)")
    parser.add_argument("--lively", action="store_true", help="hosts and VMs are busy, sometimes more, sometimes less")
    given = parser.parse_args()
    settings = config.load()
    logs.configure("WARNING")
    clock, keyring = WallClock(), Keyring(settings.secret_key())
    sessions = new_sessions(settings.database_url, settings.database_pool + settings.task_workers)
    world = World(clock, launch_s=given.launch_s, boot_s=given.boot_s, shutdown_s=given.boot_s / 4, lively=given.lively)
    doors = Machines(world, simulate(world, sessions))
    runner = Runner(sessions, COMMANDS, clock, doors, keyring.reveal)
    signal.signal(signal.SIGTERM, lambda *_: runner.stopping.set())
    authority = Authority.load(settings.hosts_ca_file, settings.hosts_ca_key_file)
    if given.console_port is not None:
        Consoles(Displays(world).port, "127.0.0.1", given.console_port, any_host_of(settings, clock)).start()
        threading.Thread(target=obey, args=(world, sys.stdin), daemon=True).start()
    runner.run(settings.task_workers)
    loop_runner.run(sessions, loops(doors, clock, keyring, authority), runner.stopping)
    garbage.look_seldom()
    print("READY", flush=True)
    runner.stopping.wait()


if __name__ == "__main__":
    main()
