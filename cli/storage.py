"""`leasehold storage inspect`: what lies in a storage domain's folder, read without a manager or a host."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from cli import show
from cli.client import REFUSED, Trouble
from hostapi import domains, metadata
from hostapi.types import DomainFound, VolumeFound


@click.group()
def storage() -> None:
    """Look into storage domains without a manager."""


@storage.command()
@click.argument("path", type=click.Path())
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def inspect(path: str, json_: bool) -> None:
    """The storage domain in the folder PATH: its disks with their chains, its VMs and templates, and what is torn, missing,
    unfinished or of nobody. Nothing is changed. The exit code is 1 when something is not as it should be."""
    try:
        told = describe(domains.read(path))
    except domains.NoDomain as no:
        raise Trouble(REFUSED, str(no)) from no
    except OSError as no:
        raise Trouble(REFUSED, f"{path} cannot be read: {no.strerror}.") from no
    show.as_json(told) if json_ else _print(told)
    if told["problems"]:  # they were told
        raise Trouble(REFUSED, "")


def describe(found: DomainFound) -> dict[str, Any]:
    """What was found, as JSON."""
    bodies: dict[str, list[Any]] = {"domain": [], "template": [], "vm": []}
    for one in found.definitions:
        bodies[one.kind].append({**json.loads(one.text), "generation": one.generation})
    owners = [(kind, body) for kind in ("template", "vm") for body in bodies[kind]]
    users = {disk["id"]: f"{kind} {body['name']}" for kind, body in owners for disk in body["disks"]}
    return {
        "path": found.path,
        "mark": str(found.mark) if found.mark else None,
        "domain": bodies["domain"][0] if bodies["domain"] else None,
        "disks": [_disk(volume, users) for volume in found.volumes],
        "vms": bodies["vm"],
        "templates": bodies["template"],
        "problems": [{"kind": one.kind, "file": one.file, "why": one.why} for one in found.problems],
    }


def _disk(volume: VolumeFound, users: dict[str, str]) -> dict[str, Any]:
    noted = metadata.parse("volume", volume.text) if volume.text else None
    return {
        "id": str(volume.volume_id),
        "name": noted.disk if noted else "",
        "of": users.get(str(volume.volume_id), ""),
        "capacity_mib": volume.capacity_mib,
        "chain": list(volume.chain),
        "snapshots": list(volume.snapshots),
        "legal": noted.legal if noted else None,
        "usable": not volume.why,
    }


def _print(told: dict[str, Any]) -> None:
    domain = told["domain"] or {}
    show.one({"storage domain": domain.get("name") or "has no name here", "id": domain.get("id") or told["mark"] or "unknown",
              "type": domain.get("type", "unknown"), "data_center": domain.get("data_center", "unknown"), "path": told["path"]})
    for what, columns in (("disks", ("name", "of", "capacity_mib", "chain", "snapshots", "id")),
                          ("vms", ("name", "memory_mib", "vcpus", "disks", "nics", "snapshots", "id")),
                          ("templates", ("name", "version", "memory_mib", "vcpus", "disks", "id")),
                          ("problems", ("kind", "file", "why"))):  # fmt: skip
        if told[what]:
            click.echo(f"\n{what}:")
            show.rows(what, [{name: _short(row[name]) for name in columns} for row in told[what]], columns)


def _short(value: Any) -> Any:
    """Lists by the names of what is in them; of a file its own name."""
    if not isinstance(value, list):
        return value
    return ", ".join(one["name"] if isinstance(one, dict) else os.path.basename(one) for one in value)
