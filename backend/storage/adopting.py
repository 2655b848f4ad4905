"""Rows for all that was found in a storage domain that comes from elsewhere; what cannot be as it was is told in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backend.db import Tx
from backend.errors import Invalid
from backend.storage.models import Disk, KeptDefinition, StorageDomain
from backend.vms.models import Template, Vm, VmSnapshot, Vnic
from backend.vms.rules import BEHAVIOURS, require_name, require_nic, require_sizes
from hostapi import metadata
from hostapi.metadata import BadMetadata, DiskBody, NicBody, TemplateBody, VmBody
from hostapi.types import DomainFound, VolumeFound

CHUNK = 1000


class Adoption:
    """One import. `told` are the sentences, `counts` how many of what there are now."""

    def __init__(self, tx: Tx, domain: StorageDomain, cluster_id: UUID, found: DomainFound, now: datetime) -> None:
        self.tx, self.domain, self.cluster_id, self.now = tx, domain, cluster_id, now
        self.told = [f"{one.file}: {one.why}" for one in found.problems if one.kind != "orphaned"]
        self.counts = {"vms": 0, "templates": 0, "disks": 0}
        self.bodies: dict[str, list[Any]] = {"template": [], "vm": []}
        self.generations: dict[tuple[str, UUID], int] = {}
        for one in found.definitions:
            self._take(one.kind, one.id, one.generation, one.text)
        self.notes = {volume.volume_id: _note(volume) for volume in found.volumes}
        self.volumes = {one.volume_id: one for one in found.volumes if self._usable(one)}
        self.by_path = {one.path: one.volume_id for one in found.volumes}
        ids = [*self.volumes, *(body.id for bodies in self.bodies.values() for body in bodies)]
        self.known = {kind: _known(tx, kind.id, ids) for kind in (Disk, Template, Vm)}
        self.macs = _known(tx, Vnic.mac, [nic.mac for body in self.bodies["vm"] for nic in body.nics])
        self.names = _known(tx, Vm.name, [body.name for body in self.bodies["vm"]])
        self.rows: dict[UUID, Disk] = {}

    def carry_out(self) -> None:
        """Templates first, then VMs with their snapshots and network cards, then disks that nobody has."""
        for template in self.bodies["template"]:
            self._template(template)
        for vm in self.bodies["vm"]:
            self._vm(vm)
        self._floating()
        self._lay_over()
        self.tx.flush()
        self.counts["disks"] = len(self.rows)

    # -- what is there ---------------------------------------------------------------------------
    def _take(self, kind: str, id: UUID, generation: int, text: str) -> None:
        """A host has looked at it already; but hosts are not believed either."""
        if kind == "domain":
            return
        try:
            self.bodies[kind].append(metadata.parse(kind, text))  # type: ignore[arg-type]
            self.generations[kind, id] = generation
        except BadMetadata as no:
            self.told.append(f"The {kind} {id} was not imported: {no}")

    def _usable(self, volume: VolumeFound) -> bool:
        if volume.why:
            return False  # told already, as a problem
        note = self.notes[volume.volume_id]
        return note is None or note.doing != "delete"

    def _disks(self, what: str, bodies: Sequence[DiskBody]) -> list[DiskBody]:
        """Those that can be had."""
        fine = []
        for disk in bodies:
            if disk.id in self.known[Disk] or disk.id in self.rows:
                self.told.append(f"Disk {disk.name} of {what} was not imported: there is a disk with its id already.")
            elif disk.id not in self.volumes:
                self.told.append(f"Disk {disk.name} of {what} was not imported: its volume is not there, or cannot be used.")
            else:
                fine.append(disk)
        return fine

    # -- rows ------------------------------------------------------------------------------------
    def _template(self, body: TemplateBody) -> None:
        what = f"template {body.name} (version {body.version})"
        if body.id in self.known[Template]:
            self.told.append(f"The {what} was not imported: there is a template with its id already.")
            return
        disks = self._disks(what, body.disks)
        if len(disks) < len(body.disks) or not self._possible(what, body):
            self.told.append(f"The {what} was not imported; it stays in the storage.")
            return
        name = body.name
        same = sa.select(Template.id).where(Template.name == name, Template.version == body.version)
        if self.tx.scalar(same):
            name = f"{body.name[:50]} {body.id.hex[:8]}"
            self.told.append(f"The {what} is called {name} now: there is one of its name and version already.")
        self.tx.add(Template(
            id=body.id, name=name, version=body.version, description=body.description, cluster_id=self.cluster_id, state="ok",
            memory_mib=body.memory_mib, vcpus=body.vcpus, boot=_builtins(body.boot), video=body.video,
            guest_agent=body.guest_agent, boot_timeout_s=body.boot_timeout_s,
        ))  # fmt: skip
        self.tx.flush()
        self._add_disks(disks, template_id=body.id)
        self._keep("template", body.id)
        self.known[Template].add(body.id)
        self.counts["templates"] += 1

    def _vm(self, body: VmBody) -> None:
        if body.id in self.known[Vm]:
            self.told.append(f"VM {body.name} was not imported: there is a VM with its id already.")
            return
        disks = self._disks(f"VM {body.name}", body.disks)
        if not disks or not self._possible(f"VM {body.name}", body):
            self.told.append(f"VM {body.name} was not imported; what there is of it stays in the storage.")
            return
        template_id = body.template_id if self._has(body.template_id) else None
        if body.template_id is not None and template_id is None:
            self.told.append(f"VM {body.name} is of no template now: its own was not there.")
        self.tx.add(Vm(
            id=body.id, name=self._vm_name(body), description=body.description, cluster_id=self.cluster_id,
            template_id=template_id, state="down", memory_mib=body.memory_mib, vcpus=body.vcpus, boot=_builtins(body.boot),
            max_memory_mib=body.max_memory_mib, max_vcpus=body.max_vcpus, video=body.video, guest_agent=body.guest_agent,
            boot_timeout_s=body.boot_timeout_s, protocols=list(body.protocols), created_at=body.created, priority=body.priority,
            resume_behaviour=body.resume_behaviour if body.resume_behaviour in BEHAVIOURS else BEHAVIOURS[0],
            high_availability=body.high_availability,
        ))  # fmt: skip
        self.tx.flush()
        self._add_disks(disks, vm_id=body.id)
        self._nics(body)
        self._snapshots(body, disks)
        self._keep("vm", body.id)
        self.known[Vm].add(body.id)
        self.counts["vms"] += 1

    def _vm_name(self, body: VmBody) -> str:
        name = body.name
        try:
            require_name(name)
        except Invalid:
            name = f"vm-{body.id.hex[:12]}"
            self.told.append(f"VM {body.id} is called {name} now: it had a name that no VM can have.")
        if name in self.names:
            name = f"{name[:50]}-{body.id.hex[:8]}"
            self.told.append(f"VM {body.name} is called {name} now: there is a VM of its name already.")
        self.names.add(name)
        return name

    def _nics(self, body: VmBody) -> None:
        names: set[str] = set()
        for nic in body.nics:
            if why := self._nic_refused(nic, names):
                self.told.append(f"Network card {nic.name} of VM {body.name} was not imported: {why}")
                continue
            names.add(nic.name)
            self.macs.add(nic.mac)
            self.tx.add(Vnic(vm_id=body.id, name=nic.name, mac=nic.mac, bridge=nic.bridge, model=nic.model, linked=nic.linked,
                             plugged=nic.plugged))  # fmt: skip

    def _nic_refused(self, nic: NicBody, names: set[str]) -> str:
        if nic.mac in self.macs or nic.name in names:
            return f"there is one with the address {nic.mac} or its name already."
        try:
            require_nic(nic.mac, nic.bridge, nic.model)
        except Invalid as no:
            return no.message
        return ""

    def _snapshots(self, body: VmBody, disks: Sequence[DiskBody]) -> None:
        """What is in the disk itself counts; names come from what was written down."""
        there = list(dict.fromkeys(_ids(self.volumes[disks[0].id].snapshots)))
        named = {one.id: one for one in body.snapshots}
        names: set[str] = set()
        for one in body.snapshots:
            if one.id not in there:
                self.told.append(f"Snapshot {one.name} of VM {body.name} was not imported: it is not in the disk.")
        taken = _known(self.tx, VmSnapshot.id, there)
        for id in there:
            known = named.get(id)
            name = known.name if known and known.name not in names else f"snapshot {id.hex[:8]}"
            if id in taken:
                self.told.append(f"Snapshot {name} of VM {body.name} was not imported: there is one with its id already.")
                continue
            names.add(name)
            self.tx.add(VmSnapshot(id=id, vm_id=body.id, name=name, state="ok", at_rest=bool(known and known.at_rest),
                                   created_at=known.created if known else self.now))  # fmt: skip

    def _floating(self) -> None:
        """Disks of nobody. One that a VM had which is not written down is of nobody now; templates' are left alone."""
        based = {path for volume in self.volumes.values() for path in volume.chain}
        for id, volume in self.volumes.items():
            note = self.notes[id]
            if id in self.rows or volume.path in based or id in self._named():
                continue
            name = (note.disk if note else "") or f"disk-{id.hex[:12]}"
            if note is None or note.owner == "template" or id in self.known[Disk]:
                self.told.append(f"Volume {id} ({name}) was not imported: nothing that is written down here has it.")
                continue
            if note.owner:
                self.told.append(f"Disk {name} is attached to nothing now: the VM that it was made for is not written down.")
            self._add_disks([DiskBody(id, name, max(1, volume.capacity_mib))])

    def _named(self) -> set[UUID]:
        return {disk.id for bodies in self.bodies.values() for body in bodies for disk in body.disks}

    def _add_disks(self, bodies: Sequence[DiskBody], **owner: UUID) -> None:
        for body in bodies:
            volume = self.volumes[body.id]
            row = Disk(id=body.id, name=body.name, domain_id=self.domain.id, state="ok", path=volume.path,
                       capacity_mib=max(1, volume.capacity_mib), format="iso" if volume.path.endswith(".iso") else "qcow2",
                       **owner)  # fmt: skip
            self.tx.add(row)
            self.rows[body.id] = row

    def _lay_over(self) -> None:
        """Which disk lies over which, as the volumes themselves say."""
        self.tx.flush()
        bases = {volume.chain[0] for id, volume in self.volumes.items() if id in self.rows and volume.chain}
        others = {path: id for path, id in self._elsewhere(bases)}
        for id, row in self.rows.items():
            if chain := self.volumes[id].chain:
                base = self.by_path.get(chain[0])
                row.backing_id = base if base in self.rows else others.get(chain[0])

    def _elsewhere(self, paths: set[str]) -> Iterator[tuple[str, UUID]]:
        """Disks that are known already, by their paths."""
        for part in _chunks(sorted(paths)):
            near = sa.select(Disk.path, Disk.id).join(StorageDomain, StorageDomain.id == Disk.domain_id).where(
                Disk.path.in_(part), StorageDomain.id != self.domain.id,
                StorageDomain.data_center_id == self.domain.data_center_id,
                sa.or_(StorageDomain.host_id.is_(None), StorageDomain.host_id == self.domain.host_id),
            )  # fmt: skip
            yield from ((path, id) for path, id in self.tx.execute(near))

    # -- inside ----------------------------------------------------------------------------------
    def _possible(self, what: str, body: VmBody | TemplateBody) -> bool:
        try:
            require_sizes(memory_mib=body.memory_mib, vcpus=body.vcpus, boot_timeout_s=body.boot_timeout_s)
        except Invalid as no:
            self.told.append(f"{what[0].upper()}{what[1:]}: {no.message}")
            return False
        return True

    def _has(self, template_id: UUID | None) -> bool:
        return template_id is not None and self.tx.get(Template, template_id) is not None

    def _keep(self, of: str, id: UUID) -> None:
        """What is written down goes on from the generation that is there."""
        self.tx.add(KeptDefinition(domain_id=self.domain.id, of=of, object_id=id, generation=self.generations[of, id], digest=""))


def _note(volume: VolumeFound) -> metadata.VolumeBody | None:
    try:
        note: metadata.VolumeBody | None = metadata.parse("volume", volume.text) if volume.text else None
    except BadMetadata:
        return None
    return note


def _known(tx: Tx, column: Any, wanted: Sequence[Any]) -> set[Any]:
    """Those of these that rows have already."""
    return {one for part in _chunks(wanted) for one in tx.scalars(sa.select(column).where(column.in_(part)))}


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), CHUNK):
        yield items[at : at + CHUNK]


def _ids(names: Sequence[str]) -> Iterator[UUID]:
    for name in names:
        try:
            yield UUID(name)
        except ValueError:
            continue  # somebody else's


def _builtins(boot: metadata.BootBody | None) -> dict[str, Any] | None:
    return None if boot is None else dict(msgspec.to_builtins(boot))
