"""`read`: all that lies in a storage domain's folder, and what of it is torn, missing or of nobody. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from hostapi import metadata
from hostapi.metadata import BadMetadata, Kept, Kind
from hostapi.qcow2 import MAGIC, NoQcow2, look
from hostapi.types import Definition, DomainFound, Problem, VolumeFound

MARK = ".leasehold-domain"  # names, inside the folder, the shared domain that it is
MOST_FILES = 200_000
DEEPEST = 64  # volumes of a chain
VOLUME, CD = ".qcow2", ".iso"
LEFT = {".new": "it was never finished, and can be deleted.", ".part": "a part of an upload that was not taken yet."}


class NoDomain(ValueError):
    """The folder is no storage domain; `str()` says why."""


def read(path: str, inside: Callable[[str], bool] | None = None) -> DomainFound:
    """What lies there. A volume may rest only on files of which `inside` says so (of real paths; usually: in the domain)."""
    folder = Path(os.path.realpath(path))
    if not (folder / "volumes").is_dir():
        raise NoDomain(f"{path} is no storage domain: it is no folder that has a folder “volumes” in it.")
    reading = _Reading(folder, inside or (lambda real: real.startswith(f"{folder}/")))
    mark = reading.mark()
    definitions = reading.definitions()
    volumes = reading.volumes()
    reading.judge(definitions, volumes)
    told = tuple(sorted(reading.problems, key=lambda one: (one.file, one.why)))
    return DomainFound(path, mark, definitions, tuple(volumes.values()), told)


class _Reading:
    """One look at a folder; what is wrong is gathered in `problems`."""

    def __init__(self, folder: Path, inside: Callable[[str], bool]) -> None:
        self.folder, self.inside = folder, inside
        self.problems: list[Problem] = []
        self._chains: dict[str, tuple[str, ...]] = {}

    def mark(self) -> UUID | None:
        """The id that the folder is marked with."""
        file = self.folder / MARK
        if not file.is_file():
            return None
        try:
            with open(file, encoding="ascii") as opened:
                return UUID(opened.read(64).strip())
        except ValueError:
            self._tell("refused", file, "it does not hold an id.")
            return None

    def definitions(self) -> tuple[Definition, ...]:
        """Of the domain itself, its templates and its VMs."""
        found = []
        if kept := self._load("domain", self.folder / metadata.place("domain", UUID(int=0))):
            found.append(Definition("domain", kept.body.id, kept.generation, kept.text))
        for kind in ("template", "vm"):
            for id, file in self._files(metadata.FOLDERS[kind], metadata.SUFFIX):
                kept = self._load(kind, file, id)
                if kept is not None:
                    found.append(Definition(kind, id, kept.generation, kept.text))
        return tuple(found)

    def volumes(self) -> dict[UUID, VolumeFound]:
        """Every volume by its id, with its chain."""
        found = {}
        for id, file in self._files("volumes", VOLUME):
            try:
                header = look(str(file))
                chain, why = self._chain(str(file)), ""
                capacity, snapshots = header.virtual_bytes >> 20, header.snapshots
            except (NoQcow2, OSError) as no:
                said = (no.strerror or "") if isinstance(no, OSError) else str(no)
                chain, why, capacity, snapshots = (), _clean(f"Volume {id} cannot be used: {said}."), 0, ()
                self._tell("refused", file, f"{said}.")
            found[id] = VolumeFound(id, str(file), capacity, chain, snapshots, why=why)
        for id, file in self._files("volumes", CD):
            if not file.is_symlink() and file.is_file() and id not in found:
                found[id] = VolumeFound(id, str(file), (file.stat().st_size + (1 << 20) - 1) >> 20)
            else:
                self._tell("refused", file, "it is no plain file, or there is a volume of its name.")
        for id, file in self._files("volumes", metadata.SUFFIX):
            if (kept := self._load("volume", file, id)) is None:
                continue
            if id in found:
                found[id] = replace(found[id], text=kept.text)
                if not kept.body.legal:
                    doing = {"create": "made", "delete": "deleted"}.get(kept.body.doing, "changed")
                    self._tell("unfinished", file, f"the volume was being {doing} when this was written.")
            elif kept.body.doing == "create":
                self._tell("unfinished", file, "the volume was never made.")
            elif kept.body.doing == "delete":
                self._tell("unfinished", file, "the volume is deleted; this file is left of it.")
            else:
                self._tell("missing", file, "the volume is not there.")
        return found

    def judge(self, definitions: tuple[Definition, ...], volumes: dict[UUID, VolumeFound]) -> None:
        """Tell of disks without a volume, and of volumes that nobody has."""
        named: set[UUID] = set()
        for one in definitions:
            if one.kind == "domain":
                continue
            body = metadata.parse(one.kind, one.text)
            for disk in body.disks:
                named.add(disk.id)
                if disk.id not in volumes:
                    file = self.folder / metadata.place(one.kind, one.id)
                    self._tell("missing", file, f"the volume {disk.id} of its disk {disk.name} is not there.")
        based = {path for volume in volumes.values() for path in volume.chain}
        for id, volume in volumes.items():
            floats = volume.text and not metadata.parse("volume", volume.text).owner
            if id not in named and not floats and volume.path not in based:
                self._tell("orphaned", Path(volume.path), "no VM or template that is written down here has this volume.")

    # -- inside ----------------------------------------------------------------------------------
    def _files(self, folder: str, suffix: str) -> list[tuple[UUID, Path]]:
        """The files of one folder that have an id for a name; the others are told of."""
        found: list[tuple[UUID, Path]] = []
        if not (self.folder / folder).is_dir():
            return found
        with os.scandir(self.folder / folder) as entries:
            for entry in entries:
                if len(found) >= MOST_FILES:
                    raise NoDomain(f"There are more than {MOST_FILES:,} files in {self.folder / folder}.")
                if (left := LEFT.get(os.path.splitext(entry.name)[1])) is not None:
                    if suffix == metadata.SUFFIX:  # once for each folder
                        self._tell("unfinished", Path(entry.path), left)
                elif entry.name.endswith(suffix):
                    try:
                        id = UUID(entry.name.removesuffix(suffix))
                    except ValueError:
                        id = None
                    if id is None or f"{id}{suffix}" != entry.name:
                        self._tell("refused", Path(entry.path), "its name is no id.")
                    else:
                        found.append((id, Path(entry.path)))
        return sorted(found)

    def _load(self, kind: Kind, file: Path, id: UUID | None = None) -> Kept | None:
        try:
            kept = metadata.load(file, kind)
            if kept is not None and id is not None and kept.body.id != id:
                raise BadMetadata("refused", f"it is of {kept.body.id}.")
            return kept
        except BadMetadata as no:
            self._tell(no.what, file, str(no))
        except OSError as no:
            self._tell("refused", file, f"it cannot be read: {no.strerror}.")
        return None

    def _chain(self, path: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The files that the volume rests on, down to the last; raises `NoQcow2` for one that leads where it may not."""
        if path in self._chains:
            return self._chains[path]
        if path in above or len(above) >= DEEPEST:
            raise NoQcow2("it rests on itself, or on too many others")
        header = look(path)
        chain: tuple[str, ...] = ()
        if header.backing:
            base = os.path.realpath(os.path.join(os.path.dirname(path), header.backing))
            if ":" in header.backing.partition("/")[0] or not self.inside(base):
                raise NoQcow2(f"it rests on {header.backing}, which lies outside of the storage")
            if not os.path.isfile(base):
                raise NoQcow2(f"what it rests on is not there: {header.backing}")
            chain = (base, *self._below(base, header.backing_format, (*above, path)))
        self._chains[path] = chain
        return chain

    def _below(self, base: str, kind: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if kind == "qcow2":
            return self._chain(base, above)
        with open(base, "rb") as file:
            if kind != "raw" or file.read(4) == MAGIC:
                raise NoQcow2("what it rests on is said to be " + (kind or "of no format") + ", which is not what it is")
        return ()

    def _tell(self, kind: str, file: Path, why: str) -> None:
        self.problems.append(Problem(kind, _clean(str(file.relative_to(self.folder))), _clean(why)))  # type: ignore[arg-type]


def _clean(said: str) -> str:
    """Fit to be shown and sent: what is named in foreign files may be anything."""
    return "".join(one if one.isprintable() else "?" for one in said[:1000])
