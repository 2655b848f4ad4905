"""How busy the host itself was lately: its processors and its network cards, from the kernel's counters."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

OVER_S = 8.0  # a shorter time tells little
MIB = 1024 * 1024


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted since it began: ticks of processors, and bytes in and out."""

    at: float
    busy: int
    total: int
    bytes: int


def read(proc: Path = Path("/proc"), net: Path = Path("/sys/class/net")) -> Counters:
    """The counters now. Of network cards those count that are hardware; where there is none, all but loopback."""
    ticks = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle, and waiting for disks
    cards = [card for card in net.iterdir() if (card / "device").exists()]
    cards = cards or [card for card in net.iterdir() if card.name != "lo"]
    moved = sum(int((card / "statistics" / name).read_text()) for card in cards for name in ("rx_bytes", "tx_bytes"))
    return Counters(time.monotonic(), sum(ticks) - idle, sum(ticks), moved)


class Load:
    """The latest answer that covers a time long enough; several managers may ask."""

    def __init__(self) -> None:
        self._before, self._lock = read(), threading.Lock()
        self._told: tuple[float | None, float | None] = None, None

    def now(self) -> tuple[float | None, float | None]:
        """Per cent of all processors and MiB a second, of some seconds ago until now; None until that is known."""
        with self._lock:
            before = self._before
            if time.monotonic() - before.at >= OVER_S:
                now = self._before = read()
                ticks, seconds = now.total - before.total, now.at - before.at
                percent = round(100 * (now.busy - before.busy) / ticks, 1) if ticks > 0 else None
                self._told = percent, round(max(0, now.bytes - before.bytes) / MIB / seconds, 2)
            return self._told
