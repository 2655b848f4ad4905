"""libvirt: VMs that move to another host, and those that arrive."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal
from uuid import UUID

import libvirt

from agent.virt import Hypervisor, refusal, said
from hostapi.types import MigrationReport, MigrationSpec
from hostapi.verbs import HostRefused

log = logging.getLogger("moves")
MOVE_S = 86_400.0  # memory goes over at the network's pace
MIB = 1 << 20
Arrival = Literal["running", "waiting", "arriving", "torn"]


class Moves:
    """Migrations of what `Hypervisor` runs. But with post-copy a VM stands still at the other side until it is told to go
    on: libvirt lets it run on here when it did not hear whether the other side began, and then it must not have."""

    def __init__(self, hypervisor: Hypervisor, unsafe: bool) -> None:
        self.hypervisor, self._unsafe = hypervisor, unsafe

    # -- where it leaves ---------------------------------------------------------------------------
    def move(self, vm_id: UUID, migration: MigrationSpec, folder: Path) -> None:
        """Send a VM to the host behind the sockets in this folder; it is not here any more when this returns."""

        def move(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.require(connection, vm_id)
            given: dict[str, object] = {libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{folder}/memory.sock"}
            if migration.bandwidth_mib:
                given[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = migration.bandwidth_mib
            try:
                domain.migrateToURI3(_uri(folder), given, self._flags(migration))
            except libvirt.libvirtError as no:
                if self.hypervisor.find(connection, vm_id) is None:
                    raise HostRefused("vm_not_running", "The VM does not run on this host any more.", vm_id=str(vm_id)) from no
                raise refusal(f"VM {domain.name()} could not be migrated", no, "migration_failed") from no

        self.hypervisor.call("migrating a VM", move, MOVE_S, lane="moves")

    def progress(self, vm_id: UUID) -> tuple[int, int] | None:
        """How much memory of the VM was sent so far, and how much there is, in bytes; None when it is not being moved."""

        def look(connection: libvirt.virConnect) -> tuple[int, int] | None:
            domain = self.hypervisor.find(connection, vm_id)
            stats = domain.jobStats() if domain is not None else {}
            if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
                return None
            return int(stats.get("data_processed", 0)), int(stats.get("data_total", 0))

        return self.hypervisor.call("looking at a migration", look)

    def steer(self, vm_id: UUID, what: Literal["abort", "suspend", "post_copy"] | int) -> None:
        """Break a migration off, or help it to its end; a number is the longest downtime in ms. What comes too late is of
        no harm."""

        def steer(connection: libvirt.virConnect) -> None:
            if (domain := self.hypervisor.find(connection, vm_id)) is None:
                return
            try:
                if what == "abort":
                    domain.abortJob()
                elif what == "suspend":
                    domain.suspend()
                elif what == "post_copy":
                    domain.migrateStartPostCopy()
                else:
                    domain.migrateSetMaxDowntime(int(what))
            except libvirt.libvirtError as no:
                log.info("migration of VM %s is not steered (%s): %s", domain.name(), what, no)

        self.hypervisor.call("steering a migration", steer)

    # -- where it arrives --------------------------------------------------------------------------
    def arrival(self, vm_id: UUID) -> Arrival | None:
        """How a VM is here that comes or came from another host: it stands still until it is told to go on (`waiting`),
        not all of it is here (`arriving`), or never will be (`torn`). None when nothing of it is here."""

        def look(connection: libvirt.virConnect) -> Arrival | None:
            return _arrival(self.hypervisor.find(connection, vm_id))

        return self.hypervisor.call("looking for a VM that arrives", look, lane="look")

    def go_on(self, vm_id: UUID) -> None:
        """Let a VM go on that stands still since it arrived, or since it was paused in order to go."""

        def resume(connection: libvirt.virConnect) -> None:
            if _arrival(domain := self.hypervisor.find(connection, vm_id)) == "waiting" and domain is not None:
                domain.resume()

        self.hypervisor.call("resuming a VM", resume)

    def throw_away(self, vm_id: UUID) -> None:
        """End what will never be a whole VM."""

        def destroy(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.find(connection, vm_id)
            if domain is not None and _arrival(domain) in ("arriving", "torn"):
                domain.destroy()

        self.hypervisor.call("ending what did not arrive", destroy, 60.0)

    # -- inside ------------------------------------------------------------------------------------
    def _flags(self, migration: MigrationSpec) -> int:
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        if migration.converge == "post_copy":
            flags |= libvirt.VIR_MIGRATE_POSTCOPY
        else:
            flags |= libvirt.VIR_MIGRATE_PAUSED
        if migration.converge == "auto_converge":
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        return int(flags | (libvirt.VIR_MIGRATE_UNSAFE if self._unsafe else 0))


class Far:
    """The other host's libvirt, while the tunnel to it is open: what the VM does there, when it went and when it stayed."""

    def __init__(self, vm_id: UUID, folder: Path) -> None:
        self._vm_id, self._connection = vm_id, libvirt.open(_uri(folder))
        self._connection.setKeepAlive(2, 3)

    def go_on(self) -> MigrationReport | None:
        """Let the VM, which has left here, go on there; answers what it took. Whoever settles does it otherwise."""
        try:
            domain = self._connection.lookupByUUIDString(str(self._vm_id))
            if _arrival(domain) == "waiting":
                domain.resume()
            stats = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            sent = int(stats.get("data_processed", 0)) // MIB
            return MigrationReport(int(stats.get("time_elapsed", 0)), int(stats.get("downtime", 0)), sent)
        except libvirt.libvirtError as no:
            log.info("the VM that has arrived was not let go on: %s", no)
            return None

    def throw_away(self) -> None:
        """The VM runs here: what stands still there of an earlier attempt is ended."""
        try:
            domain = self._connection.lookupByUUIDString(str(self._vm_id))
            if _arrival(domain) in ("waiting", "arriving", "torn"):
                domain.destroy()
        except libvirt.libvirtError as no:
            log.debug("nothing of the VM is there: %s", no)

    def close(self) -> None:
        """Hang up."""
        try:
            self._connection.close()
        except libvirt.libvirtError as no:
            log.debug("the other libvirt had gone: %s", no)


def far(vm_id: UUID, folder: Path) -> Far:
    """The libvirt behind the sockets in this folder; refuses when it does not answer."""
    try:
        return Far(vm_id, folder)
    except libvirt.libvirtError as no:
        raise HostRefused("peer_silent", f"The other host cannot be reached from this one: {said(no)}") from no


def _uri(folder: Path) -> str:
    return f"qemu+unix:///system?socket={folder}/libvirt.sock"


def _arrival(domain: libvirt.virDomain | None) -> Arrival | None:
    if domain is None:
        return None
    state, reason = domain.state()
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return "running"
    if reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
        return "arriving"
    if reason in (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED):
        return "torn"
    return "waiting" if reason == libvirt.VIR_DOMAIN_PAUSED_USER else "running"
