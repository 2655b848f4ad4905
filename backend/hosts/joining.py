"""How hosts come in without being announced, or come in again: registered, approved or rejected, reinstalled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from backend.ca import key_of_request
from backend.changes import touch
from backend.clusters.commands import require_free_name
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.errors import Impossible, Invalid, TooMany
from backend.events import move, record
from backend.hosts.commands import ENROLL_WITHIN, require_reachable
from backend.hosts.machine import HOST
from backend.hosts.models import Host
from backend.tasks.command import Actor, Plain
from backend.vms.rules import require_name

MOST_PENDING = 50  # hosts that wait for approval; more of them nobody has asked for
PENDING_FOR = timedelta(days=7)
TOKEN_CHARACTERS = 32


@dataclass(frozen=True)
class Newcomer:
    """What an agent says of a host that nobody has announced. Its token is a secret of its own, to ask again by."""

    token: str
    csr: str
    address: str
    port: int
    console_port: int
    hostname: str
    cpus: int = 0
    memory_mib: int = 0
    virt_type: str = "qemu"


def fingerprint_of(csr: str) -> str:
    """SHA-256 of the request's public key, as people compare it: the agent prints the same."""
    der = key_of_request(csr).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def known(tx: Tx, token: str) -> bool:
    """Whether a host has this token already."""
    return tx.scalar(sa.select(Host.id).where(Host.enroll_hash == hashlib.sha256(token.encode()).digest())) is not None


def register(tx: Tx, new: Newcomer, now: datetime) -> Host:
    """Write the host down; it may do nothing before an administrator approves of it."""
    if len(new.token) < TOKEN_CHARACTERS:
        raise Invalid("bad_token", f"The agent's own token must have at least {TOKEN_CHARACTERS} characters.", fields=["token"])
    fingerprint = fingerprint_of(new.csr)
    require_reachable(new.address, new.port, new.console_port)
    require_name(new.hostname, "host")
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('host.register'))"))  # so that counting them is right
    if (tx.scalar(sa.select(sa.func.count()).where(Host.state == "pending_approval")) or 0) >= MOST_PENDING:
        raise TooMany("too_many_pending", "Too many hosts wait for approval: approve or reject some first.", retry_after_s=600)
    cluster = tx.scalars(sa.select(Cluster).order_by(Cluster.name)).first()
    if cluster is None:
        raise Impossible("no_cluster", "There is no cluster yet that a host could be in: make one first.")
    host = Host(
        name=_free_name(tx, new.hostname), cluster_id=cluster.id, state="pending_approval", address=new.address,
        port=new.port, console_port=new.console_port, enroll_hash=hashlib.sha256(new.token.encode()).digest(),
        enroll_until=now + PENDING_FOR, enroll_csr=new.csr, fingerprint=fingerprint, cpus=max(0, new.cpus),
        memory_mib=max(0, new.memory_mib), virt_type=new.virt_type if new.virt_type in ("kvm", "qemu") else "qemu",
    )  # fmt: skip
    tx.add(host)
    tx.flush()
    record(tx, "host.registered", host, address=new.address, fingerprint=fingerprint)
    touch(tx, "host", host.id)
    return host


def forget_stale(tx: Tx, now: datetime) -> None:
    """Those that nobody has approved for days are forgotten; announced ones whose agents did not come failed."""
    for host in tx.scalars(sa.select(Host).where(Host.state == "pending_approval", Host.enroll_until < now)):
        _forget(tx, host, "host.forgotten", "Leasehold")
    late = sa.select(Host).where(Host.state == "installing", Host.enroll_csr.is_(None), Host.enroll_until < now)
    for host in tx.scalars(late):
        move(tx, host, "install_failed", why="Its agent did not enroll within the hour. Reinstall it: that makes a new token.")


@dataclass(frozen=True)
class ApproveHost(Plain):
    """Take in a host that asks for it, after comparing its key's fingerprint with what its agent prints."""

    host_id: UUID
    cluster_id: UUID
    host_name: str | None = None
    name, permission = "host.approve", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Approve host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        get(tx, Cluster, self.cluster_id)
        HOST.next(host.state, "approve", host.name)
        if self.host_name and self.host_name != host.name:
            require_free_name(tx, Host, self.host_name, "host")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        cluster, name = get(tx, Cluster, self.cluster_id), self.host_name or host.name
        said = {"cluster": cluster.name, "actor_name": actor.name}
        move(tx, host, "approve", words=said, cluster_id=cluster.id, name=name)


@dataclass(frozen=True)
class RejectHost(Plain):
    """Forget a host that asks to be taken in."""

    host_id: UUID
    name, permission = "host.reject", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Reject host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        if host.state != "pending_approval":
            raise Impossible("wrong_state", f"Host {host.name} does not wait for approval.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        _forget(tx, get(tx, Host, self.host_id, lock=True), "host.rejected", actor.name)


@dataclass(frozen=True)
class ReinstallHost(Plain):
    """Let a host enroll anew within the hour, with the token whose SHA-256 is given: its certificate is worth nothing then."""

    host_id: UUID
    token_sha256: str
    name, permission = "host.reinstall", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Reinstall host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        HOST.next(host.state, "reinstall", host.name)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        host = get(tx, Host, self.host_id, lock=True)
        until = now + ENROLL_WITHIN
        move(
            tx, host, "reinstall", words={"until": f"{until:%H:%M} UTC"}, enroll_hash=bytes.fromhex(self.token_sha256),
            enroll_until=until, enroll_csr=None, certificate=None, why="", for_maintenance=False,
        )  # fmt: skip
        return {"id": str(host.id)}


def _forget(tx: Tx, host: Host, code: str, who: str) -> None:
    record(tx, code, host, actor=who)
    forget_permissions(tx, "host", host.id)
    touch(tx, "host", host.id)
    tx.delete(host)


def _free_name(tx: Tx, wanted: str) -> str:
    """The name that the host calls itself, or with a number when another one is called so."""
    taken = set(tx.scalars(sa.select(Host.name).where(Host.name.startswith(wanted[:55], autoescape=True))))
    names = (wanted, *(f"{wanted[:55]}-{n}" for n in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
