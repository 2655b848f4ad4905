"""What the host itself is like now, read from /proc; and the host's clock."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class HostSample:
    """The host's size and load; `boot_id` changes with every boot."""

    hostname: str
    boot_id: str
    cpus: int
    memory_mib: int
    memory_free_mib: int
    load1: float
    swap_mib: int
    swap_free_mib: int
    networks: tuple[str, ...]  # names of its bridges


def utc_now() -> datetime:
    """The host's clock; QEMU compares display passwords' ends with it."""
    return datetime.now(UTC)  # noqa: TID251 -- the agent's one place


def sample_host() -> HostSample:
    """Read it all; cheap."""
    memory = {
        name: int(value.split()[0]) // 1024  # /proc/meminfo counts in KiB
        for name, _, value in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    }
    return HostSample(
        hostname=socket.gethostname(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        cpus=os.cpu_count() or 1,
        memory_mib=memory["MemTotal"],
        memory_free_mib=memory["MemAvailable"],
        load1=os.getloadavg()[0],
        swap_mib=memory.get("SwapTotal", 0),
        swap_free_mib=memory.get("SwapFree", 0),
        networks=tuple(sorted(folder.parent.name for folder in Path("/sys/class/net").glob("*/bridge"))),
    )
