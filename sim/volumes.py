"""Simulated hosts' side of what is done to volumes besides making and throwing them away."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, cast
from uuid import UUID

from hostapi.types import ContentReport, TakenReport, UploadSpec, VolumeSpec
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

    def part_size(self, domain_path: str, volume_id: UUID) -> int:
        """How much is remembered."""
        return len(cast("SimHost", self).world.folder(domain_path).parts.get(volume_id, b""))

    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """Remember a piece."""
        me = cast("SimHost", self)
        folder = me.world.folder(domain_path)
        with me._changed:
            if volume_id in folder.volumes:
                raise HostRefused("taken", "The upload is complete and was made a disk of.")
            part = folder.parts.get(volume_id, b"")
            if offset > len(part):
                raise HostRefused("wrong_offset", f"{len(part)} bytes of the upload are here; go on from there.", size=len(part))
            folder.parts[volume_id] = part[:offset] + data + part[offset + len(data) :]
            return len(folder.parts[volume_id])

    def take_upload(self, upload: UploadSpec, steering: Steering) -> TakenReport:
        """A volume of the file's size, if its first bytes are what it says: the simulator reads no tables."""
        me = cast("SimHost", self)
        folder, id = me.world.folder(upload.domain_path), upload.volume_id
        me._require_usable(folder, steering)
        path = f"{folder.path}/volumes/{id}.{'iso' if upload.format == 'iso' else 'qcow2'}"
        with me._changed:
            if id in folder.volumes:
                return TakenReport(path, folder.volumes[id].capacity_mib)
            part = folder.parts.get(id, b"")
            if len(part) != upload.size_bytes:
                sentence = f"{len(part)} bytes are here, {upload.size_bytes} are wanted."
                raise HostRefused("part_incomplete", sentence, size=len(part))
            del folder.parts[id]
            if hashlib.sha256(part).hexdigest() != upload.sha256:
                raise HostRefused("checksum_differs", "The checksum of what has arrived is not the one that was announced.")
            if part.startswith(b"QFI\xfb") != (upload.format == "qcow2"):
                raise HostRefused("image_other_format", "The file is not what it is said to be.")
            folder.files[id] = part
            folder.volumes[id] = VolumeSpec(id, folder.path, -(-len(part) >> 20))
            return TakenReport(path, folder.volumes[id].capacity_mib)

    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """The file as it came; of what was never uploaded there is none, and it is empty."""
        me = cast("SimHost", self)
        folder = me.world.folder(domain_path)
        with me._changed:
            me._require_volume(folder, volume_id)
            me._require_unused(f"{folder.path}/volumes/{volume_id}.qcow2")
            if folder.volumes[volume_id].backing is not None:
                raise HostRefused("has_base", "The disk lies over its template's and is worth nothing without it.")
            return ContentReport(len(folder.files.get(volume_id, b"")), str(folder.volumes[volume_id].capacity_mib))

    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """A piece of it."""
        if self.content(domain_path, volume_id).mark != mark:
            raise HostRefused("content_changed", "The disk has changed since the download began; begin it again.")
        me = cast("SimHost", self)
        return me.world.folder(domain_path).files.get(volume_id, b"")[offset : offset + count]
