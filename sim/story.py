"""`Story`: an installation whose time is told, its people and managers, and the log of what becomes of them."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

import assembly
from backend.ca import Authority
from backend.db import Sessions, Tx, get
from backend.directory.models import Permission, User, WebSession
from backend.hosts.models import Host
from backend.loops import Leadership, tick
from backend.storage.models import StorageDomain
from backend.tasks.command import Actor
from backend.tasks.models import Task
from backend.vms.models import Vm
from pools import booked, facts
from pools.models import Decision, Lease, Pool, PoolMember
from pools.rules import HOLDING
from sim import make, protected, telling, watching
from sim.clock import ToldClock
from sim.dues import next_due
from sim.installation import LIVE, Installation, Pace

QUIET_TICKS = 3  # rounds without news after which the managers are not asked for each second any more
IDLE_STEP_S = 600.0  # … but after twice as long each time, up to this; what is due at a known time comes at its time
NOT_TOLD = ("enroll", "screens", "power kinds", "watch")  # a story has no agents that enroll, no pictures, and only rounds
LONGEST = timedelta(hours=12)  # that `until` waits
REST_TICKS = 3  # that nothing is new in the end: a host is asked every two seconds
SETTLE_S = 300  # that everything has at the end to come to rest
TAKEN = ("leased", "broken", "kept")
PASSING = ("creating", "warming", "saving", "resetting", "removing")


class Wrong(Exception):
    """The story cannot be told, or does not end as every story must; says why."""


class Manager:
    """One manager process: a runner, and its loops, each of which it runs while it leads it."""

    def __init__(self, place: Installation, name: str) -> None:
        self.place, self.name = place, name
        self.runner = place.new_runner(name)
        authority = Authority.create(place.clock.now())
        loops = assembly.loops(place.door, place.clock, place.keyring, authority, quiet_s=place.quiet_s, soft=place.soft)
        not_told = NOT_TOLD if place.watches_load else (*NOT_TOLD, "host history")
        self.loops = [loop for loop in loops if loop.name not in not_told]
        self.leadership = Leadership(place.sessions)
        self.leads: set[str] = set()
        self._pace = Pace()

    def tick(self) -> None:
        """Say that it lives; every loop that is due, once."""
        self.runner.beat()
        due = self._pace.due(self.loops, self.place.clock.now())
        leads = self.leadership.of(loop.name for loop in due)
        self.leads |= leads
        for loop in due:
            if loop.name in leads:
                tick(self.place.sessions, loop)

    def die(self, others: int) -> None:
        """Gone at once; its leadership goes with its connections. `others` loops are led by other managers."""
        self.leadership.resign()
        locks = sa.text("SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
                        "WHERE locktype = 'advisory' AND datname = current_database()")
        for _ in range(1000):
            with self.place.tx() as tx:
                if tx.scalar(locks) <= others:
                    return
            threading.Event().wait(0.01)
        raise Wrong(f"The locks of {self.name} were not freed.")


class Story:
    """What sentences do something to, and what is told of it."""

    def __init__(self, sessions: Sessions, clock: ToldClock, zone: ZoneInfo, **data_center: float) -> None:
        self.clock, self.log = clock, telling.Log(clock, zone)
        self.place = Installation(sessions, clock, **data_center)  # type: ignore[arg-type]
        self.people: dict[str, UUID] = {}
        self.groups: dict[str, UUID] = {}
        self.managers: list[Manager] = []
        self._born = 0
        self._pages: dict[str, telling.Page] = {}
        self._seen: dict[Any, str] = {}
        self._last_event = 0
        self._quiet = 0

    # -- before it begins --------------------------------------------------------------------------
    def begin(self) -> None:
        """What is there is taken as known; the first manager comes."""
        with self.place.tx() as tx:
            self.admin = Actor(make.a_user(tx, "admin").id, "admin")
            tx.add(Permission(user_id=self.admin.user_id, role="system_admin", object_type="system"))
            for name, user_id in self.people.items():
                self._pages[name] = telling.page(tx, self.log, user_id, self.clock.now())
        self.manager_up()

    def manager_up(self) -> Manager:
        """A fresh manager process, with a name of its own."""
        self._born += 1
        manager = Manager(self.place, f"manager-{self._born}")
        self.managers.append(manager)
        return manager

    def manager_down(self, name: str | None = None) -> Manager:
        """This manager, or the only one, is gone at once."""
        here = [m for m in self.managers if name in (None, m.name)]
        if not here:
            raise Wrong(f"There is no manager {name or ''} up; there is {', '.join(m.name for m in self.managers) or 'none'}.")
        self.managers.remove(here[0])
        here[0].die(sum(len(m.leads) for m in self.managers))
        return here[0]

    # -- time --------------------------------------------------------------------------------------
    def tick(self) -> None:
        """One round of the gateway and of every manager, and what is new by it."""
        with self.place.tx() as tx:
            watching.beat(tx, self.clock.now())
        for manager in self.managers:
            manager.tick()
        if self.managers:
            self.place.work([manager.runner for manager in self.managers])
        if wrong := protected.twice(self.place.sim):
            raise Wrong(f"{'; '.join(wrong)}.")
        self.tell()

    def until(self, true: Any, end: datetime, *, step_s: float = IDLE_STEP_S) -> bool:
        """Rounds, one a second or fewer while nothing happens, until it is true or this time has come."""
        if true is not None and self._holds(true):
            return True
        while True:
            began = self.clock.now()
            self.tick()
            if true is not None and self._holds(true):
                return True
            if began >= end:
                return False
            step = timedelta(seconds=self._step(step_s))
            self.clock.time = max(self.clock.time, min(began.replace(microsecond=0) + step, max(end, began)))

    def said(self) -> None:
        """Somebody did something: it is told, and looked at closely what comes of it."""
        self._quiet = 0
        self.tell()

    def is_quiet(self, tx: Tx) -> bool:
        """Whether nothing is new, and nothing is on its way."""
        return self._quiet > REST_TICKS and not self._unrest(tx)

    def _holds(self, true: Any) -> Any:
        with self.place.tx() as tx:
            return true(tx)

    def _step(self, longest: float) -> float:
        if not self.managers:
            return longest
        with self.place.tx() as tx:
            if self._quiet < QUIET_TICKS or self._is_busy(tx):
                return 1.0
            due = next_due(tx, self.clock.now())
        left = (due - self.clock.now()).total_seconds() if due else longest
        return max(1.0, min(longest, 2.0 ** (self._quiet - QUIET_TICKS), float(-(-left // 1))))

    def _is_busy(self, tx: Tx) -> bool:
        """Whether something may happen in the next second of which no row says when."""
        if tx.scalar(sa.select(sa.func.count()).where(Task.state.in_(LIVE))):
            return True
        if protected.on_its_way(tx):
            return True
        for name, state in tx.execute(sa.select(Host.name, Host.state)):
            machine = self.place.sim.machines[name]
            reachable = machine.powered and machine.connected and machine.agent_on
            if reachable != (state == "up") or state in ("connecting", "reboot"):
                return True
        return False

    # -- telling -----------------------------------------------------------------------------------
    def tell(self) -> None:
        """Events that are new, then what is new on people's pages."""
        before = len(self.log.lines)
        with self.place.tx() as tx:
            for id, mark, sentence in telling.events_after(tx, self._last_event):
                self.log.say(sentence, mark)
                self._last_event = id
            news = [(name, line) for name in self._may_differ(tx) for line in self._news(tx, name)]
        for who, line in telling.together(news):
            self.log.say(f"{who} {'see' if ',' in who or '..' in who else 'sees'} {line}")
        self._quiet = 0 if len(self.log.lines) > before else self._quiet + 1

    def looked(self, name: str) -> None:
        """This person has just been told how it stands, so their page is no news."""
        with self.place.tx() as tx:
            self._news(tx, name)

    def _news(self, tx: Tx, name: str) -> list[str]:
        before, after = self._pages[name], telling.page(tx, self.log, self.people[name], self.clock.now())
        self._pages[name] = after
        return telling.differences(before, after)

    def _may_differ(self, tx: Tx) -> list[str]:
        """People whose page may say something else by now: all, when more than their own lease has changed."""
        vm_state = sa.func.coalesce(sa.func.concat(Vm.name, Vm.state), "")
        mine = sa.func.concat_ws("|", Lease.state, Lease.why, Lease.ends_at, Lease.called_until, vm_state)
        seen: dict[Any, str] = {
            user_id: text
            for user_id, text in tx.execute(
                sa.select(Lease.user_id, sa.func.string_agg(mine, sa.text("'/' ORDER BY lease.queue_place")))
                .outerjoin(Vm, Vm.id == Lease.vm_id)
                .group_by(Lease.user_id)
            )
        }
        pools = tx.execute(sa.select(Pool.name, Pool.state, Pool.trouble).order_by(Pool.name)).all()
        seen[None] = repr((pools, tx.scalar(sa.select(sa.func.count()).select_from(Permission))))
        before, self._seen = self._seen, seen
        if before.get(None) != seen[None] or self._quiet >= QUIET_TICKS:
            return list(self.people)
        return [name for name, user_id in self.people.items() if before.get(user_id) != seen.get(user_id)]

    # -- people ------------------------------------------------------------------------------------
    def session_of(self, tx: Tx, name: str) -> UUID:
        """The person's session; they sign in again when it is over."""
        now, user_id = self.clock.now(), self.people[name]
        live = sa.select(WebSession.id).where(
            WebSession.user_id == user_id, WebSession.ended_at.is_(None), WebSession.expires_at > now
        )
        return tx.scalar(live.limit(1)) or make.a_session(tx, get(tx, User, user_id), now).id

    def lease_of(self, tx: Tx, name: str, live: bool = True) -> Lease | None:
        """The person's latest lease; with `live`, the latest that is theirs now."""
        mine = sa.select(Lease).where(Lease.user_id == self.people[name]).order_by(Lease.queue_place.desc()).limit(1)
        if live:
            mine = mine.where(Lease.state.in_(("queued", *HOLDING)))
        return tx.scalars(mine.execution_options(populate_existing=True)).first()

    def path_of(self, domain: str) -> str:
        """The folder of a storage domain, by its name; a path stays one."""
        with self.place.tx() as tx:
            return tx.scalar(sa.select(StorageDomain.path).where(StorageDomain.name == domain)) or domain

    # -- the end -----------------------------------------------------------------------------------
    def end(self) -> None:
        """Let everything come to rest, and look whether all is as it must be after every story."""
        if not self.managers:
            raise Wrong("The story ends without a manager; let it end with “manager up”.")
        if not self.until(self.is_quiet, self.clock.now() + timedelta(seconds=SETTLE_S), step_s=1.0):
            with self.place.tx() as tx:
                raise Wrong(f"After {SETTLE_S} s still not at rest: {'; '.join(self._unrest(tx))}.")
        with self.place.tx() as tx:
            self._require_sound(tx)
            self.log.lines += ["", "-- in the end", *protected.standing(tx)]
            for pool in tx.scalars(sa.select(Pool).order_by(Pool.name)):
                waiting = facts.queued(tx, pool.id)
                self.log.lines.append(f"{pool.name}: {telling.counted(facts.counts(tx, pool.id))}; {waiting} waiting")
        lines = telling.together((name, line) for name in self.people for line in self._standing(name))
        self.log.lines += [f"{who}: {line}" for who, line in lines]

    def _standing(self, name: str) -> list[str]:
        with self.place.tx() as tx:
            found = telling.page(tx, self.log, self.people[name], self.clock.now())
            return [f"{pool}: {key if key.startswith('queued') else words}" for pool, (key, words) in found.items()]

    def _unrest(self, tx: Tx) -> list[str]:
        """What is still on its way, or has no answer yet."""
        found = [f"task “{title}” ({message})" for title, message in
                 tx.execute(sa.select(Task.title, Task.message).where(Task.state.in_(LIVE)).order_by(Task.id))]
        moving = sa.select(Vm.name, PoolMember.state).join(Vm, Vm.id == PoolMember.vm_id).order_by(Vm.name)
        found += [f"{name} is {state}" for name, state in tx.execute(moving.where(PoolMember.state.in_(PASSING)))]
        passing = sa.select(Lease.state, Lease.pool_id).where(Lease.state.in_(("queued", "starting", "grace", "returning")))
        for state, pool_id in tx.execute(passing.order_by(Lease.queue_place)):
            pool, counts = tx.get(Pool, pool_id), facts.counts(tx, pool_id)
            assert pool is not None
            if state != "queued":
                found.append(f"a lease is {state}")
            elif booked.any_open(tx, pool_id):
                continue  # then desktops may rightly wait for those who booked them
            elif pool.size > sum(counts.get(s, 0) for s in TAKEN) and pool.state == "up" and not pool.trouble:
                found.append(f"somebody waits for {pool.name}, which has desktops ({telling.counted(counts)})")
        return found

    def _require_sound(self, tx: Tx) -> None:
        """One holder a desktop, no desktop lost, everybody answered in whole sentences."""
        held = tx.scalars(sa.select(Lease.vm_id).where(Lease.state.in_(HOLDING))).all()
        wrong = list(protected.unexplained(tx))
        if len(set(held)) != len(held):
            wrong.append("two people hold one desktop")
        members = set(tx.scalars(sa.select(PoolMember.vm_id)))
        if members != set(tx.scalars(sa.select(Vm.id).where(Vm.pool_id.is_not(None)))):
            wrong.append("a desktop is of no pool any more, or its VM is gone")
        leased = set(tx.scalars(sa.select(PoolMember.vm_id).where(PoolMember.state == "leased")))
        if leased != set(held):
            wrong.append("a desktop is leased to nobody, or held though it is not leased")
        for why, reason in tx.execute(sa.select(Lease.why, Lease.end_reason).where(Lease.state == "ended")):
            if not why.rstrip("\"'”)").endswith((".", "!", "?")) and reason != "reclaimed" or not reason:
                wrong.append(f"a lease ended without a sentence: {why!r} ({reason})")
        if not all(tx.scalars(sa.select(Decision.sentence))):
            wrong.append("a decision says nothing")
        if wrong:
            raise Wrong(f"All is not well: {'; '.join(wrong)}.")
