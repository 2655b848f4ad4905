"""libvirt: what is put into a running VM and taken out of it: network cards, disks, memory, processors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import libvirt

from agent.domxml import dimm_xml, disk_in, disk_xml, nic_changed, nic_in, nic_xml
from agent.guests import Guests
from agent.virt import GuestSilent, Hypervisor, refusal, said, unsupported
from hostapi.types import DiskSpec, NicSpec
from hostapi.verbs import HostRefused

log = logging.getLogger("hotplug")
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
PLUG_S = 60.0
ONLINE_S, LOOK_S = 20.0, 0.5  # how long a guest may take to see what is new
PARTS = {"vcpus": ("logical-id", "vcpus"), "memory-blocks": ("phys-index", "mem-blks")}
MODULE_MIB = 128  # guests take memory in blocks of this size


class Hotplug:
    """What `Hypervisor` runs, changed while it runs."""

    def __init__(self, hypervisor: Hypervisor, guests: Guests) -> None:
        self.hypervisor, self.guests = hypervisor, guests

    # -- network cards and disks -----------------------------------------------------------------
    def plug_nic(self, vm_id: UUID, nic: NicSpec) -> None:
        """Put a network card in."""
        self._plug(vm_id, lambda xml: nic_in(xml, nic.mac), lambda xml: nic_xml(nic), f"network card {nic.mac}")

    def plug_disk(self, vm_id: UUID, disk: DiskSpec) -> None:
        """Put a disk in."""
        self._plug(vm_id, lambda xml: disk_in(xml, disk.path), lambda xml: disk_xml(xml, disk), "disk")

    def update_nic(self, vm_id: UUID, nic: NicSpec) -> None:
        """Another bridge, or its cable in or out."""

        def update(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.require(connection, vm_id)
            changed = nic_changed(domain.XMLDesc(0), nic)
            if changed is None:
                raise HostRefused("no_nic", f"VM {domain.name()} has no network card {nic.mac}.", mac=nic.mac)
            self._do(domain, lambda: domain.updateDeviceFlags(changed, LIVE), "took the network card not so")

        self.hypervisor.call("changing a network card", update, PLUG_S)

    def grow_disk(self, vm_id: UUID, path: str, capacity_mib: int) -> None:
        """Make the file of one of its disks larger; its guest is told."""

        def grow(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.require(connection, vm_id)
            if disk_in(domain.XMLDesc(0), path) is None:
                raise HostRefused("volume_in_use", f"VM {domain.name()} runs, but not with this volume.", path=path)
            size, how = capacity_mib << 20, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
            self._do(domain, lambda: domain.blockResize(path, size, how), "did not get a larger disk", "not_resized")

        self.hypervisor.call("making a disk larger", grow, PLUG_S)

    def ask_nic_back(self, vm_id: UUID, mac: str) -> bool:
        """Ask the guest for a network card; True when it is out."""
        return self._unplug(vm_id, lambda xml: nic_in(xml, mac))

    def ask_disk_back(self, vm_id: UUID, path: str) -> bool:
        """Ask the guest for a disk; True when it is out."""
        return self._unplug(vm_id, lambda xml: disk_in(xml, path))

    # -- memory and processors -------------------------------------------------------------------
    def grow(self, vm_id: UUID, memory_mib: int, vcpus: int) -> None:
        """Give it memory and processors up to these totals, and have its guest use them."""

        def grow(connection: libvirt.virConnect) -> bool:
            domain = self.hypervisor.require(connection, vm_id)
            more = memory_mib - domain.info()[1] // 1024
            has = domain.vcpusFlags(LIVE)
            if more > 0 and (more % MODULE_MIB or "<maxMemory" not in domain.XMLDesc(0)):
                raise HostRefused("no_headroom", f"VM {domain.name()} cannot be given {more} MiB while it runs: it was "
                                  f"started without room to grow, or that is no multiple of {MODULE_MIB} MiB.")  # fmt: skip
            if vcpus > domain.vcpusFlags(LIVE | libvirt.VIR_DOMAIN_VCPU_MAXIMUM):
                raise HostRefused("no_headroom", f"VM {domain.name()} cannot have {vcpus} processors in this run: it was "
                                  "started for fewer, or is emulated.")  # fmt: skip
            if more > 0:
                self._do(domain, lambda: domain.attachDeviceFlags(dimm_xml(more), LIVE), "took no more memory", "not_grown")
            if vcpus > has:
                self._do(domain, lambda: domain.setVcpusFlags(vcpus, LIVE), "took no more processors", "not_grown")
            return more > 0 or vcpus > has

        try:
            before = self._parts(vm_id)
        except (GuestSilent, HostRefused):
            before = []
        grown = self.hypervisor.call("giving a VM more", grow, PLUG_S)
        self._bring_online(vm_id, len(before) if grown else -1)

    def _bring_online(self, vm_id: UUID, before: int) -> None:
        """Many guests do so by themselves; the others by their agent, if it can. A guest sees what is new only after a while:
        it is looked until it has more parts than `before`. Nothing depends on it."""
        end = time.monotonic() + ONLINE_S
        try:
            while True:
                parts = self._parts(vm_id)
                for what, (key, argument) in PARTS.items():
                    offline = [one[key] for kind, one in parts if kind == what and not one.get("online", True)]
                    if offline:
                        wanted = [{key: number, "online": True} for number in offline]
                        self.hypervisor.ask_guest(vm_id, f"guest-set-{what}", **{argument: wanted})
                if len(parts) > before or time.monotonic() > end:
                    return
                time.sleep(LOOK_S)
        except GuestSilent as silent:
            log.info("the guest of VM %s uses what it was given when it likes: %s", vm_id, silent)

    def _parts(self, vm_id: UUID) -> list[tuple[str, dict[str, Any]]]:
        """The processors and memory blocks that the guest knows of."""
        return [(what, one) for what in PARTS for one in self._answers(vm_id, f"guest-get-{what}")]

    def _answers(self, vm_id: UUID, command: str) -> list[dict[str, Any]]:
        answer = self.hypervisor.ask_guest(vm_id, command)
        return [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []

    # -- inside ----------------------------------------------------------------------------------
    def _plug(self, vm_id: UUID, there: Callable[[str], str | None], made: Callable[[str], str], what: str) -> None:
        def plug(connection: libvirt.virConnect) -> None:
            domain = self.hypervisor.require(connection, vm_id)
            xml = domain.XMLDesc(0)
            if there(xml) is None:
                self._do(domain, lambda: domain.attachDeviceFlags(made(xml), LIVE), f"took the {what} not in")

        try:
            self.hypervisor.call(f"plugging a {what} in", plug, PLUG_S)
        finally:
            self.hypervisor.forget_facts(vm_id)

    def _unplug(self, vm_id: UUID, there: Callable[[str], str | None]) -> bool:
        def unplug(connection: libvirt.virConnect) -> bool:
            if (domain := self.hypervisor.find(connection, vm_id)) is None:
                return True
            if (element := there(domain.XMLDesc(0))) is None:
                return True
            try:
                domain.detachDeviceFlags(element, LIVE)
            except libvirt.libvirtError as no:
                if no.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING:
                    return True
                if code := unsupported(no):
                    raise HostRefused(code, f"Nothing can be taken out of VM {domain.name()}: {said(no)}") from no
                log.info("VM %s does not let go yet: %s", domain.name(), no)  # it is asked for already, for instance
            return there(domain.XMLDesc(0)) is None

        try:
            return self.hypervisor.call("unplugging a device", unplug, PLUG_S)
        finally:
            self.hypervisor.forget_facts(vm_id)

    def _do(self, domain: libvirt.virDomain, work: Callable[[], Any], what: str, otherwise: str = "not_plugged") -> None:
        try:
            work()
        except libvirt.libvirtError as no:
            if code := unsupported(no):
                raise HostRefused(code, f"VM {domain.name()} {what}: {said(no)}") from no
            raise refusal(f"VM {domain.name()} {what}", no, otherwise) from no
