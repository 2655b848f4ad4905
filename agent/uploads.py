"""Files that people bring to a storage domain, piece by piece, and what becomes of them; and volumes that people take away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

from agent import metadata
from agent.images import LIMITED, Image, check
from agent.shell import ProgramFailed, run, run_bounded
from agent.storage import QEMU_IMG, Storage, flush, told
from hostapi.types import ContentReport, TakenReport, UploadSpec, VolumeSpec
from hostapi.verbs import HostRefused, Steering

MOST_PIECE = 16 << 20  # bytes in one question
CHUNK = 4 << 20
CONVERT_S = 6 * 3600.0
CONVERT_SPACE = 4 << 30  # bytes of memory for a conversion
KEEP_SAID = 4096


class Uploads:
    """Uploads lie beside the volumes as `<volume id>.part` until they are taken."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # -- pieces ----------------------------------------------------------------------------------
    def size(self, domain_path: str, volume_id: UUID) -> int:
        """How many bytes are here."""
        with told("The upload cannot be looked at"):
            part = Path(self._part(domain_path, volume_id))
            return part.stat().st_size if part.exists() else 0

    def write(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """Put these bytes at their place."""
        part = self._part(domain_path, volume_id)
        if len(data) > MOST_PIECE or offset < 0:
            raise HostRefused("bad_piece", f"A piece of an upload has at most {MOST_PIECE} bytes, and a place.")
        with self.storage.held([part]), told("The upload cannot be written"):
            if any(os.path.exists(part.removesuffix(".part") + suffix) for suffix in (".qcow2", ".iso")):
                raise HostRefused("taken", "The upload is complete and was made a disk of.")
            file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                has = os.fstat(file).st_size
                if offset > has:
                    raise HostRefused("wrong_offset", f"{has} bytes of the upload are here; go on from there.", size=has)
                view = memoryview(data)
                while view:
                    done = os.pwrite(file, view, offset)
                    offset, view = offset + done, view[done:]
                return max(has, offset)
            finally:
                os.close(file)

    # -- what becomes of them --------------------------------------------------------------------
    def take(self, upload: UploadSpec, steering: Steering) -> TakenReport:
        """Look at the file, and make a volume of it."""
        part = self._part(upload.domain_path, upload.volume_id)
        path = part.removesuffix(".part") + (".iso" if upload.format == "iso" else ".qcow2")
        with self.storage.held([part, path]), told("The upload cannot be taken"):
            if os.path.exists(path):  # asked twice
                Path(part).unlink(missing_ok=True)
                capacity_mib = _mib(self.storage.virtual_bytes(path))
                metadata.settle(path, VolumeSpec(upload.volume_id, upload.domain_path, capacity_mib, about=upload.about))
                return TakenReport(path, capacity_mib)
            has = os.stat(part).st_size if os.path.exists(part) else 0
            if has != upload.size_bytes:
                sentence = f"{has} bytes of the upload are here, {upload.size_bytes} are wanted; bring the others first."
                raise HostRefused("part_incomplete", sentence, size=has)
            try:
                self._require_sum(part, upload, steering)
                image = check(part, upload.format, upload.most_mib << 20)
            except HostRefused as no:
                if no.failure.code == "checksum_differs" or no.failure.code.startswith("image_"):
                    Path(part).unlink(missing_ok=True)
                raise
            flush(part)
            volume = VolumeSpec(upload.volume_id, upload.domain_path, _mib(image.virtual_bytes), about=upload.about)
            if image.format == "iso":
                os.rename(part, path)
                metadata.settle(path, volume)
            else:
                self.storage.put(self._convert(part, path, image, steering), path, volume)
                metadata.settle(path, volume)
                os.unlink(part)
            flush(os.path.dirname(path))
            return TakenReport(path, _mib(image.virtual_bytes))

    def _require_sum(self, part: str, upload: UploadSpec, steering: Steering) -> None:
        found, done = hashlib.sha256(), 0
        with open(part, "rb") as file:
            while chunk := file.read(CHUNK):
                steering.check_cancelled()
                found.update(chunk)
                done += len(chunk)
                steering.progress(50 * done // upload.size_bytes, "Checking the checksum")
        if found.hexdigest() != upload.sha256:
            sentence = "The checksum of what has arrived is not the one that was announced; upload the file again."
            raise HostRefused("checksum_differs", sentence, sha256=found.hexdigest())

    def _convert(self, part: str, path: str, image: Image, steering: Steering) -> str:
        """A volume of our own making under a name of its own: nothing of the file's metadata goes on living."""
        stat = os.statvfs(os.path.dirname(path))
        free = stat.f_bavail * stat.f_frsize
        needs = ["measure", "-U", "--output=json", "-O", "qcow2"]
        named = f"driver={image.driver},file.driver=file,file.filename={part.replace(',', ',,')}"
        needed = int(json.loads(run([*LIMITED, QEMU_IMG, *needs, "--image-opts", named]))["required"])
        if needed > free:
            raise HostRefused("storage_full", f"The volume would take {needed >> 20} MiB; the storage has {free >> 20} free.")
        for left in Path(path).parent.glob(f"{Path(path).name}.*.new"):  # of an agent that was killed meanwhile
            left.unlink(missing_ok=True)
        fresh = f"{path}.{uuid4().hex}.new"

        def look() -> None:
            steering.check_cancelled()
            written = os.stat(fresh).st_blocks * 512 if os.path.exists(fresh) else 0
            steering.progress(min(99, 50 + 50 * written // max(needed, 1)), "Making the volume")

        try:
            self._run(["convert", "-f", image.driver, "-O", "qcow2", part, fresh], look)
            run([QEMU_IMG, "resize", "-q", "-f", "qcow2", fresh, f"{_mib(image.virtual_bytes)}M"])
            flush(fresh)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
        return fresh

    def _run(self, argv: list[str], look: Callable[[], None]) -> None:
        limited = ["prlimit", f"--as={CONVERT_SPACE}", "--core=0", QEMU_IMG, *argv]
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        code, said, _ = run_bounded(limited, env, CONVERT_S, KEEP_SAID, look)
        if code is None:
            raise ProgramFailed([QEMU_IMG], f"it did not end within {CONVERT_S / 3600:.0f} hours")
        if code:
            raise ProgramFailed([QEMU_IMG], said.strip() or f"exit code {code}")

    # -- taken away ------------------------------------------------------------------------------
    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """What the volume's file is, which nobody uses."""
        path = self.storage.volume(domain_path, volume_id)
        with told("The volume cannot be read"):
            self.storage.require_alone(path)
            return ContentReport(os.stat(path).st_size, _mark(os.stat(path)))

    def read(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """A piece of it."""
        path = self.storage.volume(domain_path, volume_id)
        if not 0 < count <= MOST_PIECE or offset < 0:
            raise HostRefused("bad_piece", f"A piece of a volume has at most {MOST_PIECE} bytes, and a place.")
        with told("The volume cannot be read"):
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(count)
                if _mark(os.fstat(file.fileno())) != mark:
                    raise HostRefused("content_changed", "The disk has changed since the download began; begin it again.")
                return data

    def _part(self, domain_path: str, volume_id: UUID) -> str:
        return f"{self.storage.require_inside(domain_path)}/volumes/{volume_id}.part"


def _mib(size: int) -> int:
    return -(-size >> 20)


def _mark(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
