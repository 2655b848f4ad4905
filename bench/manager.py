"""The real manager, runner and loops, on simulated hosts: `python -m bench.manager`, settings from the environment."""

from __future__ import annotations

import argparse
import signal
from uuid import UUID

import sqlalchemy as sa

from assembly import COMMANDS, loops
from backend import config, logs
from backend import loops as loop_runner
from backend.ca import Authority
from backend.clock import WallClock
from backend.db import Sessions, new_sessions
from backend.hosts.models import Host
from backend.secrets import Keyring
from backend.storage.models import Disk, StorageDomain
from backend.tasks.runner import Runner
from backend.vms.models import Vm
from backend.vms.rules import vm_spec
from hostapi.types import VolumeSpec
from sim.host import Run
from sim.world import SimDoor, World


def simulate(world: World, sessions: Sessions) -> None:
    """Make the simulated hosts be as the rows say: machines, volumes, VMs that run."""
    with sessions() as tx:
        names = {}
        for host in tx.scalars(sa.select(Host)):
            machine = world.add_host(host.address, cpus=host.cpus, memory_mib=host.memory_mib)
            machine.boot_id, names[host.id] = host.boot_id, host.address
        folders = {}
        for domain in tx.scalars(sa.select(StorageDomain)):
            folders[domain.id] = world.folder(domain.path)
            world.host(names[domain.host_id]).domains.add(domain.path)
        disks: dict[UUID, Disk] = {}
        for disk in tx.scalars(sa.select(Disk)):
            folders[disk.domain_id].volumes[disk.id] = VolumeSpec(disk.id, folders[disk.domain_id].path, disk.capacity_mib)
            if disk.vm_id:
                disks[disk.vm_id] = disk
        now = world.clock.now()
        for vm in tx.scalars(sa.select(Vm).where(Vm.state == "up")):
            spec = vm_spec(
                vm_id=vm.id, name=vm.name, memory_mib=vm.memory_mib, vcpus=vm.vcpus, virt_type="kvm", boot=vm.boot,
                protocols=vm.protocols, video=vm.video, disks=[(disks[vm.id].id, disks[vm.id].path)],
            )  # fmt: skip
            world.host(names[vm.host_id]).runs[vm.id] = Run(spec, now, now)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser("bench.manager", description=__doc__)
    parser.add_argument("--boot-s", type=float, default=0.0, help="how long the simulated guests boot")
    boot_s = parser.parse_args().boot_s
    settings = config.load()
    logs.configure("WARNING")
    clock, keyring = WallClock(), Keyring(settings.secret_key())
    sessions = new_sessions(settings.database_url, settings.database_pool + settings.task_workers)
    world = World(clock, boot_s=boot_s)
    simulate(world, sessions)

    def doors(host_id: UUID, address: str, port: int) -> SimDoor:
        return world.door(address)

    runner = Runner(sessions, COMMANDS, clock, doors, keyring.reveal)
    signal.signal(signal.SIGTERM, lambda *_: runner.stopping.set())
    authority = Authority.load(settings.hosts_ca_file, settings.hosts_ca_key_file)
    runner.run(settings.task_workers)
    loop_runner.run(sessions, loops(doors, clock, keyring, authority), runner.stopping)
    runner.stopping.wait()


if __name__ == "__main__":
    main()
