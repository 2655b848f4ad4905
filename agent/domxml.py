"""Pure: VmSpec -> domain XML, and what the agent reads back from a running domain's XML."""

from __future__ import annotations

import string
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from uuid import UUID

from agent.cpuxml import put_cpu
from hostapi.types import DiskSpec, NicSpec, Protocol, VmSpec

METADATA = "urn:leasehold:vm"  # marks a domain as ours
ROOT_PORTS = 12  # q35 has no free slot of its own: what is plugged in later needs a port that waits for it
DIMM_SLOTS = 16
TB_CACHE_MIB = 32  # TCG's translation cache would grow beyond 200 MiB a VM
BOOT_DEVICES = {"disk": "hd", "cd": "cdrom", "network": "network"}
CLOSED = {
    "passwd": "closed",
    "passwdValidTo": "1970-01-01T00:00:01",
}  # without a password a display asks for none

ET.register_namespace("leasehold", METADATA)


@dataclass(frozen=True)
class DomainFacts:
    """What the agent needs to know of a running domain."""

    vm_id: UUID
    name: str
    ours: bool
    memory_mib: int
    disks: frozenset[str]  # paths of the files that the VM may write
    displays: dict[Protocol, int]  # TCP ports on the host's loopback


def domain_xml(spec: VmSpec, domain_type: str | None = None) -> str:
    """The transient domain that runs this VM. Its displays listen on loopback alone, closed by a password that
    has expired, so that nobody gets in before the first ticket. `domain_type` is `spec.virt_type` but in
    libvirt's test driver."""
    domain = ET.Element("domain", type=domain_type or spec.virt_type)
    _text(domain, "name", spec.name)
    _text(domain, "uuid", str(spec.vm_id))
    ET.SubElement(ET.SubElement(domain, "metadata"), f"{{{METADATA}}}vm")
    if spec.max_memory_mib > spec.memory_mib:
        _text(domain, "maxMemory", str(spec.max_memory_mib), unit="MiB", slots=str(DIMM_SLOTS))
    _text(domain, "memory", str(spec.memory_mib), unit="MiB")
    # An emulated VM gets no room for more processors: QEMU 7.2 dies when one comes after its translation cache was full.
    vcpus = max(spec.vcpus, spec.max_vcpus) if spec.virt_type == "kvm" else spec.vcpus
    _text(domain, "vcpu", str(vcpus), **({"current": str(spec.vcpus)} if vcpus > spec.vcpus else {}))
    _boot(domain, spec)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    cpu = _cpu(spec)
    if spec.virt_type != "kvm":
        _text(ET.SubElement(features, "tcg"), "tb-cache", str(TB_CACHE_MIB), unit="MiB")
    if spec.max_memory_mib > spec.memory_mib:  # memory that comes later needs to know where it belongs
        cell = {"id": "0", "cpus": f"0-{vcpus - 1}", "memory": str(spec.memory_mib), "unit": "MiB"}
        ET.SubElement(ET.SubElement(cpu, "numa"), "cell", cell)
    if len(cpu) or cpu.attrib:
        domain.append(cpu)
    clock = ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="hpet", present="no")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(domain, event, action)
    _devices(ET.SubElement(domain, "devices"), spec)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def read_domain(xml: str) -> DomainFacts:
    """What a running domain's XML says."""
    domain = ET.fromstring(xml)
    disks = frozenset(
        source.get("file", "")
        for disk in domain.iterfind("devices/disk")
        if (source := disk.find("source")) is not None and disk.find("readonly") is None
    )
    memory = domain.find("memory")
    return DomainFacts(
        vm_id=UUID(domain.findtext("uuid", "")),
        name=domain.findtext("name", ""),
        ours=domain.find(f"metadata/{{{METADATA}}}vm") is not None,
        memory_mib=0 if memory is None else int(memory.text or 0) // 1024,  # libvirt answers in KiB
        disks=disks,
        displays=_displays(domain),
    )


def ticket_xml(xml: str, protocol: Protocol, password: str, valid_to: str) -> str | None:
    """The display's element with a new password, `valid_to` in UTC, to hand to updateDeviceFlags; everything else
    must be as it is, hence it is made from the running domain's own XML. None when there is no such display."""
    display = ET.fromstring(xml).find(f"devices/graphics[@type='{protocol}']")
    if display is None:
        return None
    display.set("passwd", password)
    display.set("passwdValidTo", valid_to)
    return ET.tostring(display, encoding="unicode")


def closed_xml(xml: str) -> str:
    """The same domain with its displays closed, as it is to be saved: what is restored opens to no earlier ticket,
    and no password lies in a file."""
    domain = ET.fromstring(xml)
    for display in domain.iterfind("devices/graphics"):
        display.attrib.update(CLOSED)
    return ET.tostring(domain, encoding="unicode")


def tickets_xml(issued: dict[str, int]) -> str:
    """Our metadata element, with the time of issue of the newest ticket of each protocol."""
    vm = ET.Element("vm")
    for protocol, issued_ms in sorted(issued.items()):
        ET.SubElement(vm, "ticket", protocol=protocol, issued_ms=str(issued_ms))
    return ET.tostring(vm, encoding="unicode")


def read_tickets(metadata: str) -> dict[str, int]:
    """What `tickets_xml` wrote, as libvirt hands it back."""
    return {
        one.get("protocol", ""): int(one.get("issued_ms", "0"))
        for one in ET.fromstring(metadata).iter()
        if one.tag.rpartition("}")[2] == "ticket"
    }


def nic_xml(nic: NicSpec) -> str:
    """The element of a network card."""
    devices = ET.Element("devices")
    _nic(devices, nic)
    return ET.tostring(devices[0], encoding="unicode")


def nic_in(xml: str, mac: str) -> str | None:
    """The running domain's own element of its network card with this address."""
    for element in ET.fromstring(xml).iterfind("devices/interface"):
        address = element.find("mac")
        if address is not None and address.get("address", "").lower() == mac.lower():
            return ET.tostring(element, encoding="unicode")
    return None


def nic_changed(xml: str, nic: NicSpec) -> str | None:
    """The same element on this bridge, with its cable in or out; everything else must be as it is."""
    if (found := nic_in(xml, nic.mac)) is None:
        return None
    element = ET.fromstring(found)
    source = element.find("source")
    if source is not None:
        source.attrib.clear()
        source.set("bridge", nic.bridge)
    link = element.find("link")
    if link is None:
        link = ET.SubElement(element, "link")
    link.set("state", "up" if nic.linked else "down")
    return ET.tostring(element, encoding="unicode")


def disk_in(xml: str, path: str) -> str | None:
    """The running domain's own element of the disk in this file."""
    for element in ET.fromstring(xml).iterfind("devices/disk"):
        source = element.find("source")
        if source is not None and source.get("file") == path:
            return ET.tostring(element, encoding="unicode")
    return None


def disk_xml(xml: str, disk: DiskSpec) -> str:
    """The element of a disk under the first name that is free in the running domain."""
    prefix = "vd" if disk.bus == "virtio" else "sd"
    taken = {target.get("dev") for target in ET.fromstring(xml).iterfind("devices/disk/target")}
    devices = ET.Element("devices")
    _disk(devices, disk, next(name for letter in string.ascii_lowercase if (name := prefix + letter) not in taken))
    return ET.tostring(devices[0], encoding="unicode")


def dimm_xml(mib: int) -> str:
    """The element of a memory module."""
    module = ET.Element("memory", model="dimm")
    target = ET.SubElement(module, "target")
    _text(target, "size", str(mib), unit="MiB")
    _text(target, "node", "0")
    return ET.tostring(module, encoding="unicode")


# -- the parts -----------------------------------------------------------------------------------
def _boot(domain: ET.Element, spec: VmSpec) -> None:
    os = ET.SubElement(domain, "os")
    _text(os, "type", "hvm", arch="x86_64", machine="q35")
    if spec.boot:
        _text(os, "kernel", spec.boot.kernel)
        _text(os, "initrd", spec.boot.initrd)
        _text(os, "cmdline", spec.boot.cmdline)
    else:
        for device in spec.boot_from:
            ET.SubElement(os, "boot", dev=BOOT_DEVICES[device])


def _cpu(spec: VmSpec) -> ET.Element:
    """What the cluster gives to its VMs; without a word of it, as much as the host has, or of an emulation the usual."""
    if spec.cpu is not None:
        cpu = ET.Element("cpu", mode="custom", match="exact", check="partial" if spec.virt_type == "kvm" else "none")
        put_cpu(spec.cpu, cpu)
        return cpu
    return ET.Element("cpu", mode="host-model", check="none") if spec.virt_type == "kvm" else ET.Element("cpu")


def _devices(devices: ET.Element, spec: VmSpec) -> None:
    ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    for _ in range(ROOT_PORTS):
        ET.SubElement(devices, "controller", type="pci", model="pcie-root-port")
    ET.SubElement(devices, "controller", type="usb", model="qemu-xhci")
    if any(disk.bus == "scsi" for disk in spec.disks):
        ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    letters = {"vd": iter(string.ascii_lowercase), "sd": iter(string.ascii_lowercase)}
    for disk in spec.disks:
        prefix = "vd" if disk.bus == "virtio" else "sd"
        _disk(devices, disk, prefix + next(letters[prefix]))
    if spec.cd:
        drive = ET.SubElement(devices, "disk", type="file", device="cdrom")
        ET.SubElement(drive, "driver", name="qemu", type="raw")
        ET.SubElement(drive, "source", file=spec.cd)
        ET.SubElement(drive, "target", dev="sd" + next(letters["sd"]), bus="sata")
        ET.SubElement(drive, "readonly")
    for nic in spec.nics:
        _nic(devices, nic)
    for protocol in spec.protocols:
        _display(devices, protocol)
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type=spec.video, heads="1", primary="yes")
    ET.SubElement(devices, "input", type="tablet", bus="usb")
    agent = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
    if "spice" in spec.protocols:
        clipboard = ET.SubElement(devices, "channel", type="spicevmc")
        ET.SubElement(clipboard, "target", type="virtio", name="com.redhat.spice.0")
    ET.SubElement(devices, "serial", type="pty")
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period="10")
    ET.SubElement(devices, "panic", model="isa")  # a kernel that panics says so through it
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")


def _disk(devices: ET.Element, disk: DiskSpec, name: str) -> None:
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    # "writeback" keeps the guest's own flushes honest and lets the desktops of one template share the page
    # cache for its base; QEMU stops the VM when the storage fails, so that the guest sees no broken disk.
    ET.SubElement(
        element,
        "driver",
        name="qemu",
        type=disk.format,
        cache="writeback",
        discard="unmap",
        error_policy="stop",
    )
    ET.SubElement(element, "source", file=disk.path)
    ET.SubElement(element, "target", dev=name, bus=disk.bus)
    _text(element, "serial", disk.volume_id.hex[:20])
    if disk.readonly:
        ET.SubElement(element, "readonly")


def _nic(devices: ET.Element, nic: NicSpec) -> None:
    element = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(element, "mac", address=nic.mac)
    ET.SubElement(element, "source", bridge=nic.bridge)
    ET.SubElement(element, "model", type=nic.model)
    if not nic.linked:
        ET.SubElement(element, "link", state="down")


def _display(devices: ET.Element, protocol: Protocol) -> None:
    # On loopback SPICE needs no TLS of its own: the way there is the agent's console port, which has it.
    attributes = {"type": protocol, "autoport": "yes", **CLOSED}
    if protocol == "spice":
        attributes["defaultMode"] = "any"
    element = ET.SubElement(devices, "graphics", attributes)
    ET.SubElement(element, "listen", type="address", address="127.0.0.1")


def _displays(domain: ET.Element) -> dict[Protocol, int]:
    ports: dict[Protocol, int] = {}
    for element in domain.iterfind("devices/graphics"):
        kind, port = element.get("type"), int(element.get("port", "-1"))
        if port > 0:
            if kind == "vnc":
                ports["vnc"] = port
            elif kind == "spice":
                ports["spice"] = port
    return ports


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
