"""The life of a real guest: paused, failed by its storage and let go on, rebooted from inside, crashed.

One guest sees it all, because a real one takes a while to boot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from hostapi.types import BootSpec, DiskSpec, NicSpec, VmReport, VmSpec, VolumeSpec
from standalone import guest
from tests.lab.test_agent_on_qemu import BOOT_S, Agent, _inside, agent, image, wait
from tests.libvirtd import PrivateLibvirtd

pytestmark = pytest.mark.lab
LONG = pytest.mark.skipif(not os.environ.get("LAB_LONG"), reason="make lab-test")
__all__ = ["agent", "image"]  # the fixtures


def seen(agent: Agent, spec: VmSpec) -> VmReport:
    return next(vm for vm in agent.client.report().vms if vm.vm_id == spec.vm_id)


def ended(agent: Agent, spec: VmSpec) -> list[str]:
    return [end.by for end in agent.client.report().ended if end.vm_id == spec.vm_id]


@pytest.fixture
def small(agent: Agent, private_libvirtd: PrivateLibvirtd) -> Iterator[Path]:
    """A file system with hardly any room in it until `ballast` is thrown off. It is mounted on both sides: libvirtd has
    mounts of its own."""
    folder, image = agent.root / "small", agent.root / "small.img"
    folder.mkdir()
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-m", "0", str(image), "64m"], check=True)
    loop = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=True).stdout.strip()
    try:
        subprocess.run(["mount", loop, str(folder)], check=True)
        numbers = Path(loop).stat().st_rdev
        private_libvirtd.inside("mknod", loop, "b", str(os.major(numbers)), str(os.minor(numbers)))
        private_libvirtd.inside("mount", loop, str(folder))
        subprocess.run(["dd", "if=/dev/zero", f"of={folder}/ballast", "bs=1M", "count=52", "status=none"], check=True)
        yield folder
    finally:
        for vm_id in agent.made:
            agent.done("stop_vm", vm_id=vm_id)
        private_libvirtd.inside("umount", str(folder))
        subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["losetup", "-d", loop], check=True)


def test_what_happens_to_a_guest(agent: Agent, image: guest.GuestImage, small: Path) -> None:
    for file in (image.kernel, image.initrd, image.disk):
        shutil.copy(file, agent.root / file.name)
    agent.done("attach_domain", path=str(small))
    vm_id = uuid4()
    name = f"vm-{vm_id.hex[:8]}"
    volume = VolumeSpec(uuid4(), str(small), guest.DISK_MIB, str(agent.root / image.disk.name))
    disk = DiskSpec(volume.volume_id, agent.done("create_volume", volume=volume))
    boot = BootSpec(
        str(agent.root / image.kernel.name), str(agent.root / image.initrd.name), guest.CMDLINE.format(name=name)
    )
    spec = VmSpec(vm_id, name, guest.MEMORY_MIB, 1, "qemu", (disk,), boot=boot, paused=True)
    agent.made.append(vm_id)

    agent.done("start_vm", spec=spec)
    assert (seen(agent, spec).state, seen(agent, spec).paused_for) == ("paused", "asked")
    agent.done("unpause_vm", vm_id=vm_id)
    agent.done("await_boot", vm_id=vm_id, timeout_s=BOOT_S, within_s=BOOT_S)

    # its storage fills up: it is paused with the reason, stays so while there is no room, and goes on when there is
    _inside(agent, spec, "(sleep 2; dd if=/dev/urandom of=/home/guest/big bs=64k count=200; sync) > /dev/null 2>&1 &")
    wait(lambda: seen(agent, spec).paused_for == "enospc", "its storage is full", 120)
    outcome = agent.ask("unpause_vm", vm_id=vm_id)
    assert outcome.failure is not None and outcome.failure.code == "stalled", outcome
    (small / "ballast").unlink()
    agent.done("unpause_vm", vm_id=vm_id)
    assert (seen(agent, spec).state, seen(agent, spec).paused_for) == ("running", "")
    wait(lambda: _inside(agent, spec, "sync; wc -c < /home/guest/big") == str(200 * 65536), "nothing is lost", 120)

    # it reboots from inside, and crashes
    boots = seen(agent, spec).boots
    _inside(agent, spec, "(sleep 1; reboot -f) > /dev/null 2>&1 &")
    wait(lambda: seen(agent, spec).boots == boots + 1, "it has rebooted", 120)
    agent.done("await_boot", vm_id=vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    _inside(agent, spec, "(sleep 1; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
    wait(lambda: agent.running() == set(), "it is off", 120)
    assert ended(agent, spec) == ["crashed"]

    # it shuts down from inside
    agent.done("start_vm", spec=replace(spec, paused=False))
    assert ended(agent, spec) == []
    agent.done("await_boot", vm_id=vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    _inside(agent, spec, "(sleep 1; poweroff -f) > /dev/null 2>&1 &")
    wait(lambda: agent.running() == set(), "it is off", 120)
    assert ended(agent, spec) == ["guest"]


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"lh{os.getpid() % 100_000}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


@LONG
def test_a_guest_is_given_more_while_it_runs(agent: Agent, image: guest.GuestImage, bridge: str) -> None:
    still = agent.vm(image)
    agent.done("stop_vm", vm_id=still.vm_id)
    spec = replace(still, memory_mib=192, max_memory_mib=512, max_vcpus=3)
    agent.done("start_vm", spec=spec)
    agent.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)

    # memory, and no processors
    before = int(_inside(agent, spec, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
    for _ in range(2):
        agent.done("grow_vm", vm_id=spec.vm_id, memory_mib=320, vcpus=1)
    wait(lambda: int(_inside(agent, spec, "awk '/MemTotal/ {print $2}' /proc/meminfo")) > before + 100_000, "it sees the memory")
    outcome = agent.ask("grow_vm", vm_id=spec.vm_id, memory_mib=320, vcpus=2)  # QEMU would die of it while it emulates
    assert outcome.failure is not None and outcome.failure.code == "no_headroom", outcome

    # a network card: in, its cable out, on no bridge that is there, and out again
    nic = NicSpec("02:4c:48:00:00:01", bridge)
    for _ in range(2):
        agent.done("plug_nic", vm_id=spec.vm_id, nic=nic)
    wait(lambda: "eth0" in _inside(agent, spec, "ls /sys/class/net"), "it has a network card")
    assert _inside(agent, spec, "cat /sys/class/net/eth0/address") == nic.mac
    _inside(agent, spec, "ip link set eth0 up")
    wait(lambda: _inside(agent, spec, "cat /sys/class/net/eth0/carrier") == "1", "its cable is in")
    agent.done("update_nic", vm_id=spec.vm_id, nic=replace(nic, linked=False))
    wait(lambda: _inside(agent, spec, "cat /sys/class/net/eth0/carrier") == "0", "its cable is out")
    outcome = agent.ask("plug_nic", vm_id=spec.vm_id, nic=NicSpec("02:4c:48:00:00:02", "lhnone0"))
    assert outcome.failure is not None and outcome.failure.code in ("no_bridge", "not_plugged"), outcome
    agent.done("unplug_nic", vm_id=spec.vm_id, mac=nic.mac, timeout_s=60)
    agent.done("unplug_nic", vm_id=spec.vm_id, mac=nic.mac, timeout_s=60)
    assert "eth0" not in _inside(agent, spec, "ls /sys/class/net")

    # a disk: in, held by a guest that ignores the button, and out
    volume = VolumeSpec(uuid4(), str(agent.root / "domain"), 16)
    disk = DiskSpec(volume.volume_id, agent.done("create_volume", volume=volume))
    agent.done("plug_disk", vm_id=spec.vm_id, disk=disk)
    wait(lambda: "vdb" in _inside(agent, spec, "ls /sys/block"), "it has a disk")
    _inside(agent, spec, "dd if=/dev/urandom of=/dev/vdb bs=64k count=16 2> /dev/null; sync")
    agent.done("unplug_disk", vm_id=spec.vm_id, disk=disk, timeout_s=60)
    assert "vdb" not in _inside(agent, spec, "ls /sys/block")
    agent.done("plug_disk", vm_id=spec.vm_id, disk=disk)
    where = {"vm_id": spec.vm_id, "domain_path": str(agent.root / "domain"), "volume_id": disk.volume_id}
    agent.done("resize_volume", **where, capacity_mib=32)
    wait(lambda: _inside(agent, spec, "cat /sys/block/vdb/size") == str(32 << 11), "its disk is larger")
    agent.done("unplug_disk", vm_id=spec.vm_id, disk=disk, timeout_s=60)
    agent.done("pause_vm", vm_id=spec.vm_id)  # as deaf as a guest that hangs
    agent.done("plug_disk", vm_id=spec.vm_id, disk=disk)
    outcome = agent.ask("unplug_disk", vm_id=spec.vm_id, disk=disk, timeout_s=3)
    assert outcome.failure is not None and outcome.failure.code == "not_let_go", outcome
    assert agent.ask("delete_volume", domain_path=str(agent.root / "domain"), volume_id=disk.volume_id).state == "failed"
    agent.done("unpause_vm", vm_id=spec.vm_id)
    agent.done("unplug_disk", vm_id=spec.vm_id, disk=disk, timeout_s=60, within_s=90)
    agent.done("delete_volume", domain_path=str(agent.root / "domain"), volume_id=disk.volume_id)
