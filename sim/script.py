"""The sentences of a scenario's script: what each looks like, and what it does to the story."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from backend.db import Tx
from backend.directory.models import Group, Membership, Permission, User
from backend.errors import Refused
from backend.hosts.models import Host
from backend.storage.models import Disk, StorageDomain
from backend.tasks.models import Task
from backend.vms.models import Template, Vm
from pools import facts
from pools.models import Pool, PoolMember
from sim import commands, deeds, make, telling
from sim.story import LONGEST, Story, Wrong

NAME = r"[\w@.-]+(?<![,.:])"
WHO = rf"(?P<who>{NAME}(?:(?:, ?| and ){NAME})*)"


@dataclass(frozen=True)
class Sentence:
    """A form of sentence: how it reads, and what it does."""

    pattern: re.Pattern[str]
    examples: tuple[str, ...]
    do: Callable[..., None]


SENTENCES: list[Sentence] = []


def sentence(pattern: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have sentences like these understood; the pattern's groups are the function's arguments."""

    def keep(do: Callable[..., None]) -> Callable[..., None]:
        SENTENCES.append(Sentence(re.compile(pattern), examples, do))
        return do

    return keep


def say(story: Story, line: str) -> None:
    """Do what this line says, and tell what comes of it; `Wrong` with what is possible when nobody understands it."""
    for known in SENTENCES:
        if found := known.pattern.fullmatch(line):
            story.log.say(line, ">")
            try:
                known.do(story, **{key: value for key, value in found.groupdict().items() if value is not None})
            except Refused as no:
                who = found.groupdict().get("who") or "admin"
                story.log.say(f"{who} is told: no. {no.message}")
            story.said()
            return
    raise Wrong("is not understood. Possible are:\n" + "\n".join(f"  {' | '.join(known.examples)}" for known in SENTENCES))


# -- time -------------------------------------------------------------------------------------------
@sentence(r"time (?P<how_long>[\dhms .]+)", "time 200", "time 5m", "time 1h 30m")
def time(story: Story, how_long: str) -> None:
    story.until(None, story.clock.now().replace(microsecond=0) + span(how_long))


@sentence(r"clock jumps (?P<how_long>[\dhms .]+)", "clock jumps 10h")
def jump(story: Story, how_long: str) -> None:
    story.clock.time += span(how_long)


@sentence(r"until (?P<at>\d\d:\d\d(:\d\d)?)", "until 17:30")
def until_time(story: Story, at: str) -> None:
    story.until(None, commands.time_of_day(story, at))


@sentence(rf"until {WHO} (?:has|have) (?P<count>\d+) (?P<state>[a-z_]+)", "until Desktops has 2 spare")
def until_count(story: Story, who: str, count: str, state: str) -> None:
    def true(tx: Tx) -> bool:
        pool_id = commands.require(tx, story, "pool", who)
        waiting = facts.queued(tx, pool_id) if state == "waiting" else 0
        return facts.counts(tx, pool_id).get(state, 0) + waiting == int(count)

    wait(story, true, f"{who} has {count} {state}")


@sentence(rf"until {WHO} (?P<what>has a desktop|have a desktop|waits|wait|has none|have none)",
          "until alice has a desktop", "until bob waits", "until carol has none")
def until_holding(story: Story, who: str, what: str) -> None:
    people = everybody(story, who)

    def one(tx: Tx, name: str) -> bool:
        lease = story.lease_of(tx, name)
        if what.endswith("none"):
            return lease is None
        if what.startswith("wait"):
            return lease is not None and lease.state == "queued"
        vm = tx.get(Vm, lease.vm_id, populate_existing=True) if lease is not None and lease.vm_id else None
        return lease is not None and lease.state in ("active", "expiring") and vm is not None and vm.state == "up"

    wait(story, lambda tx: all(one(tx, name) for name in people), f"{who} {what}")


@sentence(rf"until {WHO} (?:is|are) (?P<state>[a-z_]+)",
          "until alice is expiring", "until desktops-1 is broken", "until alpha is up", "until all is quiet")
def until_state(story: Story, who: str, state: str) -> None:
    if state == "quiet":
        return wait(story, story.is_quiet, "all is quiet")

    def one(tx: Tx, name: str) -> bool:
        if name in story.people:
            lease = story.lease_of(tx, name, live=False)
            return lease is not None and lease.state == state
        of_member = sa.select(PoolMember.state).join(Vm, Vm.id == PoolMember.vm_id).where(Vm.name == name)
        found = [tx.scalar(one) for one in (of_member, *(sa.select(c.state).where(c.name == name) for c in (Vm, Host, Pool)))]
        return state in found

    people = everybody(story, who) if who == "everybody" or ".." in who else re.split(r", ?| and ", who)
    wait(story, lambda tx: all(one(tx, name) for name in people), f"{who} is {state}")


@sentence(r"until (?P<code>[a-z_]+\.[a-z_]+)", "until lease.warn")
def until_event(story: Story, code: str) -> None:
    with story.place.tx() as tx:
        before = tx.scalar(sa.text("SELECT coalesce(max(id), 0) FROM event"))
    later = sa.text("SELECT 1 FROM event WHERE id > :before AND code = :code LIMIT 1").bindparams(before=before, code=code)
    wait(story, lambda tx: tx.scalar(later) is not None, f"event {code}")


def wait(story: Story, true: Callable[[Tx], bool], what: str) -> None:
    if not story.until(true, story.clock.now() + LONGEST):
        raise Wrong(f"did not come true within {telling.length(LONGEST.total_seconds())}: {what}.")


def span(words: str) -> timedelta:
    """200, 200s, 5m, 1h 30m as a length of time."""
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([hms]?)", words)
    seconds = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
    return timedelta(seconds=sum(float(number) * seconds[unit] for number, unit in found))


# -- managers and faults ----------------------------------------------------------------------------
@sentence(r"(?P<name>manager(?:-\d+)?) (?P<what>up|down)", "manager down", "manager up", "manager-2 down")
def manager(story: Story, name: str, what: str) -> None:
    if what == "up":
        story.log.say(f"{story.manager_up().name} is up.")
    else:
        story.log.say(f"{story.manager_down(None if name == 'manager' else name).name} is gone.")


@sentence(r"(?P<name>manager(?:-\d+)?) is killed at work", "manager is killed at work")
def killed(story: Story, name: str) -> None:
    here = next((m for m in story.managers if name in ("manager", m.name)), None)
    task_id, claim = here.runner.claim() if here else (None, None)
    if here is None or task_id is None or claim is None:
        raise Wrong("cannot be: there is no such manager, or no task that is due.")
    here.runner.plan(task_id, claim)
    with story.place.tx() as tx:
        task = tx.get(Task, task_id)
        assert task is not None
        story.log.say(f"{story.manager_down(here.name).name} is gone, in the middle of “{task.title}”.")


@sentence(r"(?P<kind>power|network|agent|vm|storage|memory|bmc|hook|cpu|swap|traffic|upgrade) (?P<name>\S+) (?P<what>.+)",
          "power alpha off|on|broken", "network alpha off|on", "agent alpha restart|off|on|broken", "memory alpha 1024",
          "upgrade alpha works|fails|vanishes", "swap alpha 900",
          "traffic alpha 80", "cpu alpha Haswell", "cpu alpha Haswell without avx2",
          "hook greet works|fails|hangs", "bmc alpha silent|stuck|deaf|ok", "bmc bmc2-alpha silent",
          "storage alpha-disks full|broken|ok|slow 30",
          "vm desktops-1 crash|shutdown|boot_fails|boots|start_fails|starts|hangs|obeys",
          "vm desktops-1 panics|reboots|io_error|no_space|holds_on|lets_go")
def fault(story: Story, kind: str, name: str, what: str) -> None:
    try:
        story.place.sim.do(f"{kind} {story.path_of(name) if kind == 'storage' else name} {what}")
    except ValueError as wrong:
        raise Wrong(f"cannot be: {wrong}") from wrong


# -- administrators ---------------------------------------------------------------------------------
@sentence(rf"entitlement of (?P<name>{NAME})(?: to (?P<to>.+?))? (?P<what>ends|begins)(?: at (?P<at>\S+))?",
          "entitlement of students ends", "entitlement of bob to Desktops begins", "entitlement of bob ends at 17:00")
def entitlement(story: Story, name: str, what: str, to: str | None = None, at: str | None = None) -> None:
    kind = "user" if name in story.people else "group"
    with story.place.tx() as tx:
        who = commands.require(tx, story, kind, name)
        pools = [commands.require(tx, story, "pool", to)] if to else list(tx.scalars(sa.select(Pool.id).order_by(Pool.name)))
        for pool_id in pools:
            given = tx.scalar(sa.select(Permission.id).where(
                Permission.object_id == pool_id, sa.or_(Permission.user_id == who, Permission.group_id == who)))
            if what == "ends" and at is None:
                if given is not None:
                    commands.submit_as_admin(tx, story, "permission.take", {"permission_id": given})
                continue
            until = {"valid_until" if what == "ends" else "valid_from": commands.time_of_day(story, at)} if at else {}
            args = {f"{kind}_id": who, "role": "user", "object_type": "pool", "object_id": pool_id, **until}
            commands.submit_as_admin(tx, story, "permission.grant", args)


@sentence(rf"(?P<name>{NAME}) is (?P<what>now|no longer) in (?P<group>{NAME})",
          "alice is no longer in students", "bob is now in students")
def membership(story: Story, name: str, what: str, group: str) -> None:
    with story.place.tx() as tx:
        both = commands.require(tx, story, "user", name), commands.require(tx, story, "group", group)
        if what == "now":
            tx.add(Membership(user_id=both[0], group_id=both[1]))
        else:
            tx.execute(sa.delete(Membership).where(Membership.user_id == both[0], Membership.group_id == both[1]))


@sentence(rf"admin takes (?P<name>{NAME})(?:'s desktop back| out of the queue)(?:: (?P<message>.+))?",
          'admin takes alice\'s desktop back: "maintenance at noon"', "admin takes bob out of the queue")
def takes_back(story: Story, name: str, message: str = "") -> None:
    with story.place.tx() as tx:
        args = {"lease_id": commands.require(tx, story, "lease", name), "message": message.strip('"“”')}
        commands.submit_as_admin(tx, story, "lease.reclaim", args)


@sentence(r"admin does (?P<command>[a-z_]+\.[a-z_]+)(?P<rest> .*)?", "admin does pool.edit Desktops size=2")
def admin_does(story: Story, command: str, rest: str = "") -> None:
    with story.place.tx() as tx:
        commands.submit_as_admin(tx, story, command, commands.read(tx, story, command, rest))


@sentence(r"admin (?P<verb>[a-z_]+s) (?P<rest>.+)",
          "admin edits Desktops size=2", "admin repairs desktops-1", "admin removes Desktops force=true")
def admin_verbs(story: Story, verb: str, rest: str) -> None:
    with story.place.tx() as tx:
        command = commands.named(tx, story, verb, rest)
        commands.submit_as_admin(tx, story, command, commands.read(tx, story, command, rest))


@sentence(r"(?P<pool>.+) has a new version(?P<broken> that does not boot)?",
          "Desktops has a new version", "Desktops has a new version that does not boot")
def new_version(story: Story, pool: str, broken: str = "") -> None:
    with story.place.tx() as tx:
        row = tx.get_one(Pool, commands.require(tx, story, "pool", pool))
        old = tx.get_one(Template, row.template_id)
        newest = tx.scalar(sa.select(sa.func.max(Template.version)).where(Template.name == old.name)) or 0
        new = make.a_template(tx, old.name, domain=tx.get_one(StorageDomain, row.domain_id), version=newest + 1,
                              boot_timeout_s=old.boot_timeout_s, memory_mib=old.memory_mib)  # fmt: skip
        if broken:
            story.place.sim.do(f"image {tx.scalar(sa.select(Disk.path).where(Disk.template_id == new.id))} boot_fails")


@sentence(r"show (?P<pool>.+)", "show Desktops")
def show(story: Story, pool: str) -> None:
    with story.place.tx() as tx:
        row = tx.get(Pool, commands.require(tx, story, "pool", pool), populate_existing=True)
        assert row is not None
        trouble = f" {row.trouble}" if row.trouble else ""
        counts = telling.counted(facts.counts(tx, row.id))
        story.log.say(f"{pool} is {row.state}: {counts}; {facts.queued(tx, row.id)} waiting.{trouble}")
        aside = sa.select(Vm.name, PoolMember.why).join(Vm, Vm.id == PoolMember.vm_id).where(PoolMember.state == "broken")
        for name, why in tx.execute(aside.where(PoolMember.pool_id == row.id).order_by(sa.func.length(Vm.name), Vm.name)):
            story.log.say(f"  {name} is set aside: {why}")


@sentence(r"count the tasks", "count the tasks")
def count_tasks(story: Story) -> None:
    with story.place.tx() as tx:
        rows = sa.select(Task.command, Task.state, sa.func.count()).group_by(Task.command, Task.state)
        told = [f"{count} {command} {state}" for command, state, count in tx.execute(rows.order_by(Task.command, Task.state))]
    story.log.say(f"Tasks so far: {', '.join(told) or 'none'}.")


# -- people -----------------------------------------------------------------------------------------
@sentence(rf"ask {WHO}", "ask alice")
def ask(story: Story, who: str) -> None:
    for name in everybody(story, who):
        with story.place.tx() as tx:
            seen = telling.page(tx, story.log, story.people[name], story.clock.now())
        story.log.say(f"{name} sees " + ("; ".join(f"{pool}: {words}" for pool, (_, words) in seen.items()) or "nothing."))


@sentence(rf"{WHO} connects? to (?P<desktop>.+?)(?P<another> again)?(?: with (?P<protocol>vnc|spice))?",
          "alice connects to Desktops", "alice, bob and s1..s40 connect to Desktops", "everybody connects to Desktops with spice",
          "alice connects to Desktops again")
def connects(story: Story, who: str, desktop: str, another: str = "", protocol: str | None = None) -> None:
    answers = [(name, deeds.connect(story, name, desktop, another=bool(another), protocol=protocol))
               for name in everybody(story, who)]
    for names, answer in telling.together(answers):
        story.log.say(f"{names} {'are' if ',' in names or '..' in names else 'is'} told: {answer}")


@sentence(rf"{WHO} (?:does|do) (?P<deed>[a-z_]+)(?: (?:in|of|with) (?P<desktop>[^=]+?))?(?P<more>(?: \w+=\S+)*)",
          "alice does extend", "alice does shutdown of desktops-2")
def does(story: Story, who: str, deed: str, desktop: str = "", more: str = "") -> None:
    answers = [(name, deeds.do(story, name, deed, desktop, dict(m.split("=", 1) for m in more.split())))
               for name in everybody(story, who)]
    for names, answer in telling.together((name, answer) for name, answer in answers if answer):
        story.log.say(f"{names} {'are' if ',' in names or '..' in names else 'is'} told: {answer}")


@sentence(rf"{WHO} opens? (?:a|their) consoles?", "alice opens a console", "alice and bob open their consoles")
def opens(story: Story, who: str) -> None:
    for name in everybody(story, who):
        if answer := deeds.watch(story, name):
            story.log.say(f"{name} is told: {answer}")


@sentence(rf"{WHO} (?P<what>presse?s? a key|closes? (?:the|their) consoles?)", "alice presses a key", "alice closes the console")
def at_console(story: Story, who: str, what: str) -> None:
    for name in everybody(story, who):
        deeds.at_console(story, name, close=what.startswith("close"))


@sentence(rf"(?P<who>{NAME}) books (?P<count>\d+) of (?P<pool>.+?)(?: for (?P<group>{NAME}))? "
          r"from (?P<start>\S+) until (?P<end>\S+)",
          "alice books 1 of Desktops from 09:00 until 10:00", "teacher books 2 of Desktops for course from 09:00 until 10:00")
def books(story: Story, who: str, count: str, pool: str, start: str, end: str, group: str = "") -> None:
    name, times = everybody(story, who)[0], [commands.time_of_day(story, at) for at in (start, end)]
    deeds.book(story, name, pool, int(count), times[0], times[1], group)


WORDS = {"gives? back": "give_back", "leaves? the queue": "leave_queue", "extends?": "extend", "starts?": "start",
         "shuts? down": "shutdown", "resets?": "reset"}


@sentence(rf"{WHO} (?P<words>{'|'.join(WORDS)})(?: (?:of )?(?P<desktop>.+))?",
          "alice gives back", "alice gives back desktops-2", "alice leaves the queue", "alice extends", "alice shuts down",
          "alice starts", "alice resets")
def verbs(story: Story, who: str, words: str, desktop: str = "") -> None:
    deed = next(deed for pattern, deed in WORDS.items() if re.fullmatch(pattern, words))
    does(story, who, deed, desktop)


def everybody(story: Story, who: str) -> list[str]:
    """The people that these words name: alice, bob and s1..s40; everybody; everybody of a group."""
    found: list[str] = []
    for word in re.split(r", ?| and ", who):
        if word == "everybody":
            found += list(story.people)
        elif word in story.groups:
            with story.place.tx() as tx:
                members = sa.select(User.name).join(Membership, Membership.user_id == User.id).join(
                    Group, Group.id == Membership.group_id).where(Group.name == word)
                here = set(tx.scalars(members))
            found += [name for name in story.people if name in here]
        else:
            found += commands.numbered(word)
    if unknown := [name for name in found if name not in story.people]:
        raise Wrong(f"cannot be: nobody is called {', '.join(unknown)}. There are {telling.names(list(story.people))}"
                    f"{', and the groups ' + ', '.join(story.groups) if story.groups else ''}.")
    return found
