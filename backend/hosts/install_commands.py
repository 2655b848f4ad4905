"""Install a host over SSH: announce it and write down how to get in; the task that follows it until it is up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from backend.changes import touch
from backend.clusters.commands import require_free_name
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.hosts.commands import require_reachable
from backend.hosts.install_rules import CONFIRM_WITHIN, STAGES, require_fingerprint, require_folders, stage_of
from backend.hosts.machine import HOST
from backend.hosts.models import Host, HostInstall
from backend.hosts.packages import package
from backend.tasks.command import Actor, Job, Later, Plain
from backend.tasks.submit import submit

UP_WITHIN = timedelta(minutes=5)


@dataclass(frozen=True)
class InstallHost(Plain):
    """Install a host over SSH and take it in. Without the SHA-256 fingerprint of its SSH key it is asked for that first,
    and nothing is done there before somebody has confirmed it. Give a password (sudo's as well) or a private key."""

    host_name: str
    cluster_id: UUID
    address: str
    ssh_port: int = 22
    username: str = "root"
    password_sealed: str = ""
    private_key_sealed: str = ""
    fingerprint: str = ""
    storage_roots: tuple[str, ...] = ()
    name, permission = "host.install", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def locks(self, tx: Tx) -> list[str]:
        return []

    def title(self, tx: Tx) -> str:
        return f"Begin to install host {self.host_name} over SSH"

    def check(self, tx: Tx) -> None:
        get(tx, Cluster, self.cluster_id)
        require_free_name(tx, Host, self.host_name, "host")
        if not 0 < self.ssh_port < 65536:
            raise Invalid("bad_port", "The SSH port must lie between 1 and 65535.", fields=["ssh_port"])
        require_reachable(self.address, self.ssh_port, self.ssh_port)
        if self.fingerprint:
            require_fingerprint(self.fingerprint)
        require_folders(self.storage_roots)
        if not self.username:
            sentence = "Say as whom to sign on: root, or a user whom sudo lets run every command."
            raise Invalid("no_user", sentence, fields=["username"])
        if bool(self.password_sealed) == bool(self.private_key_sealed):
            fields = ["password_sealed", "private_key_sealed"]
            raise Invalid("no_login", "Give either a password or a private key.", fields=fields)
        package(tx)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        host = Host(name=self.host_name, cluster_id=self.cluster_id, state=HOST.initial, address=self.address)
        tx.add(host)
        tx.flush()
        row = HostInstall(
            host_id=host.id, address=self.address, ssh_port=self.ssh_port, username=self.username, heard_at=now,
            password_sealed=self.password_sealed, private_key_sealed=self.private_key_sealed, fingerprint=self.fingerprint,
            storage_roots=list(self.storage_roots),
        )  # fmt: skip
        tx.add(row)
        tx.flush()
        record(tx, "host.install", host, actor=actor.name, address=f"{self.address}:{self.ssh_port}")
        touch(tx, "host", host.id)
        row.task_id = submit(tx, FollowInstall(host.id), actor, now).id
        return {"id": str(host.id), "task": str(row.task_id)}


@dataclass(frozen=True)
class ConfirmKey(Plain):
    """Say that the host's SSH key is the one with this SHA-256 fingerprint: you have read it at the host itself. Only then
    is the host signed on to."""

    host_id: UUID
    fingerprint: str
    name, permission = "host.confirm_key", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def locks(self, tx: Tx) -> list[str]:
        return []  # the installation itself holds the host

    def title(self, tx: Tx) -> str:
        return f"Confirm the SSH key of host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        row, host = tx.get(HostInstall, self.host_id), get(tx, Host, self.host_id)
        require_fingerprint(self.fingerprint)
        if row is None or row.fingerprint or not row.presented:
            raise Impossible("not_asked", f"Nobody asks for the SSH key of host {host.name}.")
        if self.fingerprint != row.presented:
            sentence = f"Host {host.name} presents the key {row.presented}, not {self.fingerprint}."
            raise Invalid("wrong_host_key", f"{sentence} Do not install it before you know why.", fields=["fingerprint"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host, row = get(tx, Host, self.host_id, lock=True), _row(tx, self.host_id)
        row.fingerprint, host.why = self.fingerprint, ""
        record(tx, "host.key_confirmed", host, actor=actor.name, fingerprint=self.fingerprint)
        touch(tx, "host", host.id)


@dataclass(frozen=True)
class FollowInstall(Plain):
    """Follow the installation of a host until it is up; `Installer` does what is to be done on it."""

    host_id: UUID
    name, permission, no_return = "hostinstall.follow", "host.create", "enroll"
    steps = (*STAGES, "answer")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Install host {get(tx, Host, self.host_id).name} over SSH"

    def connect(self, tx: Tx, job: Job) -> None:
        """Until the host has proved its key and let us in as root."""
        row = _row(tx, self.host_id)
        if row.presented and not row.fingerprint and job.now - row.heard_at > CONFIRM_WITHIN:
            raise Impossible("not_confirmed", "Nobody has confirmed the host’s key within the hour.")
        _wait(row, "connect")

    def look(self, tx: Tx, job: Job) -> None:
        """Until it is known that it can be installed."""
        _wait(_row(tx, self.host_id), "look")

    def copy(self, tx: Tx, job: Job) -> None:
        """Until the package is there."""
        _wait(_row(tx, self.host_id), "copy")

    def install(self, tx: Tx, job: Job) -> None:
        """Until the installation program has ended."""
        _wait(_row(tx, self.host_id), "install")

    def enroll(self, tx: Tx, job: Job) -> None:
        """Until the agent has its certificate and runs."""
        _wait(_row(tx, self.host_id), "enroll")

    def answer(self, tx: Tx, job: Job) -> None:
        """Until the host has answered the manager."""
        host, row = get(tx, Host, self.host_id), _row(tx, self.host_id)
        if host.state == "install_failed":
            raise Impossible("not_enrolled", host.why)
        if host.state not in ("installing", "connecting", "non_responsive"):
            return
        if job.now - row.heard_at > UP_WITHIN:
            where = f"{host.address}:{host.port}"
            sentence = f"The agent is installed and enrolled, but does not answer the manager at {where}."
            raise Impossible("no_answer", f"{sentence} Open that port, and look at its log.")
        raise Later("Waits until the agent answers.")

    def look_undo(self, tx: Tx, job: Job) -> None:
        """The host is as it was before, as far as that can be, unless its agent is enrolled: then that stays."""
        row, host = _row(tx, self.host_id), get(tx, Host, self.host_id)
        if not row.taken_back and host.certificate is None:
            raise Later("Takes back what was done on the host.")

    def ended(self, tx: Tx, job: Job, state: str) -> None:
        row, host = _row(tx, self.host_id), get(tx, Host, self.host_id, lock=True)
        if row.done >= stage_of("enroll"):
            host.ssh_port, host.ssh_fingerprint = row.ssh_port, row.fingerprint
        if state != "succeeded" and HOST.may(host.state, "install_failed"):
            why = "The installation was cancelled." if state == "cancelled" else row.failure or "It failed; see its task."
            move(tx, host, "install_failed", why=f"{why} {row.taken_back}".strip())
        tx.delete(row)  # and with it the password


def _row(tx: Tx, host_id: UUID) -> HostInstall:
    row = tx.get(HostInstall, host_id, populate_existing=True)
    if row is None:
        raise Impossible("no_install", "This host is not being installed any more.")
    return row


def _wait(row: HostInstall, stage: str) -> None:
    if row.done >= stage_of(stage):
        return
    if row.failure:
        raise Impossible(row.failure_code, row.failure)
    raise Later(row.message or "Begins in a moment.")
