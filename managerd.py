"""Background process root: settings, sessions, the task runner and every loop; and `init`, a new installation's first rows."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
import structlog

from assembly import COMMANDS, loops
from backend import config, garbage, logs
from backend import loops as loop_runner
from backend.bootstrap import bootstrap
from backend.ca import Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import is_silent, new_sessions
from backend.hosts.installing import PROGRAM, Installer, Source
from backend.hosts.packages import Packages
from backend.hosts.restarting import AgentRestarts
from backend.schema import migrate
from backend.secrets import Keyring
from backend.tasks.runner import Runner
from hostapi.client import client_context
from hostapi.doors import Doors, host_doors

log = structlog.get_logger("manager")
KEPT = 2  # so much more, twice over: the listener's connection, and those that hold locks
DATABASE_S = 60  # a database that does not answer is waited for so long when the manager starts
HOSTS_CA_MADE = """In {folder} are now the hosts' CA and its certificates, good for 398 days. Settings:
  hosts_ca_file = "{folder}/hosts-ca.pem"                 (manager, gateway, web)
  hosts_ca_key_file = "{folder}/hosts-ca-key.pem"         (manager alone)
  client_cert_file, client_key_file = manager.pem, manager-key.pem; for the gateway gateway.pem, gateway-key.pem,
  for web (to upload and download disks) portal.pem, portal-key.pem"""


def earlier_doors(settings: config.Settings, clock: WallClock) -> Doors | None:
    """How hosts are reached that enrolled when the CA behind the portal signed hosts too: with a certificate of that CA,
    known by their address. None without its key: then there are no such hosts any more."""
    if not settings.ca_key_file:
        return None
    key, certificate = Authority.load(settings.ca_file, settings.ca_key_file).issue(
        "manager", "manager", ["manager"], clock.now()
    )
    with tempfile.TemporaryDirectory() as name:
        key_file, cert_file = Path(name) / "key.pem", Path(name) / "cert.pem"
        write_private(key_file, key.encode())
        cert_file.write_text(certificate)
        return host_doors(client_context(settings.ca_file, cert_file, key_file), by_id=False)


def _bring_up_to_date(settings: config.Settings) -> None:
    """The schema; a database that is about to come back is waited for."""
    end = time.monotonic() + DATABASE_S
    while True:
        try:
            migrate(settings.database_url)
            return
        except sa.exc.DBAPIError as error:
            if not is_silent(error):
                raise
            why = str(error.orig).strip()
            if time.monotonic() > end:
                raise SystemExit(f"The database does not answer; see the setting database_url: {why}") from error
            log.warning("the database does not answer; trying again", during="start", why=why)
            time.sleep(1)


def _installer(settings: config.Settings, packages: Packages, keyring: Keyring, clock: WallClock) -> Installer:
    """What installs hosts over SSH, with what the settings name."""
    try:
        ca = Path(settings.ca_file).read_text() if settings.ca_file else ""
        needs = Path(settings.agent_requirements).read_bytes() if settings.agent_requirements else b""
        program = Path(settings.agent_installer or PROGRAM).read_bytes()
    except OSError as no:
        raise SystemExit(f"A file that hosts are installed with cannot be read: {no}.") from no
    return Installer(Source(packages, settings.public_url, ca, needs, program), keyring, clock)


def run(settings: config.Settings) -> None:
    """Run until SIGTERM or SIGINT. Killed at any instant, it loses nothing: all work is in rows."""
    logs.configure(settings.log_level)
    _bring_up_to_date(settings)
    clock, keyring = WallClock(), Keyring(settings.secret_key())
    sessions = new_sessions(settings.database_url, KEPT + settings.database_pool + settings.task_workers)
    doors = host_doors(client_context(settings.hosts_ca(), settings.client_cert_file, settings.client_key_file))
    authority = Authority.load(settings.hosts_ca(), settings.hosts_ca_key_file)
    packages = Packages(settings.agent_package)
    runner = Runner(sessions, COMMANDS, clock, doors, packages.reveal(keyring.reveal))
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: runner.stopping.set())
    threads = [
        *runner.run(settings.task_workers),
        *loop_runner.run(sessions, loops(doors, clock, keyring, authority, earlier_doors(settings, clock),
                                         quiet_s=settings.fence_quiet_s, soft=AgentRestarts(keyring), packages=packages,
                                         installer=_installer(settings, packages, keyring, clock)), runner.stopping),
    ]
    garbage.look_seldom()
    log.info("manager runs", workers=settings.task_workers)
    runner.stopping.wait()
    for thread in threads:
        thread.join(timeout=5)
    sessions.kw["bind"].dispose()


def main(argv: list[str] | None = None) -> None:
    """`leasehold-managerd`: run; `… init --admin-password-file F`: schema and first administrator; `… hosts-ca --folder D`:
    the hosts' CA and the certificates by which manager and gateway show themselves to hosts."""
    parser = argparse.ArgumentParser("leasehold-managerd", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="run the task runner and the loops (default)")
    init = commands.add_parser("init", help="bring the schema up to date and create the first administrator")
    init.add_argument("--admin", default="admin", help="the administrator's name (default: admin)")
    init.add_argument("--admin-password-file", type=Path, required=True, help="a file that holds the password")
    made = commands.add_parser("hosts-ca", help="make the hosts' CA, or new certificates of it for manager and gateway")
    made.add_argument("--folder", type=Path, required=True, help="where the files are, or are to be")
    given = parser.parse_args(argv)
    if given.command == "hosts-ca":
        given.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep_hosts_authority(given.folder, WallClock().now())
        print(HOSTS_CA_MADE.format(folder=given.folder.absolute()))
        return
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
