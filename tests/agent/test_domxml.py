"""Domain XML compared with golden files; `pytest tests/agent/test_domxml.py --rewrite` renews them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from agent.domxml import (
    closed_xml,
    disk_in,
    disk_xml,
    domain_xml,
    nic_changed,
    nic_in,
    read_domain,
    read_tickets,
    ticket_xml,
    tickets_xml,
)
from hostapi.types import BootSpec, Cpu, DiskSpec, NicSpec, VmSpec

GOLDEN = Path(__file__).parents[1] / "golden"
VOLUMES = "/srv/storage/volumes"
PLAIN = VmSpec(
    UUID(int=1), "plain", 512, 1, "qemu",
    (DiskSpec(UUID(int=11), f"{VOLUMES}/{UUID(int=11)}.qcow2"),),
    boot=BootSpec("/srv/storage/vmlinuz", "/srv/storage/initrd.gz", "quiet leasehold.name=plain"),
)
FULL = VmSpec(
    UUID(int=2), "full", 4096, 4, "kvm",
    (
        DiskSpec(UUID(int=21), f"{VOLUMES}/a.qcow2"),
        DiskSpec(UUID(int=22), f"{VOLUMES}/b.raw", "raw", "scsi"),
        DiskSpec(UUID(int=23), f"{VOLUMES}/c.iso", "raw", "sata", readonly=True),
        DiskSpec(UUID(int=24), f"{VOLUMES}/d.qcow2"),
    ),
    (NicSpec("52:54:00:00:00:01", "br0"), NicSpec("52:54:00:00:00:02", "br1", "e1000e")),
    video="qxl",
)
VNC_ONLY = replace(PLAIN, vm_id=UUID(int=3), name="vnc-only", protocols=("vnc",), video="vga", boot=None)
HOSTILE = replace(
    PLAIN, vm_id=UUID(int=4), name="<evil>&'\"", disks=(DiskSpec(UUID(int=41), "/srv/storage/'/><x y='.qcow2"),),
    boot=BootSpec("/srv/k", "/srv/i", "]]></cmdline><x/>"),
)
ROOMY = replace(
    PLAIN, vm_id=UUID(int=5), name="roomy", virt_type="kvm", max_memory_mib=2048, max_vcpus=4, boot=None,
    boot_from=("cd", "disk"), cd="/srv/storage/iso/debian.iso", nics=(NicSpec("02:4c:48:00:00:01", "br0", linked=False),),
)
SPECS = {"plain": PLAIN, "full": FULL, "vnc-only": VNC_ONLY, "hostile": HOSTILE, "roomy": ROOMY}


@pytest.mark.parametrize("name", SPECS)
def test_domain_xml_is_as_expected(name: str, request: pytest.FixtureRequest) -> None:
    golden, made = GOLDEN / f"domain-{name}.xml", domain_xml(SPECS[name])
    if request.config.getoption("--rewrite") or not golden.exists():
        golden.write_text(made)
    assert made == golden.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_what_is_written_is_read_back(name: str) -> None:
    spec = SPECS[name]
    facts = read_domain(domain_xml(spec).replace('unit="MiB"', "").replace(">512<", ">524288<"))
    assert (facts.vm_id, facts.name, facts.ours) == (spec.vm_id, spec.name, True)
    assert facts.disks == {disk.path for disk in spec.disks if not disk.readonly}
    assert facts.displays == {}  # a port is known once it runs


@pytest.mark.parametrize("name", SPECS)
def test_no_display_is_open_before_the_first_ticket(name: str) -> None:
    displays = ET.fromstring(domain_xml(SPECS[name])).findall("devices/graphics")
    assert [display.get("type") for display in displays] == list(SPECS[name].protocols)
    for display in displays:
        assert display.get("passwd") and display.get("passwdValidTo") == "1970-01-01T00:00:01"
        listen = display.findall("listen")
        assert [(one.get("type"), one.get("address")) for one in listen] == [("address", "127.0.0.1")]


def test_a_ticket_changes_the_password_and_nothing_else() -> None:
    xml = domain_xml(PLAIN)
    made = ticket_xml(xml, "vnc", "a<b&c", "2026-11-23T08:00:00")
    assert made is not None
    before, after = ET.fromstring(xml).find("devices/graphics[@type='vnc']"), ET.fromstring(made)
    assert before is not None
    assert after.attrib == {**before.attrib, "passwd": "a<b&c", "passwdValidTo": "2026-11-23T08:00:00"}
    assert [(child.tag, child.attrib) for child in after] == [(child.tag, child.attrib) for child in before]
    assert ticket_xml(domain_xml(VNC_ONLY), "spice", "x", "2026-11-23T08:00:00") is None


def test_a_network_card_is_changed_and_nothing_else() -> None:
    xml, wanted = domain_xml(FULL), NicSpec("52:54:00:00:00:02", "br9", linked=False)
    before, after = nic_in(xml, "52:54:00:00:00:02"), nic_changed(xml, wanted)
    assert before is not None and after is not None
    assert after.replace(' bridge="br9"', ' bridge="br1"').replace('<link state="down" />', "").split() == before.split()
    assert nic_changed(xml, replace(wanted, mac="52:54:00:00:00:09")) is None


def test_a_disk_that_is_plugged_in_takes_the_first_free_name() -> None:
    xml = domain_xml(FULL)
    made = ET.fromstring(disk_xml(xml, DiskSpec(UUID(int=29), f"{VOLUMES}/x.qcow2"))).find("target")
    assert made is not None and made.attrib == {"dev": "vdc", "bus": "virtio"}
    assert disk_in(xml, f"{VOLUMES}/a.qcow2") and disk_in(xml, f"{VOLUMES}/x.qcow2") is None


def test_times_of_issue_are_read_back() -> None:
    assert read_tickets(tickets_xml({"vnc": 5, "spice": 7})) == {"vnc": 5, "spice": 7}
    assert read_tickets('<x:vm xmlns:x="urn:leasehold:vm"><x:ticket protocol="vnc" issued_ms="9"/></x:vm>') == {"vnc": 9}
    assert read_tickets("<vm/>") == {}


def test_a_domain_of_somebody_else_is_not_ours() -> None:
    xml = f"<domain><name>x</name><uuid>{UUID(int=5)}</uuid><memory>1024</memory><devices/></domain>"
    assert not read_domain(xml).ours


def test_a_domain_is_saved_with_its_displays_closed() -> None:
    opened = domain_xml(PLAIN).replace("closed", "sesame12").replace("1970-01-01T00:00:01", "2030-01-01T00:00:00")
    assert "sesame12" in opened
    saved = closed_xml(opened)
    assert "sesame12" not in saved and "2030" not in saved and saved.count('passwd="closed"') == 2
    assert read_domain(saved) == read_domain(opened)


def test_a_vm_is_given_the_cpu_that_is_wanted() -> None:
    given = Cpu("Haswell", "Intel", adds=("clwb",), lacks=("hle", "rtm"))
    for spec in (PLAIN, replace(PLAIN, virt_type="kvm")):
        cpu = ET.fromstring(domain_xml(replace(spec, cpu=given))).find("cpu")
        assert cpu is not None and cpu.get("mode") == "custom"
        assert (cpu.findtext("model"), cpu.findtext("vendor")) == ("Haswell", "Intel")
        policies = [(one.get("name"), one.get("policy")) for one in cpu.iterfind("feature")]
        assert policies == [("clwb", "require"), ("hle", "disable"), ("rtm", "disable")]
