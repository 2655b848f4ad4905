"""A private libvirtd for tests: own mount and pid namespace, own state, no KVM; gone without a trace at the end."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PRIVATE = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
for d in etc lib cache log; do mkdir -p "$H/$d"; done
mount --bind "$H/etc" /etc/libvirt
mount --bind "$H/lib" /var/lib/libvirt
mount --bind "$H/cache" /var/cache/libvirt
mkdir -p /var/log/libvirt && mount --bind "$H/log" /var/log/libvirt
mount --bind "$H/run" /run
mkdir -p /run/lock /run/libvirt
# A /dev of its own without kvm: libvirt would otherwise probe it again and again, and boot nothing under it.
D="$H/dev"; mkdir -p "$D"; mount -t tmpfs -o mode=755,size=1m devs "$D"
for d in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
  IFS=: read n a b <<<"$d"; mknod -m 666 "$D/$n" c "$a" "$b"
done
mkdir -p "$D"/pts "$D"/shm "$D"/net "$D"/mqueue; mknod -m 666 "$D/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$D/pts"; ln -s pts/ptmx "$D/ptmx"
mount -t tmpfs tmpfs "$D/shm"
ln -s /proc/self/fd "$D/fd"; ln -s fd/0 "$D/stdin"; ln -s fd/1 "$D/stdout"; ln -s fd/2 "$D/stderr"
mount --move "$D" /dev
set +e
virtlogd -d
"""
INIT = PRIVATE + r"""
# A shell as pid 1 reaps the QEMUs that a killed libvirtd leaves behind, and starts it again.
while :; do libvirtd -f /etc/libvirt/libvirtd.conf; sleep 0.2; done
"""
LIBVIRTD = """
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
max_clients = 200
"""
QEMU = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
dynamic_ownership = 0
remote_display_port_min = {low}
remote_display_port_max = {high}
"""


class PrivateLibvirtd:
    """`uri` is reached from outside of the namespaces; displays listen on this machine's loopback."""

    def __init__(self) -> None:
        # A short path: a Unix socket's may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="lhv-", dir="/tmp"))
        self.uri = f"qemu+unix:///system?socket={self.folder}/run/libvirt/libvirt-sock"
        self._init: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        for name in ("run", "etc/qemu"):
            (self.folder / name).mkdir(parents=True)
        low = random.randrange(20000, 30000, 200)  # away from those of other libvirts on this machine
        (self.folder / "etc/libvirtd.conf").write_text(LIBVIRTD)
        (self.folder / "etc/qemu.conf").write_text(QEMU.format(low=low, high=low + 199))
        with (self.folder / "init.log").open("wb") as log:
            self._init = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "bash", "-c", INIT],
                env={**os.environ, "H": str(self.folder)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + 60
        while subprocess.run(
            ["virsh", "-q", "-c", self.uri, "version"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > end:
                raise RuntimeError(f"libvirtd does not answer: {(self.folder / 'init.log').read_text()}")
            time.sleep(0.1)

    def kill_daemon(self) -> None:
        """Kill libvirtd with its VMs running; it is started again at once."""
        pid = (self.folder / "run/libvirtd.pid").read_text().strip()
        self.inside("kill", "-9", pid)

    def inside(self, *argv: str) -> None:
        """Run a program in the namespaces."""
        subprocess.run(["nsenter", "-t", str(self._pid1()), "-m", "-p", "--", *argv], check=True)

    def stop(self) -> None:
        """End it with all its VMs."""
        if self._init is not None:
            self._init.kill()  # takes pid 1 along, and the kernel everything else
            self._init.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pid1(self) -> int:
        assert self._init is not None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return int(children[0])
