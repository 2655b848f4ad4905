"""libvirt: VMs saved to disk, and snapshots inside a running VM's disk."""

from __future__ import annotations

import json
import logging
import os
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from agent.domxml import closed_xml, read_domain
from agent.virt import Hypervisor, is_lost, refusal, said, unsupported
from hostapi.verbs import HostRefused

log = logging.getLogger("saves")
SAVE_S = 3600.0  # memory goes to disk at the disk's pace
FREEZE_S = 60.0


class Saves:
    """What `Hypervisor` runs, taken to files and back."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor

    def save(self, vm_id: UUID, path: str) -> bool:
        """Write a VM's memory to this file and end it, its displays closed in what is written; it runs on when that
        fails. False when libvirt is at it already (for who was asking before this process was started)."""

        def save(connection: libvirt.virConnect) -> bool:
            if (domain := self.hypervisor.find(connection, vm_id)) is None:
                return True
            try:
                secure = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
                plain = connection.getType() == "TEST"  # the test driver takes no other XML
                domain.saveFlags(path, None if plain else closed_xml(domain.XMLDesc(secure)), 0)
            except libvirt.libvirtError as no:
                if no.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
                    return False
                if self.hypervisor.find(connection, vm_id) is None:
                    return True
                raise refusal(f"VM {domain.name()} could not be saved", no, "save_failed") from no
            return True

        return self.hypervisor.call("saving a VM", save, SAVE_S, lane="saves")

    def saved_vm(self, path: str) -> UUID | None:
        """Whose memory lies in this file; None when it is not whole."""

        def read(connection: libvirt.virConnect) -> UUID | None:
            try:
                return read_domain(connection.saveImageGetXMLDesc(path, 0)).vm_id
            except libvirt.libvirtError as no:
                if is_lost(connection, no):
                    raise
                return None

        return self.hypervisor.call("reading a saved VM", read, lane="saves")

    def restore(self, name: str, vm_id: UUID, path: str) -> None:
        """Have a saved VM again, paused; one that is there already is left alone."""

        def restore(connection: libvirt.virConnect) -> None:
            if self.hypervisor.find(connection, vm_id) is not None:
                return
            plain = connection.getType() == "TEST"  # the test driver knows no pause here
            try:
                connection.restoreFlags(path, None, 0 if plain else libvirt.VIR_DOMAIN_SAVE_PAUSED)
            except libvirt.libvirtError as no:
                if self.hypervisor.find(connection, vm_id) is None:
                    raise refusal(f"VM {name} could not be restored", no, "saved_state_unusable") from no

        self.hypervisor.call(f"restoring VM {name}", restore, SAVE_S, lane="saves")

    def resume(self, vm_id: UUID) -> None:
        """Let a paused VM go on."""

        def resume(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.require(connection, vm_id)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

        self.hypervisor.call("resuming a VM", resume)

    # -- snapshots of a running VM's disk --------------------------------------------------------
    def take_snapshot(self, vm_id: UUID, path: str, snapshot: str) -> bool:
        """Take a snapshot inside the disk of a running VM; answers whether its guest agent could freeze its file
        systems meanwhile."""

        def take(connection: libvirt.virConnect) -> bool:
            domain = self.hypervisor.require(connection, vm_id)
            frozen = _freeze(domain)
            try:
                self._on_disk(domain, "blockdev-snapshot-internal-sync", path, snapshot)
            finally:
                if frozen:
                    domain.fsThaw()
            return frozen

        return self.hypervisor.call("taking a snapshot", take, FREEZE_S, lane="guests")

    def thaw(self, vm_id: UUID) -> None:
        """Let a guest go on whose file systems an agent that died may have left frozen."""
        self.hypervisor.call(
            "thawing a guest", lambda connection: _thaw(self.hypervisor.require(connection, vm_id)), FREEZE_S, lane="guests"
        )

    def drop_snapshot(self, vm_id: UUID, path: str, snapshot: str) -> None:
        """Delete a snapshot inside the disk of a running VM."""

        def drop(connection: libvirt.virConnect) -> None:
            self._on_disk(self.hypervisor.require(connection, vm_id), "blockdev-snapshot-delete-internal-sync", path, snapshot)

        self.hypervisor.call("deleting a snapshot", drop, FREEZE_S)

    def _on_disk(self, domain: libvirt.virDomain, command: str, path: str, snapshot: str) -> None:
        """libvirt has no call for snapshots inside a disk alone: QEMU is asked past it, which changes nothing that
        libvirt remembers of the domain."""
        try:
            disks = _monitor(domain, "query-block")
            node = next((n for one in disks if (n := _node(one, path)) is not None), None)
            if node is None:
                raise HostRefused("volume_missing", f"VM {domain.name()} has no disk {path}.", path=path)
            _monitor(domain, command, device=node, name=snapshot)
        except libvirt.libvirtError as no:
            sentence = f"VM {domain.name()} took no snapshot: {said(no)}"
            raise HostRefused(unsupported(no) or "snapshot_failed", sentence) from no


def _freeze(domain: libvirt.virDomain) -> bool:
    """Whether the guest agent froze the guest's file systems. What froze halfway, or under another agent process that
    died before it could thaw them, is thawed."""
    try:
        domain.fsFreeze()
    except libvirt.libvirtError as no:
        log.info("VM %s takes its snapshot unfrozen: %s", domain.name(), no)
        _thaw(domain)
        return False
    return True


def _thaw(domain: libvirt.virDomain) -> None:
    try:
        domain.fsThaw()
    except libvirt.libvirtError as silent:
        log.debug("VM %s has nothing to thaw: %s", domain.name(), silent)


def _monitor(domain: libvirt.virDomain, command: str, **arguments: Any) -> Any:
    """What QEMU itself answers."""
    question = json.dumps({"execute": command} | ({"arguments": arguments} if arguments else {}))
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, question, 0))
    if error := answer.get("error"):
        said = str(error.get("desc", "it gives no reason")).rstrip(".")
        raise HostRefused("snapshot_failed", f"VM {domain.name()} took no snapshot: {said}.")
    return answer["return"]


def _node(disk: dict[str, Any], path: str) -> str | None:
    """The node of this disk, when the file is what it has in it."""
    inserted = disk.get("inserted") or {}
    same = os.path.realpath(str(inserted.get("file", ""))) == path
    return str(inserted["node-name"]) if same and "node-name" in inserted else None
