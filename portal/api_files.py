"""REST: the bytes of disks: uploads go on where they stopped, downloads begin anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from flask import Response, request

from backend.db import get
from backend.directory import rights
from backend.errors import Busy, Impossible, Invalid, NotFound, Refused, Unavailable
from backend.hosts.models import Host
from backend.storage.models import Disk, StorageDomain, Transfer
from backend.storage.reach import host_of
from backend.tasks.submit import submit
from backend.vms.commands.uploads import TakeUpload
from backend.vms.models import Vm
from hostapi.client import HostUnreachable
from portal.auth import actor
from portal.parts import FileDoor, parts
from portal.routes import Routes, answer, now, read_uuid
from portal.transaction import commit, tx

routes = Routes("disks")
T = TypeVar("T")
PIECE = 8 << 20  # bytes asked of a host at once
NOTE_EVERY = timedelta(seconds=1)  # how often it is noted how much has arrived, and looked whether it is still wanted
OFFSET = "Upload-Offset"  # where to go on, in every answer about a transfer

TRANSFER = {"type": "object", "properties": {
    "id": {"type": "string"}, "disk_id": {"type": "string"}, "disk": {"type": "string"}, "format": {"type": "string"},
    "offset": {"type": "integer"}, "size_bytes": {"type": "integer"}, "sha256": {"type": "string"}, "state": {"type": "string"},
    "why": {"type": "string"}, "task": {"type": ["string", "null"]}}}
BYTES = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class Place:
    """Where the bytes of a disk are."""

    door: FileDoor
    domain_path: str
    volume_id: UUID


class BadRange(Refused):
    """The part of the file that is asked for is not in it."""

    status = 416


@routes.route("GET", "/transfers/<id>", "How far an upload has come: `offset` is where to go on.", answers={200: TRANSFER})
def transfer_get(id: str) -> Response:
    """As the host that has the pieces says, while they arrive."""
    transfer, disk = _transfer(id)
    if transfer.state == "receiving":
        place = _place(disk)
        commit()
        here = _asked(lambda: place.door.part_size(place.domain_path, place.volume_id))
        transfer, disk = _transfer(id)
        _note(transfer, here)
    return _told(transfer, disk)


@routes.route("PUT", "/transfers/<id>", "Send an upload's bytes: all, or those from where the header Content-Range says. Once "
              "the last has arrived, the disk is made; sent again without a body, that is tried again.",
              answers={200: TRANSFER, 202: TRANSFER}, media="application/octet-stream")
def transfer_put(id: str) -> Response:
    """Each piece is handed on as it comes: when the connection breaks, what has arrived stays."""
    transfer, disk = _transfer(id)
    if transfer.state in ("done", "failed"):
        return _told(transfer, disk)
    size = transfer.size_bytes
    offset = _offset(size)
    place = _place(disk)
    commit()
    request.max_content_length = size + PIECE  # more than the file is refused below, in words
    here, noted = None, now()
    while chunk := _piece():
        if offset + len(chunk) > size:
            raise Invalid("too_long", f"The file was announced with {size} bytes; this would be more.", fields=["Content-Range"])
        at, data = offset, chunk
        here = _asked(lambda at=at, data=data: place.door.write_part(place.domain_path, place.volume_id, at, data))  # type: ignore[misc]
        offset += len(chunk)
        if now() - noted >= NOTE_EVERY:
            _note(_transfer(id)[0], here)
            commit()
            noted = now()
    if here is None:
        here = _asked(lambda: place.door.part_size(place.domain_path, place.volume_id))
    transfer, disk = _transfer(id)
    _note(transfer, here)
    if here < size:
        return _told(transfer, disk)
    try:
        task = submit(tx(), TakeUpload(disk.id), actor(), now())
    except Busy:  # it is being taken
        return _told(transfer, disk, 202)
    return _told(transfer, disk, 202, task=str(task.id))


@routes.route("GET", "/disks/<id>/content", "The file of a disk that nothing runs on: qcow2, or the image of a CD. With "
              "the header Range only a part of it.", answers={200: BYTES, 206: BYTES}, media="application/octet-stream")
def disk_content(id: str) -> Response:
    """Piece by piece as the host reads it; a disk that changes meanwhile ends it."""
    disk = get(tx(), Disk, read_uuid(id, "disk"))
    rights.require(tx(), actor(), "disk.edit", "storagedomain", disk.domain_id, now())
    if disk.state != "ok":
        raise Impossible("disk_not_ok", f"Disk {disk.name} is {disk.state}; it can be downloaded when it is ok.")
    if disk.vm_id is not None and (vm := get(tx(), Vm, disk.vm_id)).state != "down":
        sentence = f"VM {vm.name} is {vm.state.replace('_', ' ')}; disk {disk.name} can be downloaded when it is down."
        raise Impossible("wrong_state", sentence)
    place, name = _place(disk), f"{disk.name}.{disk.format}"
    commit()
    file = _asked(lambda: place.door.content(place.domain_path, place.volume_id))
    etag = f'"{file.mark}"'
    begin, end = _range(file.size_bytes) if request.headers.get("If-Range", etag) == etag else (0, file.size_bytes)

    def pieces() -> Iterator[bytes]:
        for at in range(begin, end, PIECE):
            yield place.door.read_content(place.domain_path, place.volume_id, file.mark, at, min(PIECE, end - at))

    whole = (begin, end) == (0, file.size_bytes)
    body = pieces() if request.method == "GET" else b""
    response = Response(body, 200 if whole else 206, content_type="application/octet-stream")
    response.headers["Content-Length"] = str(end - begin)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Accept-Ranges"], response.headers["ETag"] = "bytes", etag
    if not whole:
        response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size_bytes}"
    return response


# -- inside --------------------------------------------------------------------------------------
def _transfer(id: str) -> tuple[Transfer, Disk]:
    transfer = tx().get(Transfer, read_uuid(id, "transfer"))
    if transfer is None:
        raise NotFound("not_found", "There is no such upload (any more).", kind="transfer", id=id[:60])
    disk = get(tx(), Disk, transfer.disk_id)
    rights.require(tx(), actor(), "disk.edit", "storagedomain", disk.domain_id, now())
    return transfer, disk


def _place(disk: Disk) -> Place:
    """`Impossible` while no host can be asked about the disk."""
    if (doors := parts().doors) is None:
        raise Impossible("no_way", "This portal has no certificate to show to hosts (client_cert_file), so it moves no files.")
    host = get(tx(), Host, host_of(tx(), disk))
    return Place(doors(host.id, host.address, host.port), get(tx(), StorageDomain, disk.domain_id).path, disk.id)


def _asked(ask: Callable[[], T]) -> T:
    """What the host answers; its refusal is ours."""
    try:
        return ask()
    except HostUnreachable as no:
        raise Unavailable(no.code, str(no)) if no.code == "unreachable" else Impossible(no.code, str(no)) from no


def _piece() -> bytes:
    """The next bytes of the body, as many as go to a host at once; none at its end."""
    kept = bytearray()
    while len(kept) < PIECE and (chunk := request.stream.read(PIECE - len(kept))):
        kept += chunk
    return bytes(kept)


def _note(transfer: Transfer, here: int) -> None:
    if transfer.received_bytes != here:
        transfer.received_bytes, transfer.moved_at = here, now()


def _offset(size: int) -> int:
    """Where the body's first byte belongs."""
    if not (said := request.headers.get("Content-Range")):
        return 0
    if re.fullmatch(rf"bytes \*/{size}", said):
        return 0
    found = re.fullmatch(rf"bytes (\d{{1,18}})-\d{{1,18}}/{size}", said)
    if found is None:
        sentence = f"Content-Range is “bytes <first>-<last>/{size}” here, as the file was announced."
        raise Invalid("bad_range", sentence, fields=["Content-Range"])
    return int(found[1])


def _range(size: int) -> tuple[int, int]:
    """The part of the file that is asked for; several parts are answered with all of it."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("Range", ""))
    if found is None or found[0] == "bytes=-":
        return 0, size
    first, last = found.groups()
    begin, end = (max(0, size - int(last)), size) if not first else (int(first), min(size, int(last or size) + 1))
    if begin >= end:
        raise BadRange("bad_range", f"The file has {size} bytes.", size=size)
    return begin, end


def _told(transfer: Transfer, disk: Disk, status: int = 200, task: str | None = None) -> Response:
    told: dict[str, Any] = {
        "id": str(transfer.id), "disk_id": str(disk.id), "disk": disk.name, "format": transfer.format,
        "offset": transfer.received_bytes, "size_bytes": transfer.size_bytes, "sha256": transfer.sha256,
        "state": transfer.state, "why": transfer.why, "task": task,
    }  # fmt: skip
    response = answer(told, status)
    response.headers[OFFSET] = str(transfer.received_bytes)
    return response
