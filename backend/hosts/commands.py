"""Add, maintain, activate, remove a host."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.ca import key_of_request
from backend.changes import touch
from backend.clusters.commands import require_free_name
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.errors import Denied, Impossible, Invalid
from backend.events import move, record
from backend.hosts.evacuation import call_off, turn_away
from backend.hosts.machine import HOST
from backend.hosts.models import Host
from backend.storage.models import StorageDomain
from backend.tasks.command import Actor, Plain
from backend.vms.models import Vm

ENROLL_WITHIN = timedelta(hours=1)
_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")  # a DNS name, an IP address


def new_token() -> tuple[str, str]:
    """A one-time enrollment token (256 random bits) and the SHA-256 of it in hex, which is all that is kept."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class AddHost(Plain):
    """Announce a host: its agent may enroll within the hour with the token whose SHA-256 is given."""

    host_name: str
    cluster_id: UUID
    token_sha256: str
    name, permission = "host.create", "host.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Add host {self.host_name}"

    def check(self, tx: Tx) -> None:
        get(tx, Cluster, self.cluster_id)
        require_free_name(tx, Host, self.host_name, "host")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        host = Host(
            name=self.host_name,
            cluster_id=self.cluster_id,
            enroll_hash=bytes.fromhex(self.token_sha256),
            enroll_until=now + ENROLL_WITHIN,
            state=HOST.initial,
        )
        tx.add(host)
        tx.flush()
        record(tx, "host.added", host, actor=actor.name, until=f"{host.enroll_until:%H:%M} UTC")
        touch(tx, "host", host.id)
        return {"id": str(host.id)}


def ask_enrollment(tx: Tx, *, token: str, csr: str, address: str, port: int, console_port: int, now: datetime) -> Host:
    """Take an agent's signing request, once, for the host whose token it shows; the manager signs it."""
    digest = hashlib.sha256(token.encode()).digest()
    host = tx.scalars(sa.select(Host).where(Host.enroll_hash == digest).with_for_update()).first()
    if host is None or host.enroll_until is None or host.enroll_until < now:
        raise Denied("bad_token", "This enrollment token is unknown or has run out; make a new one with “leasehold host add”.")
    if host.enroll_csr is not None and host.enroll_csr != csr:
        raise Denied("token_used", "This enrollment token has been used already; make a new one with “leasehold host add”.")
    require_reachable(address, port, console_port)
    key_of_request(csr)
    if host.certificate is not None and (address, port, console_port) != (host.address, host.port, host.console_port):
        raise Denied("token_used", "This enrollment token has been used already; make a new one with “leasehold host add”.")
    host.enroll_csr, host.address, host.port, host.console_port = csr, address, port, console_port
    touch(tx, "host", host.id)
    return host


def require_reachable(address: str, port: int, console_port: int) -> None:
    """`Invalid` unless these can be an agent's address and ports."""
    if not (0 < port < 65536 and 0 < console_port < 65536):
        raise Invalid("bad_port", "port and console_port must lie between 1 and 65535.", fields=["port", "console_port"])
    if not _ADDRESS.fullmatch(address):
        raise Invalid("bad_address", "Say the name or the address by which the manager reaches this host.", fields=["address"])


def enrollment(tx: Tx, host_id: UUID, token: str) -> Host:
    """The host whose agent asks whether its certificate is there; it must show its token again."""
    host = tx.get(Host, host_id)
    if host is None or host.enroll_hash != hashlib.sha256(token.encode()).digest():
        raise Denied("bad_token", "This enrollment token does not belong to this enrollment.")
    return host


class _OnHost(Plain):
    host_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} host {get(tx, Host, self.host_id).name}"


@dataclass(frozen=True)
class MaintainHost(_OnHost):
    """Take no more VMs, and migrate those that are there; the host is in maintenance once its last VM is gone.
    Activating the host calls it off."""

    host_id: UUID
    name, permission = "host.maintenance", "host.edit"
    verb = "Maintain"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        move(tx, host, "maintain", for_maintenance=True)
        turn_away(tx, host, now)


@dataclass(frozen=True)
class ActivateHost(_OnHost):
    """Take VMs again; VMs that were to leave for its maintenance stay."""

    host_id: UUID
    name, permission = "host.activate", "host.edit"
    verb = "Activate"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        move(tx, host, "activate", for_maintenance=False, error_until=None, failed_vms=[])
        call_off(tx, host, now)


@dataclass(frozen=True)
class RemoveHost(_OnHost):
    """Forget a host that is in maintenance or never enrolled."""

    host_id: UUID
    name, permission = "host.remove", "host.remove"
    verb = "Remove"

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        if host.state not in ("maintenance", "installing", "install_failed"):
            raise Impossible("wrong_state", f"Host {host.name} is {host.state.replace('_', ' ')}; put it into maintenance first.")
        if tx.scalar(sa.select(sa.func.count()).where(Vm.host_id == host.id)):
            raise Impossible("host_has_vms", f"Host {host.name} still has VMs; stop or move them first.")
        if domain := tx.scalar(sa.select(StorageDomain.name).where(StorageDomain.host_id == host.id)):
            raise Impossible(
                "host_has_storage", f"Storage domain {domain} is a folder of host {host.name}; remove the domain first."
            )

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        record(tx, "host.removed", host, actor=actor.name)
        forget_permissions(tx, "host", host.id)
        touch(tx, "host", host.id)
        tx.execute(sa.text("UPDATE step SET host_id = NULL WHERE host_id = :id"), {"id": host.id})
        tx.delete(host)
