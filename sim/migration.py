"""Simulated hosts' side of live migration: a VM goes from one host's memory to another's in one moment."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from hostapi.types import MigrationReport, MigrationSpec, Peer, VmReport, VmSpec
from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.host import SimHost


class Migrating:
    """The three verbs of a migration, for `SimHost`. `gates` says which VM is expected, and from which host."""

    gates: dict[UUID, tuple[UUID, UUID]]

    def prepare_migration(self, spec: VmSpec, migration_id: UUID, source_id: UUID, steering: Steering) -> None:
        """Expect the VM."""
        me = cast("SimHost", self)
        with me._changed:
            if spec.vm_id in me.runs:
                raise HostRefused("runs_here", f"VM {spec.name} runs on host {me.name} already.")
            me._require_disks(spec)
            self.gates = {one: gate for one, gate in self.gates.items() if gate[0] != spec.vm_id}
            self.gates[migration_id] = (spec.vm_id, source_id)

    def migrate_vm(self, vm_id: UUID, migration: MigrationSpec, to: Peer, steering: Steering) -> MigrationReport:
        """After the world's time for it the VM is there, and not here."""
        me = cast("SimHost", self)
        world, began = me.world, me.world.clock.now()
        name = me._run(vm_id).spec.name
        takes_s, guest = world.migrate_s, world.guest(name)
        if migration.bandwidth_mib:
            takes_s = max(takes_s, me._run(vm_id).spec.memory_mib / migration.bandwidth_mib)
        busy = 3.0 if guest.busy and migration.converge in ("suspend", "post_copy", "auto_converge") else 1.0
        end = began + timedelta(seconds=takes_s * busy)

        def there() -> bool:
            me._run(vm_id)
            self._require_peer(to, migration.migration_id)
            if guest.migrate_fails:
                raise HostRefused("migration_failed", f"VM {name} could not be migrated: the hypervisor refused.")
            now = world.clock.now()
            passed = (now - began).total_seconds()
            if guest.busy and busy == 1.0 and passed >= 2 * takes_s:
                raise HostRefused("not_converging", "The VM's memory changes faster than it can be sent.")
            steering.progress(min(99, int(100 * passed / max(0.001, takes_s * busy))), "Sending memory")
            if now < end or (guest.busy and busy == 1.0):
                return False
            self._hand_over(vm_id, to)
            return True

        me._wait_until(there, steering)
        return MigrationReport(int(1000 * (world.clock.now() - began).total_seconds()), 50, 64)

    def settle_migration(self, vm_id: UUID, migration_id: UUID, steering: Steering) -> VmReport | None:
        """Whether it is here."""
        me = cast("SimHost", self)
        with me._changed:
            self.gates.pop(migration_id, None)
            return me._vm_report(me.runs[vm_id]) if vm_id in me.runs else None

    def _require_peer(self, to: Peer, migration_id: UUID) -> Any:
        me = cast("SimHost", self)
        ours, theirs = me.world.machines[me.name], me.world.machines.get(to.address)
        if theirs is None or not (ours.connected and theirs.connected and theirs.powered and theirs.agent_on):
            raise HostRefused("peer_silent", f"The other host cannot be reached from host {me.name}.")
        if migration_id not in theirs.host.gates:
            raise HostRefused("peer_silent", f"Host {to.address} expects no VM from host {me.name}.")
        return theirs.host

    def _hand_over(self, vm_id: UUID, to: Peer) -> None:
        """Both hosts change in one moment, under the world's one lock."""
        me = cast("SimHost", self)
        other = me.world.machines[to.address].host
        for key in [key for key in me.tickets if key[0] == vm_id]:
            other.tickets[key] = me.tickets[key]
        other.runs[vm_id] = me.runs[vm_id]
        me._end(vm_id)
        other.wake()
