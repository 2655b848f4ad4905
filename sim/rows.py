"""`simulate`: the simulated data center becomes what the rows say; `Machines`, how a manager reaches its hosts then."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa

from backend.db import Sessions
from backend.hosts.models import Host
from backend.storage.models import Disk, DomainReach, StorageDomain
from backend.vms.models import Vm
from backend.vms.rules import vm_spec
from hostapi.types import VolumeSpec
from sim.lives import Run
from sim.world import SimDoor, World


def simulate(world: World, sessions: Sessions) -> dict[UUID, str]:
    """Machines, volumes and VMs that run, made from the rows; answers the machines' names by their hosts' ids."""
    with sessions() as tx:
        names: dict[UUID, str] = {}
        for host in tx.scalars(sa.select(Host)):
            machine = world.add_host(host.name, cpus=host.cpus, memory_mib=host.memory_mib)
            machine.boot_id, names[host.id] = host.boot_id, host.name
        folders = {}
        for domain in tx.scalars(sa.select(StorageDomain)):
            folders[domain.id] = world.folder(domain.path)
            if domain.host_id is not None:
                world.host(names[domain.host_id]).domains.add(domain.path)
        for host_id, domain_id in tx.execute(sa.select(DomainReach.host_id, DomainReach.domain_id)):
            world.host(names[host_id]).domains.add(folders[domain_id].path)
        disks: dict[UUID, Disk] = {}
        for disk in tx.scalars(sa.select(Disk)):
            folders[disk.domain_id].volumes[disk.id] = VolumeSpec(disk.id, folders[disk.domain_id].path, disk.capacity_mib)
            if disk.vm_id:
                disks[disk.vm_id] = disk
        now = world.clock.now()
        for vm in tx.scalars(sa.select(Vm).where(Vm.state == "up")):
            if vm.host_id is None:
                continue
            spec = vm_spec(
                vm_id=vm.id, name=vm.name, memory_mib=vm.memory_mib, vcpus=vm.vcpus, virt_type="kvm", boot=vm.boot,
                protocols=vm.protocols, video=vm.video, disks=[(disks[vm.id].id, disks[vm.id].path)],
            )  # fmt: skip
            world.host(names[vm.host_id]).runs[vm.id] = Run(spec, now, now)
    return names


class Machines:
    """Doors to simulated machines by their hosts' ids; one that is not known by its id is known by its address."""

    def __init__(self, world: World, names: Mapping[UUID, str]) -> None:
        self._world, self._names = world, names

    def __call__(self, host_id: UUID, address: str, port: int) -> SimDoor:
        return self._world.door(self._names.get(host_id, address))


def places(sessions: Sessions) -> list[tuple[UUID, str, int, int]]:
    """Where each host is to be reached: its id, address, port and port for consoles."""
    with sessions() as tx:
        return [tuple(row) for row in tx.execute(sa.select(Host.id, Host.address, Host.port, Host.console_port))]  # type: ignore[misc]
