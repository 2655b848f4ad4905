"""Real IPMI devices in software for the lab's hosts: what they switch is the namespaces' first process."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.bmc import PASSWORD, USER, Bmc
from tests.lab.hosts import LabHost
from tests.lab.place import Place


class HostPower:
    """A host's device. Switched off by it the host's processes are killed; wished on, a thread here starts it again."""

    def __init__(self, host: LabHost, folder: Path, address: str) -> None:
        self.host, self._on, self._pid = host, folder / "wanted-on", folder / "pid"
        folder.mkdir(parents=True)
        self.note()
        is_on = f"kill -0 $(cat {self._pid} || echo none) 2>/dev/null"
        self.bmc = Bmc(folder, is_on, f"touch {self._on}", f"kill -9 $(cat {self._pid})", address)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._switch_on, daemon=True)
        self._thread.start()

    def note(self) -> None:
        """Write down which process is the host's first."""
        self._pid.write_text(str(self.host.pid1() or ""))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.bmc.stop()

    def _switch_on(self) -> None:
        while not self._stopping.wait(0.1):
            if self._on.exists():
                try:
                    if not self.host.is_on():
                        self.host.power_on()
                except (AssertionError, OSError) as not_yet:  # the last of its network may still be going
                    print(f"{self.host.name} is not on yet: {not_yet}")
                    continue
                self._on.unlink()
                self.note()


class Powers:
    """A device for every host, told to the product; forgotten at the end, so that other tests' hosts are not fenced."""

    def __init__(self, place: Place) -> None:
        self.place, self.agents = place, []
        where = place.folder / f"bmc-{len(list(place.folder.glob('bmc-*')))}"
        self.of = {name: HostPower(host, where / name, place.net.manager) for name, host in place.lab.hosts.items()}
        for name, power in self.of.items():
            host = place.row("hosts", name)
            place.act(f"/hosts/{host['id']}/add_power_agent", {
                "type": "ipmilan", "address": power.bmc.address, "port": power.bmc.port, "username": USER, "password": PASSWORD,
                "options": ["cipher=3"]})  # fmt: skip

    def stop(self) -> None:
        for agent in self.place.rest("GET", "/poweragents")["items"]:
            self.place.act(f"/poweragents/{agent['id']}/remove")
        for power in self.of.values():
            power.stop()
