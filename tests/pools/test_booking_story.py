"""Bookings from the wish to the end, on simulated hosts: the course at 14:00, walk-ins before it, nobody comes, cancelled."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.directory.models import Membership, User
from backend.errors import Denied, Impossible, Refused
from backend.events import Event
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.submit import submit
from broker import bookings as people
from broker import connect as broker
from pools import booked, facts
from pools.booking_commands import CancelBooking, CreateBooking, EditBooking
from pools.booking_loop import BookingLoop
from pools.booking_rules import Wish
from pools.commands import EditPool, ExtendLease, RemovePool
from pools.models import Booking, Lease, Pool
from sim.clock import ToldClock
from sim.installation import Installation
from sim.make import a_calendar, a_group, a_permission, a_session, a_user

HOUR = 3600


def connect(world: Installation, who: tuple[UUID, UUID], pool_id: UUID) -> broker.Answer:
    with world.tx() as tx:
        return broker.connect(tx, user_id=who[0], session_id=who[1], desktop_id=pool_id, now=world.clock.now(),
                              protocol=None, client="browser")


def book(
    world: Installation, who: tuple[UUID, UUID], pool_id: UUID, in_s: float, for_s: float, desktops: int = 1, **more: Any
) -> Booking:
    start = world.clock.now() + timedelta(seconds=in_s)
    wish = Wish(desktops, start, start + timedelta(seconds=for_s), more.get("group_id") is None, more.pop("title", ""))
    with world.tx() as tx:
        given = {"group_id": None, "rule": "", "timezone": "UTC"} | more
        return people.book(tx, user_id=who[0], pool_id=pool_id, wish=wish, now=world.clock.now(), **given)[0]


def course(world: Installation, pool_id: UUID, students: int) -> tuple[tuple[UUID, UUID], UUID, list[tuple[UUID, UUID]]]:
    """A teacher and students, in one group that is entitled to the pool."""
    teacher = world.a_user("teacher")
    group = [world.a_user(f"s{n}") for n in range(students)]
    with world.tx() as tx:
        row = a_group(tx, "Course")
        a_permission(tx, row, tx.get(Pool, pool_id))
        for user_id, _ in [teacher, *group]:
            tx.add(Membership(user_id=user_id, group_id=row.id))
        return teacher, row.id, group


def told(world: Installation, code: str) -> list[str]:
    with world.tx() as tx:
        return list(tx.scalars(sa.select(Event.sentence).where(Event.code == code).order_by(Event.id)))


def leap(world: Installation, to: datetime) -> None:
    """Time passes without the manager, as in an outage."""
    world.clock.sleep(max(0.0, (to - world.clock.now()).total_seconds()))


def until_begun(world: Installation, booking: Booking) -> None:
    leap(world, booking.starts_at - timedelta(minutes=6))
    world.run_until(lambda tx: tx.get(Booking, booking.id).state == "running", "the booking runs", limit_s=1000, step_s=5)


def test_a_course_of_twelve_with_walk_ins_before(world: Installation) -> None:
    pool_id = world.add_pool("Desktops", size=14, lease_s=2 * HOUR, book_desktops=12, grace_s=60, shutdown_s=5)
    teacher, group_id, students = course(world, pool_id, 11)
    walk_ins = [world.a_user(f"w{n}", on=[pool_id]) for n in range(4)]
    booking = book(world, teacher, pool_id, HOUR, 2 * HOUR, 12, group_id=group_id, title="Course")
    starts, ends = booking.starts_at, booking.ends_at
    world.run_until(lambda tx: facts.counts(tx, pool_id) == {}, "nothing is made an hour before", limit_s=1)
    answers = []
    for who in walk_ins:
        world.run_until(lambda tx, who=who: connect(world, who, pool_id).state == "ready", "a walk-in's desktop", limit_s=60)
        answers.append(connect(world, who, pool_id))
    # two may stay over the course: there are 14; the others are told when theirs ends, and why
    assert [a.lease.ends_at > starts for a in answers] == [True, True, False, False]
    assert all(a.lease.ends_at <= starts - timedelta(seconds=65) for a in answers[2:])
    assert "after that the desktops are booked" in answers[2].sentence
    with pytest.raises(Impossible, match="after .* the desktops are booked"), world.tx() as tx:
        submit(tx, ExtendLease(answers[2].lease.id, HOUR), SYSTEM, world.clock.now())
    until_begun(world, booking)
    assert world.clock.now() - starts < timedelta(seconds=10)
    with world.tx() as tx:  # all twelve are up when the course begins
        assert facts.counts(tx, pool_id) == {"leased": 2, "spare": 12}
    assert told(world, "booking.late") == [] and "12 of 12" in told(world, "booking.begin")[0]
    late = connect(world, walk_ins[2], pool_id)  # nothing is free: they wait, though twelve spares are up
    assert late.state == "queued" and "booked" in late.sentence
    for who in [*students, teacher]:
        answer = connect(world, who, pool_id)
        assert answer.state == "ready" and answer.lease.ends_at == ends and answer.lease.booking_id == booking.id
    world.run_for(5)
    assert connect(world, walk_ins[2], pool_id).state == "queued"
    with world.tx() as tx, pytest.raises(Impossible, match="change the end of the booking"):
        submit(tx, ExtendLease(answer.lease.id, HOUR), SYSTEM, world.clock.now())
    leap(world, ends - timedelta(seconds=20))
    world.run_until(lambda tx: tx.get(Booking, booking.id).state == "ended", "the course is over", limit_s=300, step_s=5)
    world.run_until(lambda tx: connect(world, walk_ins[2], pool_id).state == "ready", "then the walk-in", limit_s=600)
    world.run_until(lambda tx: tx.get(Lease, answer.lease.id).state == "ended", "the leases ended with it", limit_s=300)


def test_nobody_comes(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=2, per_user=2, book_hold_s=300, shutdown_s=5)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    booking = book(world, alice, pool_id, 600, HOUR, 2)
    until_begun(world, booking)
    assert connect(world, bob, pool_id).state == "queued"
    world.run_until(lambda tx: tx.get(Booking, booking.id).state == "ended", "it is given up", limit_s=400, step_s=5)
    assert told(world, "booking.unused")
    world.run_until(lambda tx: connect(world, bob, pool_id).state == "ready", "bob's desktop", limit_s=60)


def test_what_is_not_used_is_freed_for_others(world: Installation) -> None:
    pool_id = world.add_pool(size=3, lease_s=600, book_desktops=3, book_hold_s=300, shutdown_s=5)
    teacher, group_id, students = course(world, pool_id, 2)
    walk_in = world.a_user("walk", on=[pool_id])
    booking = book(world, teacher, pool_id, 300, HOUR, 3, group_id=group_id)
    until_begun(world, booking)
    assert connect(world, students[0], pool_id).state == "ready"
    world.run_until(lambda tx: tx.get(Booking, booking.id).kept == 1, "the others are freed", limit_s=400, step_s=5)
    assert told(world, "booking.release") and "2 desktops" in told(world, "booking.release")[0]
    assert connect(world, walk_in, pool_id).state == "ready"
    late = connect(world, students[1], pool_id)  # too late for the booking, but one is free
    assert late.state in ("ready", "starting") and late.lease.booking_id is None


def test_cancelled(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=HOUR, book_desktops=1)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    booking = book(world, alice, pool_id, 120, HOUR)
    waits = connect(world, bob, pool_id)
    assert waits.state == "queued" and "booked until" in waits.sentence
    with world.tx() as tx, pytest.raises(Refused):
        people.cancel(tx, user_id=bob[0], booking_id=booking.id, series=False, now=world.clock.now())
    with world.tx() as tx:
        people.cancel(tx, user_id=alice[0], booking_id=booking.id, series=False, now=world.clock.now())
    world.run_until(lambda tx: connect(world, bob, pool_id).state == "ready", "bob's desktop", limit_s=60)
    with world.tx() as tx, pytest.raises(Impossible):
        people.cancel(tx, user_id=alice[0], booking_id=booking.id, series=False, now=world.clock.now())


def test_their_own_desktop_goes_on_into_their_booking(world: Installation) -> None:
    pool_id = world.add_pool(size=2, spares=1, lease_s=900, book_desktops=1)
    alice = world.a_user("alice", on=[pool_id])
    booking = book(world, alice, pool_id, 600, HOUR)
    world.run_until(lambda tx: connect(world, alice, pool_id).state == "ready", "a desktop before", limit_s=60)
    before = connect(world, alice, pool_id)
    until_begun(world, booking)
    after = connect(world, alice, pool_id)
    assert after.lease.id == before.lease.id and after.lease.booking_id == booking.id
    assert after.lease.ends_at == booking.ends_at


def test_a_lease_that_somebody_is_at_when_its_booking_begins_is_adopted_later(world: Installation) -> None:
    pool_id = world.add_pool(size=2, spares=1, lease_s=900, book_desktops=1)
    alice = world.a_user("alice", on=[pool_id])
    booking = book(world, alice, pool_id, 600, HOUR)
    world.run_until(lambda tx: connect(world, alice, pool_id).state == "ready", "a desktop before", limit_s=60)
    lease_id = connect(world, alice, pool_id).lease.id
    world.run_for(570, step_s=10)
    with world.tx() as somebody:
        somebody.get_one(Lease, lease_id, with_for_update=True)
        with world.tx() as tx:
            BookingLoop(ToldClock(booking.starts_at)).apply(tx, None)
        with world.tx() as tx:
            assert tx.get_one(Booking, booking.id).state == "running"
            assert tx.get_one(Lease, lease_id).booking_id is None
    world.run_for(60, step_s=5)
    with world.tx() as tx:
        lease = tx.get_one(Lease, lease_id)
        assert (lease.booking_id, lease.ends_at) == (booking.id, booking.ends_at)


def test_an_edit_moves_the_ends_of_leases_and_the_time(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=600, book_desktops=1)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    booking = book(world, alice, pool_id, 600, HOUR)
    with pytest.raises(Impossible, match="no desktop .* can be booked"):
        book(world, bob, pool_id, 1200, 600)
    later = booking.starts_at + timedelta(hours=5)
    with world.tx() as tx:
        people.change(tx, user_id=alice[0], booking_id=booking.id, title="Thesis", desktops=None, starts_at=later,
                      ends_at=later + timedelta(hours=1), now=world.clock.now())
    book(world, bob, pool_id, 1200, 600)
    with world.tx() as tx:
        people.change(tx, user_id=alice[0], booking_id=booking.id, title=None, desktops=None,
                      starts_at=world.clock.now() + timedelta(hours=2), ends_at=world.clock.now() + timedelta(hours=3),
                      now=world.clock.now())
    with world.tx() as tx:
        booking = tx.get(Booking, booking.id)
    until_begun(world, booking)
    world.run_until(lambda tx: connect(world, alice, pool_id).state == "ready", "alice's desktop", limit_s=60)
    with world.tx() as tx:
        row = tx.get(Booking, booking.id)
        end = row.ends_at + timedelta(minutes=30)
        submit(tx, EditBooking(booking.id, ends_at=end), SYSTEM, world.clock.now())
    assert connect(world, alice, pool_id).lease.ends_at == end
    with world.tx() as tx, pytest.raises(Impossible, match="has begun"):
        submit(tx, EditBooking(booking.id, starts_at=world.clock.now() + timedelta(hours=1)), SYSTEM, world.clock.now())


def test_a_pool_shrunk_under_bookings_tells_it(world: Installation) -> None:
    pool_id = world.add_pool(size=4, lease_s=600, book_desktops=4, per_user=4, book_open=9)
    alice = world.a_user("alice", on=[pool_id])
    first, second = book(world, alice, pool_id, 7200, HOUR, 2), book(world, alice, pool_id, 7200, HOUR, 2)
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, size=3), SYSTEM, world.clock.now())
    world.run_for(2)
    with world.tx() as tx:
        assert tx.get(Booking, first.id).why == ""
        assert "1 desktop of 2 will be missing" in tx.get(Booking, second.id).why
    assert len(told(world, "booking.short")) == 1
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, size=4), SYSTEM, world.clock.now())
    world.run_for(2)
    with world.tx() as tx:
        assert tx.get(Booking, second.id).why == ""


def test_not_ready_in_time_is_told_and_mended(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=2, per_user=2)
    alice = world.a_user("alice", on=[pool_id])
    booking = book(world, alice, pool_id, 600, HOUR, 2)
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, size=1), SYSTEM, world.clock.now())
    until_begun(world, booking)
    world.run_until(lambda tx: tx.get(Booking, booking.id).late, "it is told", limit_s=30)
    assert "1 of 2 desktops are ready" in told(world, "booking.late")[0]
    assert connect(world, alice, pool_id).state == "ready"  # what there is, is theirs
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, size=2), SYSTEM, world.clock.now())
    world.run_until(lambda tx: not tx.get(Booking, booking.id).late, "both are there", limit_s=120)
    assert told(world, "booking.ready")


def test_who_is_not_entitled_books_nothing(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=1)
    stranger = world.a_user("stranger")
    with pytest.raises(Refused, match="no pool"):
        book(world, stranger, pool_id, 600, HOUR)
    short = world.a_user("short")
    with world.tx() as tx:
        a_permission(tx, tx.get(User, short[0]), tx.get(Pool, pool_id), valid_until=world.clock.now() + timedelta(hours=1))
    book(world, short, pool_id, 600, 1200)
    with pytest.raises(Denied, match="whole of that time"):
        book(world, short, pool_id, 1800, 2 * HOUR)


def test_hours_of_an_entitlement_count_at_the_time_booked(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=1, book_open=9)
    now = world.clock.now()
    open_at, closes = now + timedelta(hours=5), now + timedelta(hours=8)
    with world.tx() as tx:
        calendar = a_calendar(tx, f"daily {open_at:%H:%M}-{closes:%H:%M}")
        user = a_user(tx, "evening")
        evening = user.id, a_session(tx, user, now).id
        a_permission(tx, user, tx.get(Pool, pool_id), calendar_id=calendar.id)
    book(world, evening, pool_id, 6 * HOUR, HOUR)  # closed now, open then
    with pytest.raises(Denied):
        book(world, evening, pool_id, 2 * HOUR, HOUR)


def test_people_keep_to_the_policy_and_administrators_need_not(world: Installation) -> None:
    pool_id = world.add_pool(size=10, lease_s=600, book_desktops=2, book_open=1)
    teacher, group_id, _ = course(world, pool_id, 3)
    with world.tx() as tx:
        other = a_group(tx, "Others").id
    with pytest.raises(Impossible, match="2 desktops"):
        book(world, teacher, pool_id, 600, HOUR, 3, group_id=group_id)
    with pytest.raises(Denied, match="groups that you are in"):
        book(world, teacher, pool_id, 600, HOUR, 2, group_id=other)
    book(world, teacher, pool_id, 600, HOUR, 2, group_id=group_id)
    with pytest.raises(Impossible, match="one booking"):
        book(world, teacher, pool_id, 600, HOUR, 1)
    now = world.clock.now()
    with world.tx() as tx, pytest.raises(Denied):
        submit(tx, CreateBooking(pool_id, now, now + timedelta(hours=1)), Actor(teacher[0], "teacher"), now)
    with world.tx() as tx:
        made = CreateBooking(pool_id, now + timedelta(hours=2), now + timedelta(hours=3), 8, "Exam", group_id, teacher[0])
        id = UUID(submit(tx, made, SYSTEM, now).result["id"])
    with world.tx() as tx:
        assert tx.get(Booking, id).desktops == 8
        with pytest.raises(Denied, match="Nobody of group Others"):
            late = now + timedelta(hours=5), now + timedelta(hours=6)
            submit(tx, CreateBooking(pool_id, *late, 1, "", other, teacher[0]), SYSTEM, now)


def test_a_series_is_made_whole_and_cancelled_whole(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=2, per_user=2, book_open=20, book_ahead_s=60 * 86_400)
    alice = world.a_user("alice", on=[pool_id])
    week = 7 * 86_400
    third = book(world, alice, pool_id, HOUR + 2 * week, HOUR, 1)
    with pytest.raises(Impossible, match="only 1 desktop"):  # all or nothing
        book(world, alice, pool_id, HOUR, HOUR, 2, rule="FREQ=WEEKLY;COUNT=4")
    first = book(world, alice, pool_id, HOUR, HOUR, 1, rule="FREQ=WEEKLY;COUNT=4")
    with world.tx() as tx:
        rows = tx.scalars(sa.select(Booking).where(Booking.series_id == first.id).order_by(Booking.starts_at)).all()
        assert len(rows) == 4 and rows[3].starts_at - rows[0].starts_at == timedelta(weeks=3)
        assert submit(tx, CancelBooking(rows[1].id, "Holidays", True), SYSTEM, world.clock.now()).result == {"cancelled": 4}
    with world.tx() as tx:
        assert tx.get(Booking, third.id).state == "booked"


def test_a_pool_with_bookings_is_removed_by_force_alone(world: Installation) -> None:
    pool_id = world.add_pool(size=2, lease_s=600, book_desktops=1)
    alice = world.a_user("alice", on=[pool_id])
    booking = book(world, alice, pool_id, HOUR, HOUR)
    with world.tx() as tx, pytest.raises(Impossible, match="1 booking"):
        submit(tx, RemovePool(pool_id), SYSTEM, world.clock.now())
    with world.tx() as tx:
        submit(tx, RemovePool(pool_id, force=True), SYSTEM, world.clock.now())
        assert tx.get(Booking, booking.id).state == "cancelled"


def test_the_calendar_shows_others_bookings_without_their_names(world: Installation) -> None:
    pool_id = world.add_pool(size=3, lease_s=600, book_desktops=2, per_user=2)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    booking = book(world, alice, pool_id, HOUR, HOUR, 2, title="Secret plans")
    now = world.clock.now()
    with world.tx() as tx:
        seen = {who: people.calendar(tx, user_id=who[0], pool_id=pool_id, since=now, until=now + timedelta(hours=4), now=now)
                for who in (alice, bob)}
    assert seen[alice].bookings[0].name == "Secret plans" and seen[alice].bookings[0].editable
    assert seen[bob].bookings[0].name == "Booked" and seen[bob].bookings[0].who == "" and not seen[bob].bookings[0].editable
    assert [n for _, _, n in seen[bob].free] == [3, 1, 3]
    with world.tx() as tx:
        with pytest.raises(Refused):
            people.one(tx, bob[0], booking.id, now)
        assert booked.next_of(tx, pool_id, alice[0], now).id == booking.id
