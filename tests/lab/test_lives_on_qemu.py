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

from hostapi.types import BootSpec, DiskSpec, VmReport, VmSpec, VolumeSpec
from standalone import guest
from tests.lab.test_agent_on_qemu import BOOT_S, Agent, _inside, agent, image, wait
from tests.libvirtd import PrivateLibvirtd

pytestmark = pytest.mark.lab
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
    _inside(agent, spec, "dd if=/dev/urandom of=/home/guest/big bs=64k count=200 > /dev/null 2>&1 & sync &")
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
