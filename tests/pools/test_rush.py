"""200 people at once for 20 desktops: 20 leases, 180 in the queue in order; what comes back goes to the next."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import new_sessions
from broker import connect as broker
from pools import facts
from pools.models import Decision, Lease
from sim.installation import Installation
from tests.conftest import ToldClock

PEOPLE, DESKTOPS = 200, 20


def test_two_hundred_people_twenty_desktops(database_url: str, clock: ToldClock) -> None:
    sessions = new_sessions(database_url, pool=30)
    world = Installation(sessions, clock, boot_s=0, shutdown_s=0)
    world.add_host("alpha")
    pool_id = world.add_pool(size=DESKTOPS, spares=DESKTOPS)
    people = [world.a_user(f"p{n}", on=[pool_id]) for n in range(PEOPLE)]
    world.run_until(lambda tx: facts.counts(tx, pool_id) == {"spare": DESKTOPS}, "all are up")

    answers: list[broker.Answer] = []
    failed: list[BaseException] = []
    together = threading.Barrier(PEOPLE)

    def ask(who: tuple[UUID, UUID]) -> None:
        together.wait()
        try:
            with sessions.begin() as tx:
                answer = broker.connect(
                    tx, user_id=who[0], session_id=who[1], desktop_id=pool_id, protocol=None, client="browser", now=clock.now()
                )
            answers.append(answer)
        except BaseException as wrong:
            failed.append(wrong)
            raise

    threads = [threading.Thread(target=ask, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed

    ready = [a for a in answers if a.state == "ready"]
    assert len(ready) == DESKTOPS == len({a.vm_id for a in ready}) == len({a.ticket.id for a in ready})
    assert [a.state for a in answers].count("queued") == PEOPLE - DESKTOPS
    with world.tx() as tx:
        assert states_of(tx) == {"active": DESKTOPS, "queued": PEOPLE - DESKTOPS}
        queue = list(tx.scalars(sa.select(Lease).where(Lease.state == "queued").order_by(Lease.queue_place)))
        assert [facts.position(tx, lease) for lease in queue] == list(range(1, PEOPLE - DESKTOPS + 1))
        assert tx.scalar(sa.select(sa.func.count()).select_from(Decision)) == PEOPLE
        assert tx.scalar(sa.select(sa.func.count(sa.distinct(Lease.user_id)))) == PEOPLE

    order, served = [lease.id for lease in queue], [a.lease.id for a in ready]
    late = world.a_user("late", on=[pool_id])
    for _ in range(4):
        giving, next_ones = served[:DESKTOPS], order[:DESKTOPS]
        with world.tx() as tx:
            for lease_id in giving:
                user_id = tx.scalar(sa.select(Lease.user_id).where(Lease.id == lease_id))
                broker.give_back(tx, user_id=user_id, lease_id=lease_id, now=clock.now())
        with world.tx() as tx:  # somebody who comes just now is behind everybody, whatever comes free
            answer = broker.connect(
                tx, user_id=late[0], session_id=late[1], desktop_id=pool_id, protocol=None, client="browser", now=clock.now()
            )
            assert answer.state == "queued" and answer.position == len(order) + 1
        world.run_until(lambda tx, them=next_ones: active(tx) >= set(them), "the next ones")
        with world.tx() as tx:
            assert active(tx) == set(next_ones)
        served, order = next_ones, order[DESKTOPS:]
    sessions.kw["bind"].dispose()


def states_of(tx: Any) -> dict[str, int]:
    return dict(tx.execute(sa.select(Lease.state, sa.func.count()).group_by(Lease.state)).all())


def active(tx: Any) -> set[UUID]:
    return set(tx.scalars(sa.select(Lease.id).where(Lease.state.in_(("starting", "active")))))
