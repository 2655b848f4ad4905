"""Simulated hosts' side of what is done to volumes besides making and throwing them away."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast
from uuid import UUID

from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.host import SimHost


class Volumes:
    """The part of `SimHost` that changes volumes."""

    def resize_volume(
        self, vm_id: UUID | None, domain_path: str, volume_id: UUID, capacity_mib: int, steering: Steering
    ) -> None:
        """The volume is larger."""
        me = cast("SimHost", self)
        folder = me.world.folder(domain_path)
        me._require_usable(folder, steering)
        with me._changed:
            me._require_volume(folder, volume_id)
            volume = folder.volumes[volume_id]
            if volume.capacity_mib > capacity_mib:
                raise HostRefused("would_shrink", f"The volume has {volume.capacity_mib} MiB: it cannot be made smaller.")
            if vm_id not in me.runs:
                me._require_unused(f"{folder.path}/volumes/{volume_id}.qcow2")
            folder.volumes[volume_id] = replace(volume, capacity_mib=capacity_mib)
