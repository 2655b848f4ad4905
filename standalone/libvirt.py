"""The libvirt that the desktops run on: the machine's own where it will do, else one of our own."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import time
from pathlib import Path
from typing import IO

from standalone.place import Place
from standalone.processes import Processes
from standalone.trouble import Trouble

SYSTEM = "qemu:///system"
SYSTEM_SOCKET = Path("/run/libvirt/libvirt-sock")
OURS = "urn:leasehold:vm"  # how the agent marks its domains
GUEST_STOP_S = 15


class Libvirt:
    """`uri` is where the agent finds it."""

    def __init__(self, processes: Processes, place: Place) -> None:
        self._processes, self._place = processes, place
        self._claim: IO[str] | None = None
        self._link: Path | None = None
        if why := self._why_not_system():
            processes.say("libvirt", f"{why} Leasehold runs one of its own.")
            self.uri = self._start_own()
        else:
            processes.say("libvirt", f"The machine's own at {SYSTEM} is used.")
            self.uri = SYSTEM

    def _why_not_system(self) -> str | None:
        if SYSTEM_SOCKET.is_symlink() or not _answers(SYSTEM):
            return f"No libvirt answers at {SYSTEM}."
        self._claim = Path("/run/leasehold-libvirt.lock").open("w")  # noqa: SIM115 -- held as long as we use it
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)  # names of VMs would collide
        except BlockingIOError:
            return f"Another Leasehold uses {SYSTEM}."
        try:
            user = pwd.getpwnam("libvirt-qemu")
        except KeyError:
            return "QEMU has no user of its own here."
        for folder in (self._place.storage, *self._place.storage.parents):
            if not _may_enter(folder, user):
                return f"QEMU's user may not enter {folder}."
        if os.path.exists("/dev/kvm") and not _may_use(Path("/dev/kvm"), user):
            return "QEMU's user may not open /dev/kvm."
        return None

    def _start_own(self) -> str:
        place = self._place
        part = self._processes.add(
            "libvirtd", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private",
            Path(__file__).with_name("libvirtd"), place.state, place.run, stop_with=None,
        )  # fmt: skip
        socket = place.run / "libvirt" / "libvirt-sock"
        uri = f"qemu+unix:///system?socket={socket}"
        self._processes.until(lambda: socket.exists() and _answers(uri), part, "libvirt's start")
        if SYSTEM_SOCKET.is_symlink() and not _answers(SYSTEM):
            SYSTEM_SOCKET.unlink()  # of a Leasehold that was killed
        if not SYSTEM_SOCKET.exists():
            # so that "virsh -c qemu:///system list" shows the desktops as people expect
            SYSTEM_SOCKET.parent.mkdir(exist_ok=True)
            SYSTEM_SOCKET.symlink_to(socket)
            self._link = SYSTEM_SOCKET
        return uri

    def stop(self, kept: set[str]) -> None:
        """Shut down the VMs whose disks are kept, cut the power of the others and of those that will not."""
        running = self._running()
        for vm in running:
            _virsh(self.uri, "shutdown" if vm in kept else "destroy", vm)
        end = time.monotonic() + GUEST_STOP_S
        while (running := self._running()) and time.monotonic() < end:
            time.sleep(0.2)
        for vm in running:
            _virsh(self.uri, "destroy", vm)
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def _running(self) -> list[str]:
        listed = _virsh(self.uri, "list", "--uuid")
        names = listed.stdout.split() if listed.returncode == 0 else []
        return [vm for vm in names if _virsh(self.uri, "metadata", vm, "--uri", OURS).returncode == 0]


def _virsh(uri: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, check=False, timeout=60)


def _answers(uri: str) -> bool:
    try:
        return _virsh(uri, "version").returncode == 0
    except subprocess.TimeoutExpired as no:
        raise Trouble(f"libvirt at {uri} does not answer: restart it (systemctl restart libvirtd), then start again.") from no


def _may_enter(path: Path, user: pwd.struct_passwd) -> bool:
    return _may(path, user, 0o1)


def _may_use(path: Path, user: pwd.struct_passwd) -> bool:
    return _may(path, user, 0o6)


def _may(path: Path, user: pwd.struct_passwd, bits: int) -> bool:
    """Whether the mode of this file gives the user these bits."""
    status = path.stat()
    if status.st_uid == user.pw_uid:
        given = status.st_mode >> 6
    elif status.st_gid in os.getgrouplist(user.pw_name, user.pw_gid):
        given = status.st_mode >> 3
    else:
        given = status.st_mode
    return given & bits == bits
