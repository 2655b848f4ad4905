"""What every host promises of what is put into a running VM and taken out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from hostapi.types import DiskSpec, NicSpec
from tests.contract.conftest import Subject
from tests.contract.test_lives import sleeper

NIC = NicSpec("02:4c:48:00:00:01", "lhnone0")  # QEMU has no such bridge; the simulator does not ask


def test_a_disk_is_plugged_in_once_and_belongs_to_one_vm(subject: Subject) -> None:
    spec, volume = sleeper(subject), subject.volume()
    disk = DiskSpec(volume.volume_id, subject.done("create_volume", volume=volume))
    subject.done("start_vm", spec=spec)
    if code := subject.lacks.get("hot plug"):
        assert subject.refused("plug_disk", vm_id=spec.vm_id, disk=disk) == code
        return
    for _ in range(2):
        subject.done("plug_disk", vm_id=spec.vm_id, disk=disk)
    other = sleeper(subject)
    assert subject.refused("start_vm", spec=replace(other, disks=(disk,))) == "volume_in_use"
    gone = {"domain_path": subject.folder, "volume_id": disk.volume_id}
    assert subject.refused("delete_volume", **gone) == "volume_in_use"
    subject.done("stop_vm", vm_id=spec.vm_id)
    subject.done("delete_volume", **gone)


def test_what_does_not_run_gets_nothing(subject: Subject) -> None:
    disk = DiskSpec(uuid4(), f"{subject.folder}/volumes/{uuid4()}.qcow2")
    assert subject.refused("plug_nic", vm_id=uuid4(), nic=NIC) == "vm_not_running"
    assert subject.refused("update_nic", vm_id=uuid4(), nic=NIC) == "vm_not_running"
    assert subject.refused("plug_disk", vm_id=uuid4(), disk=disk) == "vm_not_running"
    assert subject.refused("grow_vm", vm_id=uuid4(), memory_mib=256, vcpus=1) == "vm_not_running"
    subject.done("unplug_nic", vm_id=uuid4(), mac=NIC.mac, timeout_s=1)
    subject.done("unplug_disk", vm_id=uuid4(), disk=disk, timeout_s=1)


def test_a_disk_that_is_not_there_is_refused(subject: Subject) -> None:
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    volume_id = uuid4()
    disk = DiskSpec(volume_id, f"{subject.folder}/volumes/{volume_id}.qcow2")
    assert subject.refused("plug_disk", vm_id=spec.vm_id, disk=disk) == "disk_missing"
    if "storage roots" not in subject.lacks:
        assert subject.refused("plug_disk", vm_id=spec.vm_id, disk=replace(disk, path="/etc/passwd")) == "path_refused"
        assert Path("/etc/passwd").is_file()


def test_a_vm_grows_within_its_room_alone(subject: Subject) -> None:
    if "hot plug" in subject.lacks:
        return  # it has no modules of memory
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    subject.done("grow_vm", vm_id=spec.vm_id, memory_mib=spec.memory_mib, vcpus=1)
    assert subject.refused("grow_vm", vm_id=spec.vm_id, memory_mib=spec.memory_mib + 128, vcpus=1) == "no_headroom"
    assert subject.refused("grow_vm", vm_id=spec.vm_id, memory_mib=spec.memory_mib, vcpus=2) == "no_headroom"
    roomy = replace(sleeper(subject), max_memory_mib=512, max_vcpus=4)
    subject.done("start_vm", spec=roomy)
    for _ in range(2):
        subject.done("grow_vm", vm_id=roomy.vm_id, memory_mib=roomy.memory_mib + 128, vcpus=1)
    assert subject.refused("grow_vm", vm_id=roomy.vm_id, memory_mib=roomy.memory_mib + 200, vcpus=1) == "no_headroom"
    assert subject.refused("grow_vm", vm_id=roomy.vm_id, memory_mib=roomy.memory_mib, vcpus=2) == "no_headroom"
