"""`leasehold disk upload` and `leasehold disk download`: files go to disks and come back, and go on where they stopped."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cli import actions, show
from cli.client import REFUSED, UNREACHABLE, Client, Trouble, path
from cli.waiting import wait_for

PIECE = 16 << 20  # bytes in one request
TRIES, REST_S = 8, 2.0  # how often a portal that cannot be reached is tried again, and how long it is waited before
FORMATS = ("qcow2", "raw", "iso")


def bar() -> Progress:
    """How far a file is, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=show.err, transient=True)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True))
@click.option("--name", help="The disk's name. Default: the file's.")
@click.option("--domain", help="The storage domain, by name or id; need not be said when there is only one.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: as the file's name ends; else raw.")
@click.pass_obj
def upload(session: Any, file: str, name: str | None, domain: str | None, format_: str | None) -> None:
    """Upload FILE to become a disk, or a CD to start machines from. Broken off, the same command goes on where it stopped."""
    client, source = session.client(), Path(file)
    name = name or source.name
    with source.open("rb") as data, bar() as progress:
        size = os.fstat(data.fileno()).st_size
        if not size:
            raise Trouble(REFUSED, f"{file} is empty.")
        wanted = {"format": format_ or _format(source), "size_bytes": size, "sha256": _sum(data, size, progress)}
        where = _going_on(client, name, wanted) or _begin(client, name, domain, wanted)
        told = _send(client, where, data, size, progress)
    if told["task"]:
        wait_for(client, told["task"])
    told = client.ask("GET", where)
    if told["state"] != "done":
        raise Trouble(REFUSED, f"{name}: {told['why'] or 'it is being looked at; see the list of tasks.'}")
    show.err.print(f"{name} is uploaded.", markup=False, highlight=False)
    click.echo(told["disk_id"])


@click.command()
@click.argument("disk")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.pass_obj
def download(session: Any, disk: str, file: str | None) -> None:
    """Download a disk to FILE (default: its name). Broken off, the same command goes on where it stopped, unless the disk has
    changed since."""
    client = session.client()
    where = path("disks", actions.find(client, "disks", disk)) + "/content"
    head = client.stream("GET", where, {"Range": "bytes=0-0"})  # a refusal to HEAD would have no sentence
    size, mark = int(head.headers["Content-Range"].rpartition("/")[2]), head.headers["ETag"]
    head.drain_conn()
    target = Path(file or head.headers["Content-Disposition"].rpartition("filename=")[2].strip('"').replace("/", "_"))
    if target.exists():
        raise Trouble(REFUSED, f"{target} is there already; choose another name.")
    part = target.with_name(f"{target.name}.{mark.strip(chr(34))}.part")
    with part.open("ab") as kept, bar() as progress:
        line = progress.add_task(target.name, total=size, completed=kept.tell())
        while (has := kept.tell()) < size:
            answer = client.stream("GET", where, {"Range": f"bytes={has}-", "If-Range": mark})
            if answer.headers["ETag"] != mark:
                raise Trouble(REFUSED, "The disk has changed since the download began; begin it again.")
            try:
                for chunk in answer.stream(1 << 20):
                    kept.write(chunk)
                    progress.advance(line, len(chunk))
            except client.BROKEN as broken:
                if kept.tell() == has:
                    raise Trouble(UNREACHABLE, f"The download broke off: {broken}; the same command goes on.") from None
    part.rename(target)
    show.err.print(f"{target}: {size} bytes.", markup=False, highlight=False)


def _format(file: Path) -> str:
    return file.suffix[1:].lower() if file.suffix[1:].lower() in FORMATS else "raw"


def _sum(data: BinaryIO, size: int, progress: Progress) -> str:
    line, found = progress.add_task("Checksum", total=size), hashlib.sha256()
    while chunk := data.read(1 << 20):
        found.update(chunk)
        progress.advance(line, len(chunk))
    progress.remove_task(line)
    return found.hexdigest()


def _going_on(client: Client, name: str, wanted: dict[str, Any]) -> str | None:
    """Where an upload of the same file under this name goes on, if one was broken off."""
    search = f"name = {actions.quoted(name)} and upload = receiving"
    for disk in client.ask("GET", "/disks", query={"search": search, "max": 1})["items"]:
        where = path("transfers", disk["transfer_id"])
        told = client.ask("GET", where)
        if wanted.items() <= told.items():
            show.err.print(f"Going on at {told['offset'] * 100 // told['size_bytes']} per cent.")
            return where
    return None


def _begin(client: Client, name: str, domain: str | None, wanted: dict[str, Any]) -> str:
    if domain is None:
        items = client.ask("GET", "/storagedomains", query={"max": 2})["items"]
        if len(items) != 1:
            raise click.UsageError("Say --domain: there are several, or none.")
        domain = str(items[0]["id"])
    body = {"name": name, "domain_id": actions.find(client, "storagedomains", domain), **wanted}
    return path("transfers", client.ask("POST", "/disks/upload", body)["task"]["result"]["transfer_id"])


def _send(client: Client, where: str, data: BinaryIO, size: int, progress: Progress) -> dict[str, Any]:
    """The last answer. A portal that cannot be reached is tried again for a while: it knows where to go on."""
    line, tries = progress.add_task("Upload", total=size), 0
    told: dict[str, Any] = {}
    offset: int | None = None
    while True:
        try:
            if offset is None:
                offset = int(client.ask("GET", where)["offset"])
            progress.update(line, completed=offset)
            data.seek(offset)
            piece = data.read(PIECE)
            said = f"bytes {offset}-{offset + len(piece) - 1}/{size}" if piece else f"bytes */{size}"
            told = client.send(where, piece, {"Content-Range": said})
            offset, tries = int(told["offset"]), 0
            if offset == size or told["state"] != "receiving":
                return told
        except Trouble as no:
            if no.code != UNREACHABLE or tries == TRIES:
                raise
            tries, offset = tries + 1, None
            time.sleep(REST_S)


__all__ = ["download", "upload"]
