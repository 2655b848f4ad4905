"""Background process root: settings, sessions, the task runner and every loop; and `init`, a new installation's first rows."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog

from assembly import COMMANDS, loops
from backend import config, logs
from backend import loops as loop_runner
from backend.bootstrap import bootstrap
from backend.ca import Authority
from backend.clock import WallClock
from backend.db import new_sessions
from backend.schema import migrate
from backend.secrets import Keyring
from backend.tasks.runner import Runner
from hostapi.client import HostClient, client_context

log = structlog.get_logger("manager")


def host_doors(context: ssl.SSLContext) -> Callable[[UUID, str, int], HostClient]:
    """The door of each host, kept so that its connections are used again; a new address makes a new one."""
    doors: dict[tuple[UUID, str, int], HostClient] = {}
    lock = threading.Lock()

    def door(host_id: UUID, address: str, port: int) -> HostClient:
        with lock:
            return doors.setdefault((host_id, address, port), HostClient(address, port, context))

    return door


def run(settings: config.Settings) -> None:
    """Run until SIGTERM or SIGINT. Killed at any instant, it loses nothing: all work is in rows."""
    logs.configure(settings.log_level)
    migrate(settings.database_url)
    clock, keyring = WallClock(), Keyring(settings.secret_key())
    sessions = new_sessions(settings.database_url, settings.database_pool + settings.task_workers)
    doors = host_doors(client_context(settings.ca_file, settings.client_cert_file, settings.client_key_file))
    authority = Authority.load(settings.ca_file, settings.ca_key_file)
    runner = Runner(sessions, COMMANDS, clock, doors, keyring.reveal)
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: runner.stopping.set())
    threads = [
        *runner.run(settings.task_workers),
        *loop_runner.run(sessions, loops(doors, clock, keyring, authority), runner.stopping),
    ]
    log.info("manager runs", workers=settings.task_workers)
    runner.stopping.wait()
    for thread in threads:
        thread.join(timeout=5)
    sessions.kw["bind"].dispose()


def main(argv: list[str] | None = None) -> None:
    """`leasehold-managerd`: run; `leasehold-managerd init --admin-password-file F`: schema and first administrator."""
    parser = argparse.ArgumentParser("leasehold-managerd", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="run the task runner and the loops (default)")
    init = commands.add_parser("init", help="bring the schema up to date and create the first administrator")
    init.add_argument("--admin", default="admin", help="the administrator's name (default: admin)")
    init.add_argument("--admin-password-file", type=Path, required=True, help="a file that holds the password")
    given = parser.parse_args(argv)
    settings = config.load()
    if given.command == "init":
        migrate(settings.database_url)
        print(
            bootstrap(
                new_sessions(settings.database_url), WallClock(), given.admin, given.admin_password_file.read_text().strip()
            )
        )
    else:
        run(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
