"""Host process root: enroll this host, run its agent, or probe KVM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path

from agent import config as settings
from agent.config import AgentConfig
from agent.consoles import Consoles
from agent.enroll import (
    CA,
    CERTIFICATE,
    KEY,
    EnrollFailed,
    Offer,
    enroll,
    own_address,
    trust_file,
    trust_fingerprint,
)
from agent.probe import kvm_works
from agent.service import AgentService
from agent.stats import sample_host
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.server import HostServer
from hostapi.tls import server_context

ANSWER_S = 2.0
STATE = Path("/var/lib/leasehold-agent")
log = logging.getLogger("agent")


class Agent:
    """All parts of a running agent, put together."""

    def __init__(self, state: Path) -> None:
        self.config = settings.load(state)
        self._files = [state / name for name in (CA, CERTIFICATE, KEY)]
        for file in self._files:
            if not file.exists():
                raise ValueError(f"{file} is not there: enroll this host first (leasehold-agent enroll).")
        self.again = threading.Event()  # another version is installed: this process is to make room for it
        self.service = AgentService(self.config, state, self._certified, self.again.set)
        self.journal = Journal(state / "journal.sqlite3")
        self.desk = Desk(self.service, self.journal)
        listen = self.config.listen
        self.server = HostServer(self.desk, listen, self.config.port, server_context(*self._files))
        enter = self.service.arriving.gates.enter
        self.consoles = Consoles(
            self.service.display_port, listen, self.config.console_port, server_context(*self._files), enter
        )

    def start(self) -> None:
        """Answer managers and gateways."""
        self.server.start()
        self.consoles.start()
        log.info(
            "agent %s serves %s on port %s, consoles on port %s",
            self.config.name,
            self.config.libvirt_uri,
            self.server.port,
            self.consoles.port,
        )

    def _certified(self) -> None:
        """Whoever comes from now on meets the certificate that is in the state folder now; those who are there stay."""
        self.server.ssl_context = self.consoles.ssl_context = server_context(*self._files)

    def stop(self) -> None:
        """Stop answering; VMs run on, and steps that were being done will be asked again."""
        self.consoles.stop()
        self.desk.close()
        self.server.stop()
        self.journal.close()


def main() -> None:
    """The command `leasehold-agent`."""
    wanted = _arguments().parse_args()
    logging.basicConfig(level=wanted.log.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        code: int = wanted.do(wanted)
    except (ValueError, EnrollFailed, OSError) as no:
        sys.exit(f"leasehold-agent: {no}")
    sys.exit(code)


def run(wanted: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    agent = Agent(wanted.state)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.start()
    print("READY", flush=True)
    while not stop.wait(1.0) and not agent.again.is_set():
        pass
    if agent.again.is_set():
        stop.wait(ANSWER_S)  # so that whoever asked for the upgrade hears that it is done
    agent.stop()
    if agent.again.is_set() and not stop.is_set():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # the same process, so that what watches it sees no end
    return 0


def enroll_host(wanted: argparse.Namespace) -> int:
    """Get a certificate, and write the settings."""
    state: Path = wanted.state
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    virt_type = wanted.virt_type
    if virt_type == "auto":
        proof = kvm_works(*_own_kernel())
        virt_type = "kvm" if proof.works else "qemu"
        print(f"{proof.why} VMs of this host run with {'KVM' if proof.works else 'emulation'}.")
    hostname = wanted.name or socket.gethostname()
    config = AgentConfig(
        name=hostname,
        libvirt_uri=wanted.libvirt_uri,
        listen=wanted.listen,
        port=wanted.port,
        console_port=wanted.console_port,
        storage_roots=tuple(str(Path(root).absolute()) for root in wanted.storage_root),
        virt_type=virt_type,
        upgrade=wanted.upgrade,
        migrate_unsafe=wanted.migrate_unsafe,
    )
    address = wanted.address or own_address(wanted.manager)
    sample = sample_host()
    facts = {"cpus": sample.cpus, "memory_mib": sample.memory_mib, "virt_type": virt_type}
    token = wanted.token_file.read_text().strip() if wanted.token_file else wanted.token
    offer = Offer(token, address, config.port, config.console_port, hostname, facts)
    enroll(state, wanted.manager, offer, _trust(wanted), patience_s=wanted.wait, say=print)
    settings.save(state, config)
    print(f"Enrolled as {hostname} at {address}:{config.port}. Start it: leasehold-agent run --state {state}")
    return 0


def probe(wanted: argparse.Namespace) -> int:
    """Say whether KVM works; exit code 0 when it does, 1 when not."""
    proof = kvm_works(wanted.kernel, wanted.initrd)
    print(proof.why)
    return 0 if proof.works else 1


def _trust(wanted: argparse.Namespace) -> ssl.SSLContext:
    if wanted.ca_file:
        return trust_file(wanted.ca_file)
    return trust_fingerprint(wanted.manager, wanted.ca_sha256)


def _own_kernel() -> tuple[Path | None, None]:
    """The newest kernel installed here, if any: good enough to see whether Linux boots under KVM."""
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    return (kernels[-1] if kernels else None), None


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="leasehold-agent", description="Leasehold's agent on a host.")
    parser.add_argument("--log", default="info", choices=("debug", "info", "warning", "error"))
    verbs = parser.add_subparsers(required=True)

    one = verbs.add_parser("run", help="serve the manager until told to stop")
    one.add_argument("--state", type=Path, default=STATE, help="the agent's folder")
    one.set_defaults(do=run)

    one = verbs.add_parser("enroll", help="make this host known to a manager")
    one.add_argument("--manager", required=True, help="the manager's address, https://…")
    told = one.add_mutually_exclusive_group()
    told.add_argument("--token", default="", help="as the manager showed it (without: an administrator must approve)")
    told.add_argument("--token-file", type=Path, help="a file that holds it, so that no process list shows it")
    trust = one.add_mutually_exclusive_group(required=True)
    trust.add_argument("--ca-file", type=Path, help="the CA certificate that the manager's is signed by")
    trust.add_argument(
        "--ca-sha256", metavar="HEX", help="that CA certificate's SHA-256, as the manager showed it"
    )
    one.add_argument("--state", type=Path, default=STATE, help="the agent's folder")
    one.add_argument("--name", help="this host's name (default: its host name)")
    one.add_argument("--address", help="where the manager reaches this host (default: found out)")
    one.add_argument("--listen", default="0.0.0.0", help="the address to listen on")
    one.add_argument("--port", type=int, default=7443, help="for managers")
    one.add_argument("--console-port", type=int, default=7444, help="for gateways")
    one.add_argument("--libvirt-uri", default="qemu:///system")
    one.add_argument(
        "--storage-root", action="append", default=[], help="a folder that may hold storage; repeat it"
    )
    one.add_argument("--upgrade", default="", metavar="PROGRAM", help="that installs the wheel it is given; root's alone")
    one.add_argument("--virt-type", choices=("auto", "kvm", "qemu"), default="auto")
    one.add_argument(
        "--migrate-unsafe", action="store_true",
        help="migrate VMs even where libvirt does not know the file system as shared; only where it certainly is",
    )  # fmt: skip
    one.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="for approval and the manager's signature"
    )
    one.set_defaults(do=enroll_host)

    one = verbs.add_parser("probe", help="try whether KVM really runs guests here")
    one.add_argument("--kernel", type=Path)
    one.add_argument("--initrd", type=Path)
    one.set_defaults(do=probe)
    return parser


if __name__ == "__main__":
    main()
