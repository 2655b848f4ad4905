"""The metadata beside volumes, and the definitions that a storage domain keeps: written by the host that changes them."""

from __future__ import annotations

import errno
import os
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec
import structlog

from agent.stats import utc_now
from hostapi import metadata
from hostapi.metadata import BadMetadata, Kept, VolumeBody
from hostapi.types import Definition, VolumeSpec
from hostapi.verbs import HostRefused

_FULL = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger("storage")


def begin(path: str, volume: VolumeSpec) -> None:
    """Note that the volume is being made: until `settle` it is not legal."""
    _note(path, volume, legal=False)


def settle(path: str, volume: VolumeSpec) -> None:
    """Note that the volume is there and whole."""
    _note(path, volume, legal=True)


def doom(path: str) -> None:
    """Note that the volume is being deleted. On a full disk it is deleted all the same: that is what makes room."""
    before = _before(path)
    if before is None or before.body.doing == "delete":
        return
    body = msgspec.structs.replace(before.body, legal=False, doing="delete")
    try:
        metadata.store(_beside(path), metadata.encode("volume", before.generation + 1, _text(body)))
    except OSError as no:
        if no.errno not in _FULL:
            raise


def resized(path: str, capacity_mib: int) -> None:
    """Note how large the volume is."""
    before = _before(path)
    if before is not None and before.body.capacity_mib != capacity_mib:
        body = msgspec.structs.replace(before.body, capacity_mib=capacity_mib)
        metadata.store(_beside(path), metadata.encode("volume", before.generation + 1, _text(body)))


def forget(path: str) -> None:
    """Delete what is noted beside a volume that is gone."""
    metadata.remove(_beside(path))


def keep(folder: Path, one: Definition) -> int:
    """Write a definition down, or delete it, unless a later one is there; answers the generation that is there now, 0 when
    it cannot be kept."""
    file = folder / metadata.place(one.kind, one.id)
    try:
        if one.text and metadata.parse(one.kind, one.text).id != one.id:
            raise BadMetadata("refused", "it is of another id.")
        there = _generation(file, one)
    except BadMetadata as no:
        log.warning("a definition cannot be kept", file=str(file), why=str(no))
        return 0
    if there > one.generation:
        return there
    if one.text:
        metadata.store(file, metadata.encode(one.kind, one.generation, one.text))
    else:
        metadata.remove(file)
    return one.generation


def _generation(file: Path, one: Definition) -> int:
    """0 for one that is not there or torn: then ours mends it. Raises `BadMetadata` for one of a newer version."""
    try:
        kept = metadata.load(file, one.kind)
    except BadMetadata as no:
        if no.what == "newer":
            raise
        return 0
    return kept.generation if kept else 0


def _note(path: str, volume: VolumeSpec, legal: bool) -> None:
    before = _before(path)
    created: datetime = before.body.created if before else utc_now()
    body = VolumeBody(
        volume.volume_id, volume.about.disk, volume.about.owner, volume.about.owner_id, volume.capacity_mib, _format(path),
        volume.backing, _parent(volume.backing), legal, "" if legal else "create", created,
    )  # fmt: skip
    if before is None or before.body != body:
        generation = before.generation + 1 if before else 1
        metadata.store(_beside(path), metadata.encode("volume", generation, _text(body)))


def _before(path: str) -> Kept | None:
    """What is noted now; what is torn or alien is as good as nothing, and written anew."""
    try:
        return metadata.load(_beside(path), "volume")
    except BadMetadata as no:
        if no.what == "newer":
            raise HostRefused("newer_format", f"{_beside(path)} cannot be written: {no}", path=path) from no
        return None


def _beside(path: str) -> str:
    return path.removesuffix(f".{_format(path)}") + metadata.SUFFIX


def _format(path: str) -> Literal["qcow2", "iso"]:
    return "iso" if path.endswith(".iso") else "qcow2"


def _parent(backing: str | None) -> UUID | None:
    folder, name = os.path.split(backing or "")
    try:
        return UUID(name.removesuffix(".qcow2")) if os.path.basename(folder) == "volumes" else None
    except ValueError:
        return None


def _text(body: VolumeBody) -> str:
    return msgspec.json.format(msgspec.json.encode(body), indent=1).decode()


