"""What simulated storage domains keep of VMs and templates, and how it is read from them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import msgspec

from hostapi import metadata
from hostapi.metadata import BadMetadata, VolumeBody
from hostapi.types import Definition, DomainFound, VolumeFound, VolumeSpec
from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.world import SimStorage


class Keeping:
    """The part of `SimHost` that keeps definitions."""

    def keep_definitions(
        self, domain_path: str, definitions: tuple[Definition, ...], steering: Steering
    ) -> tuple[int, ...]:
        """Remember them in the folder, unless later ones are there."""
        me = cast("SimHost", self)
        folder = me.world.folder(domain_path)
        me._require_usable(folder, steering)
        found = []
        with me._changed:
            for one in definitions:
                if not _is_one(one):
                    found.append(0)
                    continue
                key = (one.kind, one.id)
                there = folder.definitions[key].generation if key in folder.definitions else 0
                if there <= one.generation:
                    if one.text:
                        folder.definitions[key] = one
                    else:
                        folder.definitions.pop(key, None)
                found.append(max(there, one.generation))
        return tuple(found)

    def read_domain(self, path: str, steering: Steering) -> DomainFound:
        """What is remembered of the folder."""
        me = cast("SimHost", self)
        folder = me.world.folder(path)
        report = me._storage_report(folder)
        if not report.ok:
            raise HostRefused("storage_broken", report.why)
        with me._changed:
            volumes = tuple(_found(folder, volume) for volume in folder.volumes.values())
            return DomainFound(path, folder.mark, tuple(folder.definitions.values()), volumes)


def _is_one(one: Definition) -> bool:
    try:
        return not one.text or metadata.parse(one.kind, one.text).id == one.id
    except BadMetadata:
        return False


def _found(folder: SimStorage, volume: VolumeSpec) -> VolumeFound:
    id, about = volume.volume_id, volume.about
    body = VolumeBody(id, about.disk, about.owner, about.owner_id, volume.capacity_mib, "qcow2", volume.backing, None, True, "",
                      datetime(2026, 1, 1, tzinfo=UTC))  # fmt: skip
    chain: list[str] = []
    below = volume.backing
    files = {f"{folder.path}/volumes/{one.volume_id}.qcow2": one for one in folder.volumes.values()}
    while below is not None and below not in chain:
        chain.append(below)
        below = files[below].backing if below in files else None
    snapshots = tuple(map(str, folder.snapshots.get(id, ())))
    return VolumeFound(id, f"{folder.path}/volumes/{id}.qcow2", volume.capacity_mib, tuple(chain), snapshots,
                       msgspec.json.encode(body).decode())  # fmt: skip


