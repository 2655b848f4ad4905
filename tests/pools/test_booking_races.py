"""People who book and people who connect at the same instant: whatever PostgreSQL makes of it, booked desktops are free."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from backend.errors import Refused
from broker import bookings as people
from broker import connect as broker
from pools import booked, capacity
from pools.booking_rules import OPEN, Wish
from pools.models import Booking, Lease, Pool
from sim.installation import Installation


def at_once(*works: Callable[[], None]) -> None:
    """Each in a thread of its own, begun together; a refusal is an answer, anything else is not."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        gate.wait()
        with suppress(Refused):
            work()

    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(run, work) for work in works]:
            done.result()


def test_one_books_the_pool_while_others_take_and_extend(world: Installation) -> None:
    policy = {"lease_s": 3600, "extensions": 5, "extend_s": 3600, "book_desktops": 3, "per_user": 3, "book_open": 9}
    pool_id = world.add_pool(size=3, spares=3, **policy)
    boss = world.a_user("boss", on=[pool_id])
    crowd = [world.a_user(f"p{n}", on=[pool_id]) for n in range(4)]
    world.run_until(lambda tx: tx.scalar(sa.text("SELECT count(*) = 3 FROM pool_member WHERE state = 'spare'")), "spares")

    def book(in_s: int, desktops: int) -> Callable[[], None]:
        def work() -> None:
            start = world.clock.now() + timedelta(seconds=in_s)
            with world.sessions.begin() as tx:
                people.book(tx, user_id=boss[0], pool_id=pool_id, now=world.clock.now(), group_id=None, rule="", timezone="UTC",
                            wish=Wish(desktops, start, start + timedelta(hours=1)))
        return work

    def connect(who: tuple[UUID, UUID]) -> Callable[[], None]:
        def work() -> None:
            with world.sessions.begin() as tx:
                broker.connect(tx, user_id=who[0], session_id=who[1], desktop_id=pool_id, now=world.clock.now(), protocol=None,
                               client="browser")
        return work

    def extend(who: tuple[UUID, UUID]) -> Callable[[], None]:
        def work() -> None:
            with world.sessions.begin() as tx:
                for id in tx.scalars(sa.select(Lease.id).where(Lease.user_id == who[0], Lease.state == "active")).all():
                    broker.extend(tx, user_id=who[0], lease_id=id, now=world.clock.now())
        return work

    for n in range(6):
        at_once(book(1800 + 4000 * n, 2), *(connect(who) for who in crowd), *(extend(who) for who in crowd), book(2400, 1))
        with world.tx() as tx:
            found = booked.uses(tx, tx.get(Pool, pool_id), world.clock.now())
            assert all(capacity.used(found.all, use.start) <= 3 for use in found.bookings), found
        world.run_for(3)
    with world.tx() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(Booking.state.in_(OPEN))), "some were admitted"
