"""Small pictures of the VMs' screens, several at a time, so that one VM that hangs does not cost the others theirs."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from uuid import UUID

from PIL import Image

from agent.deadline import Overdue, within
from hostapi.types import Screen
from hostapi.verbs import HostRefused

log = logging.getLogger("pictures")
WIDTH = 480  # pixels, and no higher either
TOGETHER_S = 10.0  # the time that all pictures of one question may take
AT_ONCE = 4


class Pictures:
    """`shoot` answers a VM's screen as QEMU writes it, or None."""

    def __init__(self, shoot: Callable[[UUID], bytes | None]) -> None:
        self._shoot = shoot
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._hanging: set[UUID] = set()
        self._lock = threading.Lock()

    def take(self, vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]:
        """The pictures that can be had in time; those of VMs that are off or hang are left out."""
        found: dict[UUID, Screen] = {}
        threads = [
            threading.Thread(target=self._one, args=(vm_id, found), daemon=True) for vm_id in set(vm_ids)
        ]
        for thread in threads:
            thread.start()

        def all_of_them() -> None:
            for thread in threads:
                thread.join()

        try:
            within(TOGETHER_S, all_of_them)
        except Overdue:
            log.info("%d of %d pictures could not be had in time", len(vm_ids) - len(found), len(vm_ids))
        return tuple(found[vm_id] for vm_id in vm_ids if vm_id in found)

    def _one(self, vm_id: UUID, found: dict[UUID, Screen]) -> None:
        with self._lock:
            if vm_id in self._hanging:
                return  # its last picture is still being waited for
            self._hanging.add(vm_id)
        try:
            with self._places:
                picture = self._shoot(vm_id)
            if picture and (screen := shrink(vm_id, picture)):
                found[vm_id] = screen
        except HostRefused as no:
            log.info("no picture of VM %s: %s", vm_id, no)
        finally:
            with self._lock:
                self._hanging.discard(vm_id)


def shrink(vm_id: UUID, picture: bytes) -> Screen | None:
    """The picture as a small WebP; None when it cannot be read."""
    try:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
    except (OSError, ValueError) as broken:
        log.info("the picture of VM %s cannot be read: %s", vm_id, broken)
        return None
    image.thumbnail((WIDTH, WIDTH))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=70, method=2)
    return Screen(vm_id, image.width, image.height, out.getvalue())
