"""VMs, power agents and fencing of a scenario's world, and what must hold of them at every moment of a story."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx
from backend.ha.models import Outage, PowerAgent, Restart
from backend.hosts.models import Host
from backend.storage.models import Disk, StorageDomain
from backend.vms.models import Vm
from hostapi.types import DiskSpec, VmSpec, VolumeSpec
from sim import make
from sim.installation import Installation
from sim.power import PASSWORD
from sim.world import World

VM_FIELDS = ("on", "domain", "memory_mib", "high_availability", "priority")
POLICY = ("fencing", "grace_s", "silent_percent", "at_once", "kdump_wait_s")
OFF = ("down", "suspended", "image_locked")


def set_fencing(tx: Tx, policy: Mapping[str, Any]) -> None:
    """The fencing policy of every cluster."""
    for cluster in tx.scalars(sa.select(Cluster)):
        for name, value in policy.items():
            setattr(cluster, name if name == "fencing" else f"fencing_{name}", value)


def add_power_agents(place: Installation, name: str, orders: Iterable[int]) -> None:
    """Power agents of this host with these numbers: bmc-alpha, bmc2-alpha, …"""
    with place.tx() as tx:
        host = tx.scalars(sa.select(Host).where(Host.name == name)).one()
        for number, order in enumerate(orders, 1):
            address = f"bmc{number if number > 1 else ''}-{name}"
            place.sim.bmc(address)
            make.a_power_agent(tx, host, address=address, order=order, password_sealed=place.keyring.seal(PASSWORD))


def add_vm(place: Installation, name: str, *, on: str = "", domain: str = "", **fields: Any) -> None:
    """A VM with a disk in this storage domain, or in the first shared one; running on the host `on`, or down."""
    with place.tx() as tx:
        shared = sa.select(StorageDomain).order_by(StorageDomain.host_id.is_not(None), StorageDomain.name)
        where = tx.scalars(shared.where(StorageDomain.name == domain) if domain else shared).first()
        host = tx.scalars(sa.select(Host).where(Host.name == on)).first() if on else None
        assert where is not None
        began: dict[str, Any] = {"state": "up", "started_at": place.clock.now()} if host else {}
        vm = make.a_vm(tx, name, host=host, **began, **fields)
        disk = Disk(name=f"{name}-1", domain_id=where.id, vm_id=vm.id, capacity_mib=1024, state="ok")
        tx.add(disk)
        tx.flush()
        disk.path = f"{where.path}/volumes/{disk.id}.qcow2"
        place.sim.folder(where.path).volumes[disk.id] = VolumeSpec(disk.id, where.path, 1024)
        if host is not None:
            spec = VmSpec(vm.id, name, vm.memory_mib, vm.vcpus, "kvm", (DiskSpec(disk.id, disk.path),))
            place.sim.host(host.name).put(spec)


def instances(world: World) -> dict[str, list[str]]:
    """On which machines each VM runs at this moment."""
    found: dict[str, list[str]] = {}
    for machine in world.machines.values():
        for run in list(machine.host.runs.values()):
            found.setdefault(run.spec.name, []).append(machine.host.name)
    return found


def twice(world: World) -> list[str]:
    """VMs that run on two machines at once: there must never be one."""
    return [f"VM {name} runs on {' and '.join(sorted(on))} at once" for name, on in instances(world).items() if len(on) > 1]


def on_its_way(tx: Tx) -> bool:
    """Whether a lost host may still be fenced, or a VM is still to be started again."""
    may = sa.select(Host.id).join(PowerAgent, PowerAgent.host_id == Host.id).join(Outage, Outage.host_id == Host.id)
    lost = tx.scalar(may.where(Host.state == "non_responsive", ~Outage.gave_up).limit(1))
    return lost is not None or tx.scalar(sa.select(Restart.vm_id).limit(1)) is not None


def unexplained(tx: Tx) -> Iterator[str]:
    """Highly available VMs that neither run nor have a sentence that says why not."""
    rows = sa.select(Vm, Outage.why, Restart.why).outerjoin(Outage, Outage.host_id == Vm.host_id).outerjoin(Restart)
    for vm, outage, restart in tx.execute(rows.where(Vm.high_availability).order_by(Vm.name)):
        if vm.state == "unknown" and not outage:
            yield f"VM {vm.name} is in an unknown state, and nobody is told why nothing is done"
        elif vm.state == "down" and not (vm.why or restart):
            yield f"VM {vm.name} is down, and nobody is told why"


def standing(tx: Tx) -> list[str]:
    """How every host and every VM that is of no pool stands, for the end of a story."""
    states = tx.execute(sa.select(Host.name, Host.state).order_by(Host.name))
    hosts = [f"host {name}: {state.replace('_', ' ')}" for name, state in states]
    where = sa.select(Vm.name, Vm.state, Host.name, Vm.why).outerjoin(Host, Host.id == Vm.host_id)
    where = where.where(Vm.pool_id.is_(None))
    vms = [f"VM {name}: {state.replace('_', ' ')}{f' on {host}' if host else ''}{f'. {why}' if why and state in OFF else ''}"
           for name, state, host, why in tx.execute(where.order_by(sa.func.length(Vm.name), Vm.name))]  # fmt: skip
    return [*hosts, *vms] if vms else []
