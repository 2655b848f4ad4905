"""Power agents; a cluster's fencing policy; a VM's availability; a host that says that its kernel crashed.

The password of a power agent comes sealed (`Keyring.seal`): whoever builds the command seals it first, for a command's
fields are written into its task's row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.ha.models import Outage, PowerAgent, PowerKindRow
from backend.hosts.models import Host
from backend.tasks.command import Actor, Plain
from backend.vms.models import Vm
from backend.vms.rules import require_availability
from hostapi.power import TYPE, may_be_set

_OPTION = re.compile(r"([A-Za-z0-9_-]{1,40})=([^\x00-\x1f]{0,200})")
_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")


class _OfHost(Plain):
    host_id: UUID

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id


class _OfAgent(Plain):
    poweragent_id: UUID

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", _agent(tx, self.poweragent_id).host_id

    def locks(self, tx: Tx) -> list[str]:
        return [f"poweragent:{self.poweragent_id}"]


@dataclass(frozen=True)
class AddPowerAgent(_OfHost):
    """Tell how a host's power is switched. Agents of one number belong together: the host is off when all of them say so;
    the next number is tried when the one before fails."""

    host_id: UUID
    type: str
    address: str
    port: int = 0
    username: str = ""
    password_sealed: str = ""
    options: tuple[str, ...] = ()  # plug=3
    encrypt: bool = True
    order: int = 1
    name, permission = "host.add_power_agent", "host.fence"

    def title(self, tx: Tx) -> str:
        return f"Add a power agent to host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        get(tx, Host, self.host_id)
        _check(tx, self.type, self.address, self.port, self.username, self.order, self.options)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        host = get(tx, Host, self.host_id, lock=True)
        agent = PowerAgent(
            host_id=host.id, type=self.type, address=self.address, port=self.port, username=self.username,
            password_sealed=self.password_sealed, options=_options(self.options), encrypt=self.encrypt, order=self.order,
        )  # fmt: skip
        tx.add(agent)
        tx.flush()
        record(tx, "host.power_agent_added", host, actor=actor.name, agent=agent.name)
        _touch(tx, agent)
        return {"id": str(agent.id)}


@dataclass(frozen=True)
class EditPowerAgent(_OfAgent):
    """Change how a host's power is switched; what is None stays as it is. The password goes to no other address than it was
    given for: then it must be given again."""

    poweragent_id: UUID
    type: str | None = None
    address: str | None = None
    port: int | None = None
    username: str | None = None
    password_sealed: str | None = None
    options: tuple[str, ...] | None = None
    encrypt: bool | None = None
    order: int | None = None
    name, permission = "poweragent.edit", "host.fence"

    def title(self, tx: Tx) -> str:
        return f"Edit the power agent {_agent(tx, self.poweragent_id).name}"

    def check(self, tx: Tx) -> None:
        agent = _agent(tx, self.poweragent_id)
        after = {f.name: getattr(agent, f.name) for f in fields(self) if hasattr(agent, f.name)} | self._given()
        _check(tx, after["type"], after["address"], after["port"], after["username"], after["order"], self.options or ())
        elsewhere = any(after[name] != getattr(agent, name) for name in ("type", "address", "port"))
        if elsewhere and agent.password_sealed and self.password_sealed is None:
            raise Invalid("password_needed", "Give the password again: it would go to another device than it was given for.",
                          fields=["password"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        agent = _agent(tx, self.poweragent_id)
        for name, value in self._given().items():
            setattr(agent, name, value)
        record(tx, "host.power_agent_edited", get(tx, Host, agent.host_id), actor=actor.name, agent=agent.name)
        _touch(tx, agent)

    def _given(self) -> dict[str, Any]:
        names = [f.name for f in fields(self) if f.name != "poweragent_id"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return given | ({"options": _options(self.options)} if self.options is not None else {})


@dataclass(frozen=True)
class RemovePowerAgent(_OfAgent):
    """Forget a power agent."""

    poweragent_id: UUID
    name, permission = "poweragent.remove", "host.fence"

    def title(self, tx: Tx) -> str:
        return f"Remove the power agent {_agent(tx, self.poweragent_id).name}"

    def check(self, tx: Tx) -> None:
        _agent(tx, self.poweragent_id)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        agent = _agent(tx, self.poweragent_id)
        record(tx, "host.power_agent_removed", get(tx, Host, agent.host_id), actor=actor.name, agent=agent.name)
        _touch(tx, agent)
        tx.delete(agent)


@dataclass(frozen=True)
class ReportDump(_OfHost):
    """A host's kernel has crashed and writes down why: it is not fenced for as long as its cluster says."""

    host_id: UUID
    name, permission = "host.dumping", "host.fence"

    def title(self, tx: Tx) -> str:
        return f"Host {get(tx, Host, self.host_id).name} writes down why its kernel crashed"

    def locks(self, tx: Tx) -> list[str]:
        return []

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        wait_s = get(tx, Cluster, host.cluster_id).fencing_kdump_wait_s
        outage = tx.get(Outage, host.id)
        if outage is None:
            outage = Outage(host_id=host.id, since=host.reported_at or now)
            tx.add(outage)
        outage.dumping_until = now + timedelta(seconds=wait_s)
        record(tx, "host.dumping", host, seconds=wait_s)


@dataclass(frozen=True)
class EditAvailability(Plain):
    """Say whether a VM runs again elsewhere when its host dies, and who is started first; what is None stays as it is."""

    vm_id: UUID
    high_availability: bool | None = None
    priority: int | None = None
    name, permission = "vm.edit_availability", "vm.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", self.vm_id

    def title(self, tx: Tx) -> str:
        return f"Edit the availability of VM {get(tx, Vm, self.vm_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return []  # also while something is done with it

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        require_availability(self.priority)
        if self.high_availability and vm.pool_id is not None:
            raise Impossible("of_pool", f"VM {vm.name} is a desktop of a pool, which gives its holder another one when it dies.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if self.high_availability is not None:
            vm.high_availability = self.high_availability
        if self.priority is not None:
            vm.priority = self.priority
        words = "highly available" if vm.high_availability else "not highly available"
        record(tx, "vm.availability_edited", vm, actor=actor.name, words=words, priority=vm.priority)
        touch(tx, "vm", vm.id)


@dataclass(frozen=True)
class EditFencing(Plain):
    """Say what is done about hosts of a cluster that do not answer; what is None stays as it is."""

    cluster_id: UUID
    fencing: bool | None = None
    fencing_grace_s: int | None = None
    fencing_silent_percent: int | None = None
    fencing_at_once: int | None = None
    fencing_skip_if_lease_alive: bool | None = None
    fencing_kdump_wait_s: int | None = None
    name, permission = "cluster.edit_fencing", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Edit the fencing of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        get(tx, Cluster, self.cluster_id)
        for field, (least, most) in _POLICY.items():
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise Invalid("bad_policy", f"{field} lies between {least} and {most}.", fields=[field])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cluster_id"}
        changed = {name: value for name, value in given.items() if value is not None and value != getattr(cluster, name)}
        for name, value in changed.items():
            setattr(cluster, name, value)
        what = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changed.items()) or "nothing"
        record(tx, "cluster.fencing_edited", cluster, actor=actor.name, what=what)
        touch(tx, "cluster", cluster.id)


_POLICY = {"fencing_grace_s": (5, 3600), "fencing_silent_percent": (1, 100), "fencing_at_once": (1, 100),
           "fencing_kdump_wait_s": (0, 3600)}  # fmt: skip


def _agent(tx: Tx, id: UUID) -> PowerAgent:
    return get(tx, PowerAgent, id)


def _touch(tx: Tx, agent: PowerAgent) -> None:
    touch(tx, "poweragent", agent.id)
    touch(tx, "host", agent.host_id)


def _options(given: tuple[str, ...]) -> dict[str, str]:
    return dict(one.split("=", 1) for one in given)


def _check(tx: Tx, type: str, address: str, port: int, username: str, order: int, options: tuple[str, ...]) -> None:
    kinds = {row.name: row for row in tx.scalars(sa.select(PowerKindRow))}
    if not TYPE.fullmatch(type) or type not in kinds:
        known = ", ".join(sorted(kinds)[:20]) + (" …" if len(kinds) > 20 else "")
        there = f"There are {known}." if kinds else "Install Debian's package fence-agents on a host that is up."
        raise Invalid("unknown_power_type", f"No host knows power agents of the kind “{type}”. {there}", fields=["type"])
    if not _ADDRESS.fullmatch(address):
        raise Invalid("bad_address", "Say the name or the address of the device that switches the power.", fields=["address"])
    if not 0 <= port < 65536:
        raise Invalid("bad_port", "port lies between 1 and 65535; 0 is the usual one.", fields=["port"])
    if not 1 <= order <= 99:
        raise Invalid("bad_order", "order lies between 1 and 99.", fields=["order"])
    if re.search(r"[\x00-\x1f]", username):
        raise Invalid("bad_username", "The name of a user has no line breaks.", fields=["username"])
    known_options = kinds[type].options
    for one in options:
        found = _OPTION.fullmatch(one)
        if found is None:
            raise Invalid("bad_option", f"Write options as name=value, not “{one}”.", fields=["options"])
        if not may_be_set(found[1]):
            raise Invalid("bad_option", f"“{found[1]}” has a field of its own or is not for you to set.", fields=["options"])
        if known_options and found[1] not in known_options:
            possible = ", ".join(sorted(filter(may_be_set, known_options)))
            raise Invalid("bad_option", f"Power agents of the kind {type} know no option “{found[1]}”; they know {possible}.",
                          fields=["options"])
