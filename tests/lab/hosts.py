"""Real hosts on one machine: network, mount and pid namespaces, each with its own libvirtd and agent, on one bridge.

A host's power is its namespaces' pid 1: `power_off` leaves none of its QEMUs. What lies in its folder stays, as on a disk.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.libvirtd import LIBVIRTD, PRIVATE, QEMU

ROOT = Path(__file__).parents[2]
INIT = PRIVATE + r"""
for _ in $(seq 200); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.05; done
mount -t sysfs sysfs /sys 2>/dev/null
# As an init system would: both are started again when they die, unless somebody holds them.
(while :; do [ -e "$H/hold-libvirtd" ] || libvirtd -f /etc/libvirt/libvirtd.conf; sleep 0.2; done) &
cd "$ROOT"
(while :; do
  [ -e "$H/agent/cert.pem" ] && [ ! -e "$H/hold-agent" ] && "$PYTHON" -m agent run --state "$H/agent" >>"$H/agent.log" 2>&1
  sleep 0.2
done) &
while :; do sleep 86400 & wait $!; done
"""


def run(*argv: str | Path, check: bool = True, timeout_s: float = 120) -> str:
    """What a program on this machine says."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert not (check and done.returncode), f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}"
    return done.stdout


def until(true: Callable[[], Any], what: str, limit_s: float = 120) -> Any:
    """What `true` answers, as soon as it is anything true."""
    end = time.monotonic() + limit_s
    while not (answer := true()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.05)
    return answer


class Net:
    """A bridge in a network of its own; this machine is `.1`, where the manager is."""

    def __init__(self) -> None:
        taken = run("ip", "-o", "-4", "addr")
        free = [f"10.{random.randrange(100, 250)}.{n}" for n in random.sample(range(1, 255), 20)]
        self.prefix = next(net for net in free if f" {net}." not in taken)
        self.name = f"lh{random.randrange(16**4):04x}"  # names of interfaces are short
        self.bridge = f"{self.name}br"
        self.manager = f"{self.prefix}.1"

    def up(self) -> None:
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.manager}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def down(self) -> None:
        run("ip", "link", "del", self.bridge, check=False)


class LabHost:
    """One host: `power_on`, `power_off`, `cut` and `heal` of its network, `inside` to run something there."""

    def __init__(self, lab: Path, net: Net, number: int, shared: Path) -> None:
        self.name, self.number, self.net, self.shared = f"hv{number}", number, net, shared
        self.address = f"{net.prefix}.{10 + number}"
        self.folder, self._cable = lab / self.name, f"{net.name}v{number}"
        self.agent = self.folder / "agent"
        self.uri = f"qemu+unix:///system?socket={self.folder}/run/libvirt/libvirt-sock"
        self._init: subprocess.Popen[bytes] | None = None
        for name in ("run", "etc/qemu", "cache/qemu/capabilities", "agent"):
            (self.folder / name).mkdir(parents=True)
        uuid = f"{number:08d}-0000-4000-8000-{number:012d}"  # one machine has one id, and its hosts must differ
        (self.folder / "etc/libvirtd.conf").write_text(f'{LIBVIRTD}\nhost_uuid = "{uuid}"\n')
        low = 20000 + 400 * number
        (self.folder / "etc/qemu.conf").write_text(QEMU.format(low=low, high=low + 199))
        for file in capabilities().glob("*.xml"):
            shutil.copy(file, self.folder / "cache/qemu/capabilities")

    # -- power and network -------------------------------------------------------------------------
    def power_on(self) -> None:
        """Switch it on and wait until its libvirt answers; an agent that is enrolled is started by it."""
        run("ip", "link", "del", self._cable, check=False)  # the kernel may keep the network of what was killed for a minute
        self.release()  # what was held of the last run
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()
        environ = {**os.environ, "H": str(self.folder), "ROOT": str(ROOT), "PYTHON": sys.executable}
        with (self.folder / "init.log").open("ab") as log:
            self._init = subprocess.Popen(
                ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "bash", "-c", INIT],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        pid = str(until(self.pid1, f"{self.name} has a first process", 30))
        run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", self._cable, "master", self.net.bridge, "up")
        mac = "52:54:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))  # a stable one, as hosts have
        address = f"addr add {self.address}/24 dev eth0"
        for words in (f"link set eth0 address {mac}", address, "link set lo up", "link set eth0 up"):
            run("nsenter", "-t", pid, "-n", "ip", *words.split())
        run("nsenter", "-t", pid, "-u", "hostname", self.name)
        until(self._answers, f"libvirt of {self.name} answers: {self.log()}", 60)

    def power_off(self) -> None:
        """Cut its power: first the cable, so that nobody hears of it, then everything it runs."""
        if self._init is None:
            return
        run("ip", "link", "set", self._cable, "down", check=False)
        if pid := self.pid1():
            subprocess.run(["kill", "-9", str(pid)], check=False)
        self._init.kill()
        self._init.wait()
        self._init = None

    def is_on(self) -> bool:
        """Whether it has power."""
        return self._init is not None and self._init.poll() is None

    def cut(self) -> None:
        """Pull its network cable."""
        run("ip", "link", "set", self._cable, "down")

    def heal(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self._cable, "up")

    # -- its processes -----------------------------------------------------------------------------
    def inside(self, *argv: str | Path, check: bool = True, timeout_s: float = 120) -> str:
        """Run a program on the host."""
        enter = ["nsenter", "-t", str(self.pid1()), "-m", "-u", "-i", "-n", "-p", "--"]
        return run(*enter, *argv, check=check, timeout_s=timeout_s)

    def kill_agent(self, *, hold: bool = False) -> None:
        """Kill the agent; it is started again at once, or with `hold` when it is released."""
        self._kill("hold-agent", "[a]gent run --state", hold)

    def kill_libvirtd(self, *, hold: bool = False) -> None:
        """Kill libvirtd, its VMs run on; it is started again at once, or with `hold` when it is released."""
        self._kill("hold-libvirtd", "^libvirtd", hold)

    def release(self) -> None:
        """Let agent and libvirtd start again."""
        for name in ("hold-agent", "hold-libvirtd"):
            (self.folder / name).unlink(missing_ok=True)

    def enroll(self, manager: str, ca_file: Path, token: str, *more: str) -> None:
        """Enroll its agent, which then starts by itself."""
        self.inside(
            "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent", "enroll", "--manager", manager, "--token", token,
            "--ca-file", ca_file, "--state", self.agent, "--address", self.address, "--listen", self.address, "--name", self.name,
            "--storage-root", self.shared, "--storage-root", self.folder / "storage", "--virt-type", "qemu", "--migrate-unsafe",
            *more,
        )  # fmt: skip

    def virsh(self, *words: str, check: bool = True) -> str:
        """Ask its libvirt."""
        return run("virsh", "-q", "-c", self.uri, *words, check=check)

    def vms(self) -> set[str]:
        """The names of the VMs that its QEMUs run; none when it has no power."""
        return set(self.virsh("list", "--name").split()) if self.is_on() else set()

    def sh(self, vm: str, script: str) -> str:
        """What a shell inside a guest of this host says."""

        def ask(command: str, **arguments: Any) -> Any:
            question = json.dumps({"execute": command, "arguments": arguments})
            return json.loads(self.virsh("qemu-agent-command", vm, question))["return"]

        pid = ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})["pid"]
        done = until(lambda: (status := ask("guest-exec-status", pid=pid))["exited"] and status, f"{vm}: {script}")
        return base64.b64decode(done.get("out-data", "")).decode().strip()

    def log(self) -> str:
        """What it has written, for messages of failed tests."""
        return "\n".join(file.read_text(errors="replace")[-3000:] for file in sorted(self.folder.glob("*.log")))

    def _kill(self, flag: str, pattern: str, hold: bool) -> None:
        if hold:
            (self.folder / flag).touch()
        self.inside("pkill", "-9", "-f", pattern, check=False)  # of this host's processes alone: it has pids of its own

    def pid1(self) -> int | None:
        if self._init is None or self._init.poll() is not None:
            return None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _answers(self) -> bool:
        return subprocess.run(["virsh", "-q", "-c", self.uri, "version"], capture_output=True, check=False).returncode == 0


class Hosts:
    """So many hosts and the folder that they share, which lies at the same path on all of them."""

    def __init__(self, count: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lhl-", dir="/tmp"))  # short: it holds Unix sockets
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.net = Net()
        self.hosts = {f"hv{n}": LabHost(self.folder, self.net, n, self.shared) for n in range(1, count + 1)}

    def start(self) -> None:
        """Bridge and hosts."""
        self.net.up()
        for host in self.hosts.values():
            host.power_on()
            if not any(capabilities().glob("*.xml")):  # what a libvirt has found out of QEMU once, the others need not again
                host.virsh("capabilities")
                for file in (host.folder / "cache/qemu/capabilities").glob("*.xml"):
                    shutil.copy(file, capabilities())
                    for other in self.hosts.values():
                        if other is not host:
                            shutil.copy(file, other.folder / "cache/qemu/capabilities")

    def stop(self) -> None:
        """Everything is gone without a trace."""
        for host in self.hosts.values():
            host.power_off()
        self.net.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, name: str) -> LabHost:
        return self.hosts[name]


def capabilities() -> Path:
    """What libvirt found out about this machine's QEMU, kept over runs: it notices by itself when that is out of date."""
    base = os.environ.get("LEASEHOLD_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "leasehold-lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
