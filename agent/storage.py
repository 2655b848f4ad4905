"""Storage domains as folders and volumes as qcow2 overlays in them; every path must lie below a storage root."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

from agent import metadata
from agent.deadline import Overdue, within
from agent.shell import ProgramFailed, run
from hostapi import domains
from hostapi.domains import MARK, NoDomain
from hostapi.types import Definition, DomainFound, StorageReport, VolumeSpec
from hostapi.verbs import HostRefused

QEMU_IMG = "qemu-img"
LOOK_S = 3.0  # a healthy folder answers at once
WORK_S = 120.0
READ_S = 600.0  # a domain may hold ten thousands of files


class Storage:
    """The host's storage domains. `users_of` names the VMs that have a file open.

    The folders in use are remembered in a file, so that the host goes on reporting them after a restart."""

    def __init__(self, roots: Sequence[str], memory: Path, users_of: Callable[[str], list[str]]) -> None:
        self._roots = [os.path.realpath(root) for root in roots]
        self._memory, self._users_of = memory, users_of
        # path -> the mark that a shared domain's folder must bear
        self._domains: dict[str, str] = _remembered(memory)
        self._lock = threading.Lock()
        self._file_locks: dict[str, threading.Lock] = {}
        self._looks: dict[str, threading.Thread] = {}
        self._last: dict[str, StorageReport] = {}

    # -- paths -----------------------------------------------------------------------------------
    def require_inside(self, path: str) -> str:
        """The path with its symbolic links followed, or a refusal when that lies below none of the roots."""
        real = os.path.realpath(path)
        if not os.path.isabs(path) or not self._is_inside(real):
            sentence = (
                f"{path} lies outside of this host's storage folders ({', '.join(self._roots) or 'none'})."
            )
            raise HostRefused("path_refused", sentence, path=path)
        return real

    def _is_inside(self, real: str) -> bool:
        return any(real == root or real.startswith(root + "/") for root in self._roots)

    @contextmanager
    def held(self, paths: Sequence[str]) -> Iterator[None]:
        """While this lasts, nobody else starts a VM on these files, resets or deletes them."""
        with self._lock:
            locks = [self._file_locks.setdefault(path, threading.Lock()) for path in sorted(set(paths))]
        taken: list[threading.Lock] = []
        try:
            for lock in locks:
                lock.acquire()
                taken.append(lock)
            yield
        finally:
            for lock in taken:
                lock.release()

    def require_saved(self, path: str) -> str:
        """The real path of a file that a VM's memory is saved in; a refusal for what cannot be one."""
        real = self.require_inside(path)
        if os.path.basename(os.path.dirname(real)) != "saved" or not real.endswith(".save"):
            raise HostRefused("path_refused", f"{path} is no place for a VM's memory.", path=path)
        return real

    # -- domains ---------------------------------------------------------------------------------
    def attach(self, path: str) -> StorageReport:
        """Make the folder a storage domain: it is made when missing, and proved to be writable."""
        real = self.require_inside(path)
        with told(f"Storage domain {path} cannot be used"):
            within(WORK_S, lambda: _prove_writable(Path(real)))
        self._use(path, "")
        return _look(path)

    def attach_shared(self, path: str, domain_id: UUID, first: bool) -> StorageReport:
        """Use the folder that bears this domain's mark; the first host makes both, where there is no other mark."""
        real = self.require_inside(path)
        with told(f"Storage domain {path} cannot be used"):
            within(WORK_S, lambda: _require_mark(Path(real), str(domain_id), first))
            within(WORK_S, lambda: _prove_writable(Path(real)))
        self._use(path, str(domain_id))
        return _look(path, str(domain_id))

    def _use(self, path: str, mark: str) -> None:
        with self._lock:
            if self._domains.get(path) != mark:
                self._domains[path] = mark
                fresh = self._memory.with_suffix(".new")
                fresh.write_text(json.dumps(self._domains))
                fresh.replace(self._memory)

    def keep(self, path: str, definitions: Sequence[Definition]) -> tuple[int, ...]:
        """Write down what the domain, its VMs and templates are; answers the generations that are there now."""
        folder = Path(self.require_inside(path))
        if not (folder / "volumes").is_dir():
            raise HostRefused("no_domain", f"{path} is no storage domain here; look whether it is mounted.", path=path)
        found = []
        for one in definitions:
            with self.held([f"{folder}/{one.kind}/{one.id}"]), told(f"What storage domain {path} keeps cannot be written"):
                found.append(within(WORK_S, partial(metadata.keep, folder, one)))
        return tuple(found)

    def read(self, path: str) -> DomainFound:
        """All that lies in this folder; its volumes may rest on what lies below the roots."""
        self.require_inside(path)
        with told(f"Storage domain {path} cannot be read"):
            try:
                return within(READ_S, lambda: domains.read(path, self._is_inside))
            except NoDomain as no:
                raise HostRefused("no_domain", str(no), path=path) from no

    def reports(self) -> tuple[StorageReport, ...]:
        """Every domain as it is now. One that hangs is reported as such, and not asked again until it answers."""
        with self._lock:
            domains = dict(self._domains)
        for path, mark in domains.items():
            if path not in self._looks or not self._looks[path].is_alive():
                self._looks[path] = threading.Thread(
                    target=self._remember, args=(path, mark), name="look", daemon=True
                )
                self._last.pop(path, None)
                self._looks[path].start()
        for path in domains:
            self._looks[path].join(LOOK_S)
        hangs = "does not answer; look at its disk or network"
        return tuple(
            self._last.get(path) or StorageReport(path, False, why=f"{path} {hangs}.") for path in domains
        )

    def _remember(self, path: str, mark: str) -> None:
        self._last[path] = _look(path, mark)

    # -- volumes ---------------------------------------------------------------------------------
    def create(self, volume: VolumeSpec) -> str:
        """Create the volume, or answer its path when it is there already and is the same."""
        path = self._path(volume.domain_path, volume.volume_id)
        with self.held([path]), told(f"Volume {volume.volume_id} cannot be created"):
            if os.path.exists(path):
                self._require_same(path, volume)
            else:
                self.put(self._make(path, volume), path, volume)
            metadata.settle(path, volume)
        return path

    def reset(self, volume: VolumeSpec) -> str:
        """Put a fresh overlay in the volume's place; there is always either the old one or the new one."""
        path = self._path(volume.domain_path, volume.volume_id)
        with self.held([path]), told(f"Volume {volume.volume_id} cannot be reset"):
            self.require_unused(path)
            os.rename(self._make(path, volume), path)
            metadata.settle(path, volume)
        return path

    def lacks(self, path: str, capacity_mib: int) -> bool:
        """Whether the volume must grow to be so large; a refusal when it is larger."""
        with told("The volume's size cannot be read"):
            has = int(_info(path)["virtual-size"])
        if has > capacity_mib << 20:
            sentence = f"The volume has {has >> 20} MiB: it cannot be made smaller, its guest would lose data."
            raise HostRefused("would_shrink", sentence, path=path)
        return has < capacity_mib << 20

    def note_size(self, path: str, capacity_mib: int) -> None:
        """Note beside the volume how large it is now."""
        with told("The volume's new size cannot be noted beside it"):
            metadata.resized(path, capacity_mib)

    def grow(self, path: str, capacity_mib: int) -> None:
        """Make a volume larger that nobody uses. The caller holds the path."""
        with told("The volume cannot be made larger"):
            self.require_unused(path)
            run([QEMU_IMG, "resize", "-q", "-f", "qcow2", path, f"{capacity_mib}M"], timeout_s=WORK_S)

    def delete(self, domain_path: str, volume_id: UUID) -> None:
        """Delete the volume, or the image of a CD, and what was uploaded of it; one that is not there is fine."""
        path = self._path(domain_path, volume_id)
        with self.held([path]), told(f"Volume {volume_id} cannot be deleted"):
            iso, part = (str(Path(path).with_suffix(suffix)) for suffix in (".iso", ".part"))
            self.require_unused(path)
            self.require_unused(iso)
            metadata.doom(path)
            for file in (path, iso, part):
                Path(file).unlink(missing_ok=True)
            metadata.forget(path)

    # -- snapshots inside a volume that no VM runs on --------------------------------------------
    def volume(self, domain_path: str, volume_id: UUID) -> str:
        """The real path of a volume that is there."""
        path = self._path(domain_path, volume_id)
        if not os.path.isfile(path) and os.path.isfile(iso := path.removesuffix(".qcow2") + ".iso"):
            return iso
        if not os.path.isfile(path):
            raise HostRefused("volume_missing", f"Volume {volume_id} is not there.", path=path)
        return path

    def snapshots(self, path: str) -> set[str]:
        """The names of the snapshots inside a volume, whoever uses it."""
        with told(f"The snapshots of {path} cannot be read"):
            return {str(one["name"]) for one in _info(path).get("snapshots", ())}

    def change_snapshot(self, change: Literal["-c", "-a", "-d"], path: str, name: str) -> None:
        """Create, apply or delete a snapshot; refuses while the volume is in use. The caller holds the path."""
        with told("The volume's snapshot cannot be " + {"-c": "taken", "-a": "gone back to", "-d": "deleted"}[change]):
            self.require_unused(path)
            run([QEMU_IMG, "snapshot", change, name, path], timeout_s=WORK_S)

    def virtual_bytes(self, path: str) -> int:
        """How large the volume is for its guest."""
        return os.stat(path).st_size if path.endswith(".iso") else int(_info(path)["virtual-size"])

    def require_alone(self, path: str) -> None:
        """A refusal unless nobody uses the volume and it lies over no other."""
        self.require_unused(path)
        if not path.endswith(".iso") and _info(path).get("backing-filename"):
            raise HostRefused("has_base", "The disk lies over its template's and is worth nothing without it.", path=path)

    # -- saved memory ----------------------------------------------------------------------------
    def forget_saved(self, path: str) -> None:
        """Delete a saved VM's memory, for good before this returns; one that is not there is fine."""
        with told(f"{path} cannot be deleted"):
            Path(path).unlink(missing_ok=True)
            if os.path.isdir(folder := os.path.dirname(path)):
                flush(folder)

    # -- inside ----------------------------------------------------------------------------------
    def _path(self, domain_path: str, volume_id: UUID) -> str:
        return f"{self.require_inside(domain_path)}/volumes/{volume_id}.qcow2"

    def _make(self, path: str, volume: VolumeSpec) -> str:
        """A new, empty volume under a name that nobody else uses; answers that name."""
        argv = [QEMU_IMG, "create", "-q", "-f", "qcow2"]
        if volume.backing is not None:
            backing, kind = self._require_backing(volume.backing)
            argv += ["-b", backing, "-F", kind]
        elif volume.preallocated:
            argv += ["-o", "preallocation=falloc"]
        fresh = f"{path}.{uuid4().hex}.new"
        try:
            run([*argv, fresh, f"{volume.capacity_mib}M"], timeout_s=WORK_S)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
        return fresh

    def put(self, fresh: str, path: str, volume: VolumeSpec) -> None:
        """Let the new volume take its place, which is noted before."""
        try:
            metadata.begin(path, volume)
            os.rename(fresh, path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise

    def _require_backing(self, backing: str, above: tuple[str, ...] = ()) -> tuple[str, str]:
        """The base's real path and its format. An image can name files that its guest would then read: all that
        it rests on, down to the last, must lie below the roots, and its data in itself; and there must be a last."""
        real = self.require_inside(backing)
        if not os.path.isfile(real):
            raise HostRefused("backing_missing", f"The volume's base {backing} is not there.", path=backing)
        if real in above:
            sentence = f"The image {backing} cannot be used: it rests on itself. Make it anew."
            raise HostRefused("backing_refused", sentence, path=backing)
        info = _info(real)
        kind = str(info["format"])
        if kind not in ("qcow2", "raw") or "data-file" in info.get("format-specific", {}).get("data", {}):
            sentence = f"The image {backing} cannot be used: make it a qcow2 file that holds its own data."
            raise HostRefused("backing_refused", sentence, path=backing)
        if below := info.get("full-backing-filename") or info.get("backing-filename"):
            self._require_backing(below, (*above, real))
        return real, kind

    def _require_same(self, path: str, volume: VolumeSpec) -> None:
        info = _info(path)
        backing = os.path.realpath(volume.backing) if volume.backing else None
        if info["virtual-size"] != volume.capacity_mib << 20 or info.get("full-backing-filename") != backing:
            sentence = f"Volume {volume.volume_id} exists already with another size or base."
            raise HostRefused("volume_differs", sentence, path=path)

    def require_unused(self, path: str) -> None:
        """Not used by a VM that libvirt has, nor by any other process or host that holds QEMU's lock on it."""
        if users := self._users_of(path):
            raise HostRefused(
                "volume_in_use", f"The volume is in use by VM {users[0]}, which runs.", path=path
            )
        if os.path.exists(path):
            try:
                kind = ["-f", "raw"] if path.endswith(".iso") else []  # somebody brought it: QEMU is not to guess
                run([QEMU_IMG, "info", "--output=json", *kind, path], timeout_s=WORK_S)
            except ProgramFailed as no:
                if "lock" in no.said:
                    raise HostRefused(
                        "volume_in_use", "The volume is in use: QEMU holds its lock.", path=path
                    ) from no
                # A torn or alien file is nobody's reason to keep it: reset and delete are what mends it.


def flush(path: str) -> None:
    """Have a file, or a folder's list of files, written to its disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _info(path: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        run([QEMU_IMG, "info", "-U", "--output=json", path], timeout_s=WORK_S)
    )
    return answer


def _prove_writable(folder: Path) -> None:
    volumes = folder / "volumes"
    volumes.mkdir(parents=True, exist_ok=True)
    probe = volumes / f".probe-{uuid4().hex}"
    try:
        with open(probe, "wb") as file:
            file.write(b"leasehold")
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _remembered(memory: Path) -> dict[str, str]:
    """The folders in use and their marks; agents that knew no shared folders wrote a plain list."""
    known: list[str] | dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
    return known if isinstance(known, dict) else dict.fromkeys(known, "")


def _require_mark(folder: Path, mark: str, first: bool) -> None:
    file = folder / MARK
    if not file.exists():
        if not first:
            sentence = f"{folder} is not that storage domain here: mount it at the same path as on the other hosts."
            raise HostRefused("not_shared", sentence, path=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(mark)
        flush(str(file))
    if file.read_text() != mark:
        sentence = f"{folder} is another storage domain already; delete {MARK} in it if that one is not used any more."
        raise HostRefused("other_domain", sentence, path=str(folder))


def _look(path: str, mark: str = "") -> StorageReport:
    try:
        size = os.statvfs(path)
        if mark and not (os.path.isfile(f"{path}/{MARK}") and Path(path, MARK).read_text() == mark):
            return StorageReport(path, False, why=f"{path} is not mounted: what is there is not that storage domain.")
        if not os.access(f"{path}/volumes", os.W_OK):
            return StorageReport(path, False, why=f"{path} cannot be written to; look at its permissions.")
    except OSError as no:
        return StorageReport(path, False, why=f"{path} cannot be read: {no.strerror}.")
    return StorageReport(path, True, size.f_blocks * size.f_frsize >> 20, size.f_bavail * size.f_frsize >> 20)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns what a disk or qemu-img says into a refusal that says what to do."""
    try:
        yield
    except Overdue as late:
        raise HostRefused("storage_silent", f"{what}: the storage gives {late}.") from late
    except ProgramFailed as no:
        raise _refusal(what, no.said) from no
    except OSError as no:
        raise _refusal(what, f"{no.strerror} ({errno.errorcode.get(no.errno or 0, '?')})") from no


def _refusal(what: str, said: str) -> HostRefused:
    codes = {
        "No space left": ("storage_full", "the storage is full. Free space or enlarge it"),
        "Disk quota": ("storage_full", "the storage's quota is used up. Free space or enlarge it"),
        "Permission denied": (
            "no_permission",
            "the agent may not write there. Mend the folder's owner or mode",
        ),
        "Read-only file system": ("no_permission", "the storage is mounted read-only. Mount it for writing"),
        "Input/output error": (
            "storage_broken",
            "the storage fails with an input/output error. Look at its disk",
        ),
        "Stale file handle": ("storage_broken", "the storage was replaced under the host. Mount it again"),
        "Transport endpoint": ("storage_broken", "the storage's connection is gone. Mount it again"),
    }
    for words, (code, why) in codes.items():
        if words in said:
            return HostRefused(code, f"{what}: {why}.")
    return HostRefused("storage_failed", f"{what}: {said.rstrip('.')}.")
