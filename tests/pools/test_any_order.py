"""Whatever happens in whatever order: one holder a desktop, nobody overtaken by a person of the same priority, no lease
after its entitlement, no member lost, everybody answered."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from backend.db import new_sessions
from backend.directory.models import Permission
from backend.errors import Refused
from backend.hosts.models import Host
from backend.storage.models import StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from broker import connect as broker
from pools import facts
from pools.commands import EditPool, PausePool, ReclaimLease, ResumePool
from pools.member_commands import RepairMember
from pools.models import Decision, Lease, Pool, PoolMember
from pools.policy import SPARE_KINDS
from pools.rules import HOLDING
from sim.installation import Installation
from sim.postgres import Cluster
from sim.story import PASSING
from tests.conftest import ToldClock

PEOPLE = st.integers(0, 5)
DESKTOP = st.integers(1, 4)
WELL = {"boot_fails": "boots", "start_fails": "starts", "hangs": "obeys", "save_fails": "saves", "restore_fails": "restores"}


class Life(RuleBasedStateMachine):
    """A pool of three desktops, six people who want one, and everything that can go wrong."""

    cluster: Cluster

    @initialize(
        spares=st.integers(0, 2), size=st.integers(1, 3), call_s=st.sampled_from([0, 5]), spare_kind=st.sampled_from(SPARE_KINDS)
    )
    def begin(self, spares: int, size: int, call_s: int, spare_kind: str) -> None:
        self.database = self.cluster.new_database()
        self.sessions = new_sessions(self.cluster.url(self.database))
        self.world = Installation(self.sessions, ToldClock(), boot_s=2, shutdown_s=1)
        self.world.add_host("alpha")
        self.pool_id = self.world.add_pool(
            size=size, spares=min(spares, size), lease_s=600, warn_s=60, grace_s=20, shutdown_s=3, boot_timeout_s=4,
            call_s=call_s, spare_kind=spare_kind,
        )  # fmt: skip
        self.people = [self.world.a_user(f"p{n}", on=[self.pool_id]) for n in range(6)]
        with self.world.tx() as tx:  # one of them goes before the others
            tx.execute(sa.update(Permission).where(Permission.user_id == self.people[-1][0]).values(priority=10))
        self.waiting: dict[UUID, tuple[int, int]] = {}
        self.holding: set[UUID] = set()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.all_is_well_in_the_end()
            finally:
                self.sessions.kw["bind"].dispose()
                self.cluster.drop(self.database)

    # -- what people do ----------------------------------------------------------------------------
    @rule(first=PEOPLE, last=PEOPLE, ticks=st.integers(0, 8))
    def come(self, first: int, last: int, ticks: int) -> None:
        for who in range(first, last + 1):
            self.connects(who)
        self.world.run_for(ticks)

    def connects(self, who: int) -> None:
        user_id, session_id = self.people[who]
        with self.world.tx() as tx:
            before = facts.queued(tx, self.pool_id, 10 if user_id == self.people[-1][0] else 0)
            mine = tx.scalars(sa.select(Lease.id).where(Lease.user_id == user_id, Lease.state.in_(("queued", *HOLDING)))).all()
        try:
            with self.world.tx() as tx:
                answer = broker.connect(
                    tx, user_id=user_id, session_id=session_id, desktop_id=self.pool_id, protocol=None, client="browser",
                    now=self.world.clock.now(),
                )  # fmt: skip
        except Refused as no:
            assert no.code == "not_found" and not self.entitled(user_id) or no.code == "entitlement_ended", no
            return
        assert answer.sentence.endswith(".")
        assert (answer.ticket is not None) == (answer.state == "ready")
        if before and not mine:
            assert answer.state in ("queued", "refused"), "overtook the queue"

    @rule(who=PEOPLE)
    def gives_back(self, who: int) -> None:
        for lease_id in self.leases_of(who):
            with self.world.tx() as tx:
                broker.give_back(tx, user_id=self.people[who][0], lease_id=lease_id, now=self.world.clock.now())

    @rule(who=PEOPLE)
    def extends(self, who: int) -> None:
        for lease_id in self.leases_of(who):
            try:
                with self.world.tx() as tx:
                    broker.extend(tx, user_id=self.people[who][0], lease_id=lease_id, now=self.world.clock.now())
            except Refused as no:
                assert str(no).endswith(".")

    @rule(who=PEOPLE, verb=st.sampled_from(["start", "shutdown", "reset"]))
    def acts(self, who: int, verb: str) -> None:
        try:
            with self.world.tx() as tx:
                broker.act(tx, user_id=self.people[who][0], desktop_id=self.pool_id, verb=verb, now=self.world.clock.now())
        except Refused as no:
            assert str(no).endswith(".")

    @rule(who=PEOPLE)
    def is_reclaimed(self, who: int) -> None:
        for lease_id in self.leases_of(who):
            with self.world.tx() as tx:
                submit(tx, ReclaimLease(lease_id), SYSTEM, self.world.clock.now())

    @rule(who=PEOPLE)
    def loses_the_right(self, who: int) -> None:
        with self.world.tx() as tx:
            tx.execute(sa.delete(Permission).where(Permission.user_id == self.people[who][0]))

    @rule(who=PEOPLE, seconds=st.integers(1, 300))
    def has_the_right_no_longer_than(self, who: int, seconds: int) -> None:
        """The entitlement is given an end: what they hold ends with it."""
        user_id, until = self.people[who][0], self.world.clock.now() + timedelta(seconds=seconds)
        with self.world.tx() as tx:
            tx.execute(sa.update(Permission).where(Permission.user_id == user_id).values(valid_until=until))
        if self.entitled(user_id):
            self.world.tick()
            with self.world.tx() as tx:
                running = sa.select(Lease.ends_at).where(Lease.user_id == user_id, Lease.state.in_(("active", "expiring")))
                assert all(end is not None and end <= until for end in tx.scalars(running)), "a lease outlives its entitlement"

    # -- what happens to the pool --------------------------------------------------------------------
    @rule(size=st.integers(1, 4), spares=st.integers(0, 1))
    def is_resized(self, size: int, spares: int) -> None:
        with self.world.tx() as tx:
            submit(tx, EditPool(self.pool_id, size=size, spares=spares), SYSTEM, self.world.clock.now())

    @rule(ticks=st.integers(1, 8))
    def is_paused_for_a_while(self, ticks: int) -> None:
        with self.world.tx() as tx:
            submit(tx, PausePool(self.pool_id, "a pause"), SYSTEM, self.world.clock.now())
            held = set(tx.scalars(sa.select(Lease.id).where(Lease.state.in_(HOLDING))))
        self.world.run_for(ticks)
        with self.world.tx() as tx:
            assert set(tx.scalars(sa.select(Lease.id).where(Lease.state.in_(HOLDING)))) <= held, "given out while paused"
            submit(tx, ResumePool(self.pool_id), SYSTEM, self.world.clock.now())

    @rule(kind=st.sampled_from(SPARE_KINDS))
    def has_its_spares_wait(self, kind: str) -> None:
        with self.world.tx() as tx:
            submit(tx, EditPool(self.pool_id, spare_kind=kind), SYSTEM, self.world.clock.now())

    @rule(n=st.integers(0, 9))
    def what_was_saved_is_lost(self, n: int) -> None:
        if names := sorted(spec.name for spec in self.world.sim.folder("/srv/alpha").saved.values()):
            self.world.sim.do(f"vm {names[n % len(names)]} memory_lost")

    @rule()
    def is_repaired(self) -> None:
        with self.world.tx() as tx:
            for member_id in tx.scalars(sa.select(PoolMember.id).where(PoolMember.state == "broken")).all():
                try:
                    with tx.begin_nested():
                        submit(tx, RepairMember(member_id), SYSTEM, self.world.clock.now())
                except Refused as no:
                    assert str(no).endswith(".")

    @rule(n=DESKTOP, ill=st.sampled_from(sorted(WELL)), ticks=st.integers(0, 12))
    def a_guest_is_ill_for_a_while(self, n: int, ill: str, ticks: int) -> None:
        self.world.sim.do(f"vm desktops-{n} {ill}")
        self.world.run_for(ticks)
        self.world.sim.do(f"vm desktops-{n} {WELL[ill]}")

    @rule(n=st.integers(0, 2))
    def a_running_vm_crashes(self, n: int) -> None:
        if running := sorted(run.spec.name for run in self.world.sim.host("alpha").runs.values()):
            self.world.sim.do(f"vm {running[n % len(running)]} crash")

    @rule(what=st.sampled_from(["network", "agent", "power"]), ticks=st.sampled_from([0, 3, 75]))
    def the_host_is_away_for_a_while(self, what: str, ticks: int) -> None:
        self.world.sim.do(f"{what} alpha off")
        self.world.run_for(ticks)
        self.world.sim.do(f"{what} alpha on")
        self.attach()

    @rule(mib=st.sampled_from([100, 300, 600]), ticks=st.sampled_from([5, 20, 70]))
    def the_host_has_little_room_for_a_while(self, mib: int, ticks: int) -> None:
        """Nothing is tried that can be seen not to be possible: a start or two may have been on their way."""
        failed = sa.select(sa.func.count()).where(Task.state == "failed", Task.error["code"].astext == "no_host")
        self.world.sim.do(f"memory alpha {mib}")
        self.world.run_for(2)
        with self.world.tx() as tx:
            before = tx.scalar(failed) or 0
        self.world.run_for(ticks)
        with self.world.tx() as tx:
            assert (tx.scalar(failed) or 0) <= before + 2, "starts are tried again and again"
        self.world.sim.do("memory alpha 65536")

    @rule(planned=st.booleans())
    def manager_is_killed(self, planned: bool) -> None:
        """In the middle of a task: claimed, and perhaps planned, but never asked or recorded."""
        runner = self.world.runner
        task_id, claim = runner.claim()
        if task_id is not None and planned:
            runner.plan(task_id, claim)
        self.world.runner, self.world.loops = self.world.new_runner("reborn"), self.world.new_loops()

    # -- time ----------------------------------------------------------------------------------------
    @rule(ticks=st.integers(1, 15))
    def time_passes(self, ticks: int) -> None:
        self.world.run_for(ticks)

    @rule(minutes=st.integers(1, 90))
    def nobody_manages_for_a_while(self, minutes: int) -> None:
        self.world.clock.sleep(timedelta(minutes=minutes).total_seconds())

    # -- what is always so ---------------------------------------------------------------------------
    @invariant()
    def one_holder_a_desktop(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.world.tx() as tx:
            rows = tx.execute(
                sa.select(Lease.id, Lease.vm_id, PoolMember.state)
                .outerjoin(PoolMember, PoolMember.vm_id == Lease.vm_id)
                .where(Lease.state.in_(HOLDING))
            ).all()
            assert len({vm for _, vm, _ in rows}) == len(rows) and all(state == "leased" for *_, state in rows), rows
            per_user = tx.execute(
                sa.select(Lease.user_id, sa.func.count()).where(Lease.state.in_(("queued", *HOLDING))).group_by(Lease.user_id)
            ).all()
            assert all(n == 1 for _, n in per_user)

    @invariant()
    def nobody_is_overtaken(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.world.tx() as tx:
            asked = tx.execute(sa.select(Lease.id, Lease.state, Lease.priority, Lease.queue_place)).all()
        queue = {id: (-priority, place) for id, state, priority, place in asked if state == "queued"}
        held = {id: (-priority, place) for id, state, priority, place in asked if state in HOLDING}
        stayed = [place for id, place in queue.items() if id in self.waiting]
        for id in held.keys() - self.holding:
            assert all(held[id] < place for place in stayed), "somebody was overtaken"
        self.waiting, self.holding = queue, set(held)

    @invariant()
    def no_member_is_lost(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.world.tx() as tx:
            members = set(tx.scalars(sa.select(PoolMember.vm_id)))
            assert members == set(tx.scalars(sa.select(Vm.id).where(Vm.pool_id == self.pool_id)))

    def all_is_well_in_the_end(self) -> None:
        """The faults are over; everybody gets a desktop or a sentence, and every member is somewhere."""
        self.world.run_for(3)  # what was asked for last has begun
        self.world.run_until(lambda tx: tx.scalar(sa.select(Host.state)) == "up", "the host is up", step_s=2)

        def answered(tx: Any) -> bool:
            open_ones = tx.execute(
                sa.select(Lease.state, PoolMember.state)
                .outerjoin(PoolMember, PoolMember.vm_id == Lease.vm_id)
                .where(Lease.state.in_(("queued", "starting", "expiring", "grace", "returning")))
            ).all()
            # a queue may stay while others hold all desktops
            taken = tx.scalar(sa.select(sa.func.count()).where(Lease.state.in_(HOLDING)))
            usable = tx.get(Pool, self.pool_id).size - facts.counts(tx, self.pool_id).get("broken", 0)
            return all(state == "queued" and taken >= usable > 0 for state, _ in open_ones)

        self.world.run_until(answered, "everybody has a desktop, waits for one that is held, or has a sentence", limit_s=240)
        self.world.run_until(
            lambda tx: not set(tx.scalars(sa.select(PoolMember.state))) & set(PASSING),
            "every member is somewhere",
            limit_s=240,
        )
        with self.world.tx() as tx:
            ended = tx.execute(sa.select(Lease.why, Lease.end_reason).where(Lease.state == "ended")).all()
            assert all(why.endswith(".") and reason for why, reason in ended), ended
            assert all(tx.scalars(sa.select(Decision.sentence)))
            counts = facts.counts(tx, self.pool_id)
            held = tx.scalars(sa.select(Lease.vm_id).where(Lease.state.in_(HOLDING))).all()
            assert counts.get("leased", 0) == len(held), "a desktop is leased by nobody"
            holders = tx.scalars(sa.select(Lease.user_id).where(Lease.state.in_(HOLDING))).all()
            assert all(self.entitled(holder) for holder in holders), "a lease outlives its entitlement"
            assert sum(counts.values()) <= max(tx.get(Pool, self.pool_id).size, counts.get("leased", 0)), counts

    # -- looking -------------------------------------------------------------------------------------
    def attach(self) -> None:
        with self.world.tx() as tx:
            self.world.sim.host("alpha").domains.update(tx.scalars(sa.select(StorageDomain.path)))

    def leases_of(self, who: int) -> list[UUID]:
        with self.world.tx() as tx:
            mine = sa.select(Lease.id).where(Lease.user_id == self.people[who][0], Lease.state.in_(("queued", *HOLDING)))
            return list(tx.scalars(mine))

    def entitled(self, user_id: UUID) -> bool:
        with self.world.tx() as tx:
            holds = sa.or_(Permission.valid_until.is_(None), Permission.valid_until > self.world.clock.now())
            return tx.scalar(sa.select(Permission.id).where(Permission.user_id == user_id, holds)) is not None


def test_any_order(cluster: Cluster) -> None:
    Life.cluster = cluster
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=int(os.environ.get("LEASEHOLD_EXAMPLES", "4")),
            stateful_step_count=30,
            deadline=None,
            derandomize="LEASEHOLD_EXAMPLES" not in os.environ,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
