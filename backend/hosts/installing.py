"""Installs hosts over SSH (loop): takes every installation as far as it goes without waiting, and looks again two seconds
later. What takes long runs on the host by itself, so that neither the connection nor this manager need live as long."""

from __future__ import annotations

import base64
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx
from backend.events import move
from backend.hosts.commands import ENROLL_WITHIN
from backend.hosts.install_rules import STAGES, gives_up, stage_of
from backend.hosts.machine import HOST
from backend.hosts.models import Host, HostInstall
from backend.hosts.packages import Packages
from backend.hosts.restarting import own_key
from backend.hosts.ssh import Login, NoShell, Shell, presented, shell
from backend.secrets import Keyring
from backend.tasks.models import Task

AT_ONCE = 8
FOLDER = "/var/lib/leasehold-install"
PROGRAM = Path(__file__).with_name("install.sh")
# starts a job of the program unless it runs or has ended, and says how it stands: "running" or its exit code, then its last lines
JOB = """cd {folder} || exit 1
if [ -e {job}.rc ]; then cat {job}.rc
else
    pid=$(cat {job}.pid 2>/dev/null)
    if [ -z "$pid" ] || ! grep -q {folder} "/proc/$pid/cmdline" 2>/dev/null; then
        setsid sh -c 'sh {folder}/program {job} > {job}.log 2>&1; echo $? > {job}.new; mv {job}.new {job}.rc' \\
            < /dev/null > /dev/null 2>&1 &
        echo $! > {job}.pid
    fi
    echo running
fi
grep '^» ' {job}.log 2>/dev/null | tail -n 1
tail -n 20 {job}.log 2>/dev/null
exit 0
"""


@dataclass(frozen=True)
class Source:
    """What is put on a host: Leasehold's wheel, what it needs, the program that installs it, and how to find the manager."""

    packages: Packages
    url: str
    ca_pem: str
    requirements: bytes = b""
    program: bytes = PROGRAM.read_bytes()


@dataclass(frozen=True)
class Work:
    """An installation as it stands."""

    host_id: UUID
    name: str
    row: dict[str, str]
    ssh_port: int
    storage_roots: tuple[str, ...]
    done: int
    take_back: bool


@dataclass(frozen=True)
class Found:
    """How far it is now, and what is to be said of it."""

    host_id: UUID
    done: int
    message: str = ""
    presented: str = ""
    failure: tuple[str, str] = ("", "")
    taken_back: str = ""


class Installer:
    """One round takes all installations further, beside each other."""

    name, every_s = "install", 2.0

    def __init__(self, source: Source, keyring: Keyring, clock: Clock) -> None:
        self.source, self.keyring, self.clock = source, keyring, clock

    def read(self, tx: Tx) -> list[Work]:
        rows = sa.select(HostInstall, Host.name, Task.undoing).join(Host, Host.id == HostInstall.host_id)
        rows = rows.join(Task, Task.id == HostInstall.task_id).where(Task.state.in_(("queued", "running")))
        unknown = sa.and_(HostInstall.fingerprint == "", HostInstall.presented != "")  # somebody is to confirm its key
        to_do = sa.and_(~Task.undoing, HostInstall.failure == "", HostInstall.done < len(STAGES), ~unknown)
        to_undo = sa.and_(Task.undoing, HostInstall.taken_back == "", HostInstall.done >= 2, Host.certificate.is_(None))
        found = []
        for row, name, undoing in tx.execute(rows.where(sa.or_(to_do, to_undo))):
            words = ("address", "username", "password_sealed", "private_key_sealed", "fingerprint")
            given, roots = {word: getattr(row, word) for word in words}, tuple(row.storage_roots)
            found.append(Work(row.host_id, name, given, row.ssh_port, roots, row.done, undoing))
        return found

    def gather(self, wanted: list[Work]) -> list[Found]:
        if not wanted:
            return []
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="install") as threads:
            return list(threads.map(self._further, wanted))

    def apply(self, tx: Tx, found: list[Found]) -> None:
        now = self.clock.now()
        _forget_ended(tx)
        for one in found:
            host = tx.get(Host, one.host_id, with_for_update=True, populate_existing=True)  # who writes the row holds this
            row = tx.get(HostInstall, one.host_id, populate_existing=True)
            if row is None or host is None:
                continue
            code, sentence = one.failure
            if code and gives_up(code, row.done, now - row.heard_at):
                row.failure_code, row.failure = code, sentence
            if not code and not one.presented or row.done != one.done:
                row.heard_at = now
            row.done, row.message, row.taken_back = max(row.done, one.done), sentence or one.message, one.taken_back
            row.presented = one.presented or row.presented
            if one.taken_back:
                host.enroll_hash, host.enroll_csr = None, None
            elif row.done >= stage_of("copy") and host.enroll_hash is None:
                host.enroll_hash = sha256(self._token(host.id).encode()).digest()
                host.enroll_until = now + 2 * ENROLL_WITHIN
            if one.presented:
                row.heard_at, host.why = now, one.message
            touch(tx, "host", host.id)

    # -- on the host -----------------------------------------------------------------------------
    def _further(self, work: Work) -> Found:
        found = Found(work.host_id, work.done)
        try:
            login = self._login(work)
            if not login.fingerprint:
                key = presented(login.address, login.port)
                return replace(found, presented=key, message=f"The host presents the SSH key {key}. Compare it with what "
                               "“ssh-keygen -lf” shows at the host itself, then confirm it.")  # fmt: skip
            with shell(login) as host:
                if work.take_back:
                    return replace(found, taken_back=self._take_back(host))
                for number, stage in enumerate(STAGES[work.done :], work.done + 1):
                    waits = getattr(self, f"_{stage}")(host, work)
                    if waits is not None:
                        return replace(found, message=waits)
                    found = replace(found, done=number)
                    if stage == "copy":
                        break  # its token is written down before anything can enroll with it
        except NoShell as no:
            if work.take_back:
                return replace(found, taken_back=f"Nothing could be taken back on the host: {no}")
            return replace(found, failure=(no.code, str(no)))
        return found

    def _login(self, work: Work) -> Login:
        def open_(sealed: str) -> str:
            return self.keyring.unseal(sealed) if sealed else ""

        row = work.row
        return Login(row["address"], work.ssh_port, row["username"], row["fingerprint"], open_(row["password_sealed"]),
                     open_(row["private_key_sealed"]))  # fmt: skip

    def _token(self, host_id: UUID) -> str:
        """The one-time token of the host: it stands nowhere, and is the same whichever manager goes on."""
        return base64.urlsafe_b64encode(self.keyring.mac("host install", host_id.bytes)).decode().rstrip("=")

    def _connect(self, host: Shell, work: Work) -> None:
        host.as_root("true")

    def _look(self, host: Shell, work: Work) -> None:
        if not self.source.ca_pem or not self.source.packages.wheel[0]:
            sentence = "The manager lacks what a host is installed with: see its settings agent_package and ca_file."
            raise NoShell("no_source", sentence)
        said = host.as_root("sh -s check", self.source.program)
        if said.code:
            raise NoShell("unfit", _last(said.out) or _last(said.err) or "The host cannot be installed.")

    def _copy(self, host: Shell, work: Work) -> None:
        wheel, content = self.source.packages.wheel
        said = host.as_root(f"sh -c 'umask 077; mkdir -p {FOLDER} && rm -f {FOLDER}/*'")
        settings = {"NAME": work.name, "ADDRESS": work.row["address"], "MANAGER": self.source.url, "WHEEL": wheel,
                    "STORAGE": " ".join(work.storage_roots), "RESTART_KEY": own_key(self.keyring).public}  # fmt: skip
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        files = {wheel: content, "program": self.source.program, "settings": lines.encode(),
                 "ca.pem": self.source.ca_pem.encode(), "token": self._token(work.host_id).encode()}  # fmt: skip
        if self.source.requirements:
            files["requirements.txt"] = self.source.requirements
        for name, bytes_ in files.items():
            if said.code == 0:
                said = host.as_root(f"sh -c 'umask 077; cat > {FOLDER}/{name}'", bytes_, within_s=300)
        if said.code:
            raise NoShell("not_copied", f"The package could not be copied to the host: {_last(said.err)}")

    def _install(self, host: Shell, work: Work) -> str | None:
        return self._job(host, "install")

    def _enroll(self, host: Shell, work: Work) -> str | None:
        waits = self._job(host, "enroll")
        if waits is None:  # how the jobs ended stays: a manager that is killed now finds it done
            host.as_root(f"sh -c 'cd {FOLDER} && rm -f token settings ca.pem requirements.txt *.whl'")
        return waits

    def _job(self, host: Shell, job: str) -> str | None:
        said = host.as_root("sh -s", JOB.format(folder=FOLDER, job=job).encode())
        stands, _, log = said.out.partition("\n")
        if stands == "running":
            return _last("\n".join(line for line in log.splitlines() if line.startswith("» "))).removeprefix("» ") or "Begins."
        if stands != "0":
            raise NoShell(f"{job}_failed", f"The program that installs the host ended with {stands or said.code}: {_last(log)}")
        return None

    def _take_back(self, host: Shell) -> str:
        said = host.as_root("sh -s remove", self.source.program, within_s=300)
        return _last(said.out) or f"Not everything could be taken back on the host: {_last(said.err)}"


def _forget_ended(tx: Tx) -> None:
    """A task that was cancelled before it began has no last words; its secrets are forgotten all the same."""
    live = sa.select(Task.id).where(Task.state.in_(("queued", "running")))
    for row in tx.scalars(sa.select(HostInstall).where(HostInstall.task_id.not_in(live))):
        host = tx.get_one(Host, row.host_id, with_for_update=True, populate_existing=True)
        if HOST.may(host.state, "install_failed"):
            move(tx, host, "install_failed", why="The installation was cancelled before it began.")
        tx.delete(row)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


