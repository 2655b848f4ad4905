"""Commands of the product in the words of a script: names instead of ids, `size=2` instead of JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, get_type_hints
from uuid import UUID

import msgspec
import sqlalchemy as sa

import assembly
from backend.calendars.models import Calendar
from backend.clusters.models import Cluster, DataCenter
from backend.db import Tx
from backend.directory.models import Directory, Group, User
from backend.hosts.models import Host
from backend.storage.models import StorageDomain
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Template, Vm
from pools.models import Booking, Lease, Pool, PoolMember, Rollout
from sim.story import Story, Wrong

NAMED: dict[str, Any] = {
    "pool": Pool, "vm": Vm, "host": Host, "storagedomain": StorageDomain, "domain": StorageDomain, "template": Template,
    "iso_domain": StorageDomain, "cluster": Cluster, "calendar": Calendar, "datacenter": DataCenter, "user": User,
    "group": Group, "directory": Directory,
}  # fmt: skip


def find(tx: Tx, story: Story, kind: str, name: str) -> UUID | None:
    """The id of the thing of this kind with this name: a lease by its person, a member by its VM,
    a rollout by its pool, a version of a template as “Debian, version 2”."""
    if kind == "lease":
        person = name.removesuffix("'s")
        lease = story.lease_of(tx, person) if person in story.people else None
        if lease is None and person not in story.people:
            of_vm = sa.select(Lease).join(Vm, Vm.id == Lease.vm_id).where(Vm.name == name, Lease.state != "ended")
            lease = tx.scalars(of_vm).first()
        return lease.id if lease is not None else None
    if kind == "member":
        return tx.scalar(sa.select(PoolMember.id).join(Vm, Vm.id == PoolMember.vm_id).where(Vm.name == name))
    if kind == "template" and (version := re.fullmatch(r"(.+), version (\d+)", name)):
        return tx.scalar(sa.select(Template.id).where(Template.name == version[1], Template.version == int(version[2])))
    if kind == "rollout":
        of_pool = sa.select(Rollout.id).join(Pool, Pool.id == Rollout.pool_id).where(Pool.name == name)
        return tx.scalar(of_pool.order_by(Rollout.created_at.desc()).limit(1))
    if kind == "booking":
        return tx.scalar(sa.select(Booking.id).where(Booking.title == name))
    cls = NAMED.get(kind)
    if cls is None:
        table = next((m.class_ for m in Pool.registry.mappers if getattr(m.class_, "kind", None) == kind), None)
        cls = table if table is not None and hasattr(table, "name") else None
    return tx.scalar(sa.select(cls.id).where(cls.name == name)) if cls is not None else None


def require(tx: Tx, story: Story, kind: str, name: str) -> UUID:
    """As `find`; `Wrong` with the names that there are."""
    found = find(tx, story, kind, name)
    if found is None:
        cls = NAMED.get(kind)
        if cls is None:
            raise Wrong(f"cannot be: there is no {kind} of {name}.")
        there = ", ".join(tx.scalars(sa.select(cls.name).order_by(cls.name))) or "none"
        raise Wrong(f"cannot be: there is no {kind} {name}. There is {there}.")
    return found


def named(tx: Tx, story: Story, verb: str, rest: str) -> str:
    """The command that “edits Desktops” means: of the kinds of thing called so, the first that has such a verb."""
    name = (shlex.split(rest) or [""])[0]
    verbs = [verb[:-1], verb.removesuffix("es"), f"{verb.removesuffix('ies')}y"]
    possible = [c for c in assembly.COMMANDS if c.split(".")[1] in verbs]
    for command in possible:
        if find(tx, story, command.split(".")[0], name) is not None:
            return command
    kinds = ", ".join(sorted(c.split(".")[0] for c in possible))
    if not possible:
        raise Wrong(f"cannot be: no command is called so. There are {', '.join(sorted(assembly.COMMANDS))}.")
    raise Wrong(f"cannot be: that goes with {kinds}; none of them is called {name}.")


def read(tx: Tx, story: Story, command: str, rest: str) -> dict[str, Any]:
    """The command's fields from “Desktops size=2”: a word without = is the thing that it is about."""
    cls = assembly.COMMANDS.get(command)
    if cls is None:
        raise Wrong(f"cannot be: there is no command {command}. There are {', '.join(sorted(assembly.COMMANDS))}.")
    hints, known = get_type_hints(cls), [f.name for f in fields(cls)]
    given: dict[str, Any] = {}
    for word in shlex.split(rest):
        key, is_field, value = word.partition("=")
        if not is_field:
            key, value = f"{command.split('.')[0]}_id", word
            if key not in known:
                key = next((name for name in known if name.endswith(("_name", "_id"))), key)
        if key not in known and f"{key}_id" in known:
            key = f"{key}_id"
        if key not in known:
            raise Wrong(f"cannot be: {command} has no field {key}; it has {', '.join(known)}.")
        given[key] = _value(tx, story, key, value, str(hints[key]))
    return given


def _value(tx: Tx, story: Story, field: str, text: str, hint: str) -> Any:
    if "UUID" in hint and field.endswith("_id") and not re.fullmatch(r"[0-9a-f-]{36}", text):
        return require(tx, story, field.removesuffix("_id"), text)
    if "UUID" in hint and field.endswith("_ids"):
        names = [one for part in text.split(",") if part for one in numbered(part)]
        return [require(tx, story, field.removesuffix("_ids"), one) for one in names]
    if "datetime" in hint:
        return time_of_day(story, text)
    if text[:1] in "[{":
        return json.loads(text)
    return [part for part in text.split(",") if part] if "tuple" in hint or "list" in hint else text


def submit_as_admin(tx: Tx, story: Story, command: str, args: Mapping[str, Any]) -> Task:
    """Have it done in the administrator's name, as REST would."""
    cls = assembly.COMMANDS[command]
    try:
        wanted: Any = msgspec.convert(dict(args), cls, strict=False)
    except msgspec.ValidationError as wrong:
        raise Wrong(f"cannot be: {wrong}.") from wrong
    return submit(tx, wanted, story.admin, story.clock.now())


def time_of_day(story: Story, text: str) -> datetime:
    """The next 17:30 of this story's clock; or a whole date and time."""
    zone, now = story.log.zone, story.clock.now()
    if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
        local = now.astimezone(zone)
        hour, minute, second = (*map(int, text.split(":")), 0)[:3]
        at = local.replace(hour=hour, minute=minute, second=second, microsecond=0, fold=0)
        return at if at > local else (at + timedelta(days=1))
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=zone)


def numbered(word: str) -> list[str]:
    """s1..s3 as s1, s2, s3; any other word as it is."""
    found = re.fullmatch(r"(.*?)(\d+)\.\.\1(\d+)", word)
    return [f"{found[1]}{n}" for n in range(int(found[2]), int(found[3]) + 1)] if found else [word]
