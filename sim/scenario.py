"""Reads a scenario folder, plays its script on an installation, and answers the log.

A folder has `README.md` (what must be seen, and why), `world.toml` (what is there), `script` (one sentence a line) and
`log.expect` (what must come of it, line by line).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.db import Sessions
from backend.directory.models import Group, Permission, User
from pools.models import Pool
from sim import agents as _agents  # noqa: F401 -- for what it lets one say
from sim import commands, make, protected, script
from sim import placing as _sentences  # noqa: F401 -- the same
from sim.clock import ToldClock
from sim.story import Story, Wrong

NOT_POLICY = ("on", "boot_timeout_s", "memory_mib")  # of a pool's table in world.toml: its template's, and its host
KEYS = ("clock", "zone", "boot_s", "shutdown_s", "save_s", "migrate_s", "quiet_s", "watches_load", "fencing", "hosts", "domains",
        "vms", "pools", "people", "groups", "calendars", "entitlements")


def play(folder: Path, sessions: Sessions) -> str:
    """The log of this scenario, played on an empty database. `Wrong` says file, line and what is possible."""
    story = read_world(folder / "world.toml", sessions)
    story.begin()
    lines = (folder / "script").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not (words := line.strip()):
            continue
        if words.startswith("#"):
            story.log.lines += ["", words]
            continue
        try:
            script.say(story, words)
        except Wrong as wrong:
            raise Wrong(f"{folder / 'script'}:{number}: “{words}” {wrong}\n\n{_tail(story)}") from wrong
    try:
        story.end()
    except Wrong as wrong:
        raise Wrong(f"{folder / 'script'}: {wrong}\n\n{_tail(story)}") from wrong
    for manager in list(story.managers):
        story.manager_down(manager.name)
    return story.log.text()


def _tail(story: Story) -> str:
    return "\n".join(["The last lines:", *story.log.lines[-20:]])


def compare(folder: Path, log: str, *, rewrite: bool = False) -> str:
    """The difference between this log and the one that is expected, for people; a missing file is written."""
    expected = folder / "log.expect"
    if rewrite or not expected.exists():
        expected.write_text(log)
        return ""
    was = expected.read_text()
    diff = difflib.unified_diff(was.splitlines(), log.splitlines(), f"{expected}", "what happened", lineterm="", n=4)
    return "\n".join(diff)


def read_world(file: Path, sessions: Sessions) -> Story:
    """What is there when the story begins."""
    try:
        world = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as wrong:
        raise Wrong(f"{file}: {wrong}") from wrong
    _known(file, "the file", world, KEYS)
    zone = ZoneInfo(world.get("zone", "UTC"))
    start = world.get("clock", datetime(2026, 3, 2, 8, 0))
    start = start if start.tzinfo else start.replace(tzinfo=zone)
    story = Story(sessions, ToldClock(start), zone, boot_s=world.get("boot_s", 3.0), shutdown_s=world.get("shutdown_s", 1.0),
                  quiet_s=world.get("quiet_s", 0.0))
    story.place.watches_load = world.get("watches_load", False)
    story.place.sim.save_s, story.place.sim.migrate_s = world.get("save_s", 0.0), world.get("migrate_s", 0.0)
    for name, fields in world.get("hosts", {"alpha": {}}).items():
        _known(file, f"host {name}", fields, ("memory_mib", "cpus", "power", "cpu"))
        power, cpu = fields.pop("power", []), fields.pop("cpu", "")
        story.place.add_host(name, **fields)
        if cpu:
            story.place.sim.do(f"cpu {name} {cpu}")
        protected.add_power_agents(story.place, name, power)
    for name, fields in world.get("domains", {}).items():
        _known(file, f"domain {name}", fields, ("path", "but"))
        story.place.add_shared_domain(name, **fields)
    _known(file, "fencing", world.get("fencing", {}), protected.POLICY)
    with story.place.tx() as tx:
        protected.set_fencing(tx, world.get("fencing", {}))
    for name, fields in world.get("vms", {}).items():
        _known(file, f"VM {name}", fields, protected.VM_FIELDS)
        for one in _numbered([name]):
            protected.add_vm(story.place, one, **fields)
    policy = (*sorted(sa.inspect(Pool).columns.keys()), *NOT_POLICY)
    for name, fields in world.get("pools", {"Desktops": {}}).items():
        _known(file, f"pool {name}", fields, policy)
        story.place.add_pool(name, **{**fields, **({"lease_s": None} if fields.get("lease_s") == 0 else {})})
    with story.place.tx() as tx:
        for name, fields in world.get("calendars", {}).items():
            _known(file, f"calendar {name}", fields, sa.inspect(Calendar).columns.keys())
            hours = {key: value for key, value in fields.items() if key != "windows"}
            make.a_calendar(tx, *fields["windows"], name=name, **{"timezone": zone.key, **hours})
    _add_people(file, story, world)
    return story


def _add_people(file: Path, story: Story, world: Mapping[str, Any]) -> None:
    groups = {group: _numbered(words) for group, words in world.get("groups", {}).items()}
    people = _numbered(world.get("people", []))
    entitlements = world.get("entitlements")
    with story.place.tx() as tx:
        rows = {group: make.a_group(tx, group) for group in groups}
        story.groups = {group: row.id for group, row in rows.items()}
        for name in dict.fromkeys([*people, *(name for names in groups.values() for name in names)]):
            user = make.a_user(tx, name, groups=[row for group, row in rows.items() if name in groups[group]])
            story.people[name] = user.id
            if entitlements is None:  # then everybody may use every pool
                for pool in tx.scalars(sa.select(Pool).order_by(Pool.name)):
                    make.a_permission(tx, user, pool)
        columns = ("of", "to", "calendar", *sorted(sa.inspect(Permission).columns.keys()))
        for given in entitlements or []:
            _known(file, "an entitlement", given, columns)
            whose = rows.get(given["of"]) or tx.get(User, story.people.get(given["of"]))
            pool = tx.scalars(sa.select(Pool).where(Pool.name == given["to"])).first()
            if whose is None or pool is None:
                raise Wrong(f"{file}: an entitlement is of “{given['of']}” to “{given['to']}”, one of which is not there.")
            assert isinstance(whose, (User, Group))
            fields = {key: value for key, value in given.items() if key not in ("of", "to", "calendar")}
            if "calendar" in given:
                fields["calendar_id"] = tx.scalars(sa.select(Calendar.id).where(Calendar.name == given["calendar"])).one()
            make.a_permission(tx, whose, pool, **fields)


def _numbered(words: list[str]) -> list[str]:
    return [name for word in words for name in commands.numbered(word)]


def _known(file: Path, what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    if unknown := [key for key in given if key not in known]:
        raise Wrong(f"{file}: {what} has no {', '.join(unknown)}; possible: {', '.join(known)}.")
