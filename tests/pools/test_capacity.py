"""How many desktops are free when, until when one more lease may last; and whatever the order, booked desktops are free."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pools.capacity import (
    AT_ONCE,
    SHORTEST,
    Boots,
    Use,
    boots,
    clear,
    free,
    free_from,
    full_from,
    latest_end,
    lead,
    must_wait,
    reserved,
    short,
    stretches,
    with_starting,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def use(start: float, end: float | None, desktops: int = 1) -> Use:
    return Use(at(start), None if end is None else at(end), desktops)


@pytest.mark.parametrize(("size", "leases", "bookings", "limit"), [
    (1, [], [], None),
    (1, [], [use(60, 120)], 58),  # the whole pool is booked in an hour: two minutes to clear it
    (2, [], [use(60, 120)], None),
    (2, [use(0, 50)], [use(60, 120)], None),  # the other one is back in time
    (2, [use(0, 61)], [use(60, 120)], 58),
    (2, [use(0, None)], [use(60, 120)], 58),  # nobody knows until when
    (3, [use(0, None)], [use(60, 120), use(90, 150)], 88),  # both bookings together
    (3, [use(0, None)], [use(60, 90), use(90, 150)], None),  # one after the other
    (1, [], [use(-5, 60)], -2),  # now
    (1, [use(0, None), use(0, None)], [], None),  # a pool that was made smaller: no booking's doing
])  # fmt: skip
def test_latest_end(size: int, leases: list[Use], bookings: list[Use], limit: float | None) -> None:
    assert latest_end(size, leases, bookings, NOON, timedelta(minutes=2)) == (None if limit is None else at(limit))


def test_too_short_to_be_worth_having() -> None:
    assert not must_wait(None, NOON, 3600)
    assert must_wait(NOON + SHORTEST - timedelta(seconds=1), NOON, 3600)
    assert not must_wait(NOON + SHORTEST, NOON, 3600)
    assert not must_wait(at(1), NOON, 60)  # a pool whose leases are that short
    assert must_wait(at(-2), NOON, None)


def test_those_that_still_boot_count_as_long_as_they_wish_or_may() -> None:
    bookings = [use(60, 120, 2)]
    found = with_starting(2, [], [use(0, 90)], bookings, NOON)
    assert found == [use(0, 60)]
    assert with_starting(4, [], [use(0, 90), use(0, 30), use(0, None)], bookings, NOON) == [use(0, 90), use(0, 30), use(0, None)]
    # the third of three does not fit beside two that may stay
    assert with_starting(4, [], [use(0, 90), use(0, 90), use(0, 90)], bookings, NOON)[2] == use(0, 60)


def test_free() -> None:
    uses = [use(0, 60), use(30, 90, 2), use(90, None)]
    assert free(4, uses, at(0), at(30)) == 3
    assert free(4, uses, at(0), at(31)) == 1
    assert free(4, uses, at(60), at(90)) == 2
    assert free(1, uses, at(0), at(90)) == 0
    assert free_from(4, uses, at(0), timedelta(minutes=30), 3) == at(0)
    assert free_from(4, uses, at(10), timedelta(minutes=30), 3) == at(90)
    assert free_from(4, uses, at(0), timedelta(minutes=30), 4) is None  # one is in use without an end
    assert stretches(4, uses, at(0), at(100)) == [
        (at(0), at(30), 3), (at(30), at(60), 1), (at(60), at(90), 2), (at(90), at(100), 3),
    ]  # fmt: skip
    assert stretches(2, [], at(0), at(10)) == [(at(0), at(10), 2)]


def test_clear_is_what_it_takes_at_most() -> None:
    assert clear(60, 60) == timedelta(minutes=2) and clear(0, 1) == timedelta(minutes=1)


@pytest.mark.parametrize(("desktops", "boots", "minutes"), [
    (1, Boots(3), 1),  # never less than a minute
    (4, Boots(45), 2),
    (12, Boots(45), 4),  # three turns of four, before anything has been measured
    (12, Boots(45, at_once=12), 2),  # this pool's hosts have booted twelve beside each other
    (40, Boots(60, at_once=20), 3),
    (40, Boots(300, at_once=4), 60),  # never more than an hour
])
def test_the_lead_follows_the_measured_rate(desktops: int, boots: Boots, minutes: int) -> None:
    assert lead(desktops, boots) == timedelta(minutes=minutes)


def test_the_rate_is_what_the_latest_starts_were() -> None:
    assert boots([], 45) == Boots(45, AT_ONCE)
    one_by_one = [(at(n), at(n + 1)) for n in range(9)]
    assert boots(one_by_one, 45) == Boots(60, AT_ONCE)  # nobody asked for more at once: that they could is not denied
    together = [(at(n / 10), at(1 + n / 10)) for n in range(9)]
    assert boots(together, 45) == Boots(60, 9)
    assert boots([*one_by_one, *together[:6]], 45) == Boots(60, 7)


def test_reserved_from_the_lead_until_the_end() -> None:
    one = (at(60), at(120), 3, timedelta(minutes=5))
    for minute, expected in ((54, 0), (55, 3), (60, 3), (119, 3), (120, 0)):
        assert reserved([one], at(minute)) == expected
    assert reserved([one, (at(50), at(70), 2, timedelta(0))], at(60)) == 5


def test_a_smaller_pool_lacks_the_desktops_of_who_booked_last() -> None:
    assert short(4, [(at(0), at(60), 3), (at(30), at(90), 3), (at(60), at(90), 2)]) == [0, 2, 0]
    assert short(4, [(at(0), at(60), 3), (at(60), at(90), 4)]) == [0, 0]


# -- whatever the order -----------------------------------------------------------------------------------
STEP = st.one_of(
    st.tuples(st.just("book"), st.integers(0, 300), st.integers(5, 120), st.integers(1, 5)),
    st.tuples(st.just("take"), st.sampled_from([10, 60, 240, None]), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("extend"), st.integers(0, 9), st.integers(5, 120), st.just(0)),
    st.tuples(st.just("return"), st.integers(0, 9), st.just(0), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 60), st.just(0), st.just(0)),
)
CLEAR, LEAD = timedelta(minutes=3), timedelta(minutes=4)


@given(size=st.integers(1, 5), steps=st.lists(STEP, max_size=40))
def test_at_a_bookings_start_its_desktops_are_free(size: int, steps: list[tuple[str, int, int, int]]) -> None:
    """People book, take, wait for a boot, extend, give back: nobody is admitted whose desktop a booking lacks later."""
    now = NOON
    bookings: list[Use] = []
    leases: list[list[datetime | None]] = []  # [end] of those that run
    starting: list[list[object]] = []  # [ready at, length]

    def uses(but: object = None) -> list[Use]:
        running = [Use(now, None if lease[0] is None else max(lease[0], now) + CLEAR) for lease in leases if lease is not but]
        wishes = [
            Use(now, None if s[1] is None else now + timedelta(minutes=s[1]) + CLEAR)  # type: ignore[arg-type]
            for s in starting if s is not but
        ]  # fmt: skip
        return with_starting(size, running, wishes, bookings, now)

    def boot() -> None:
        for s in [s for s in starting if s[0] <= now]:  # type: ignore[operator]
            limit = latest_end(size, uses(s), bookings, now, CLEAR)
            ends = [limit] if limit is not None else []
            if s[1] is not None:
                ends.append(now + timedelta(minutes=s[1]))  # type: ignore[arg-type]
            starting.remove(s)
            leases.append([min(ends, default=None)])

    for what, a, b, c in steps:
        if what == "book":
            start, end = now + timedelta(minutes=a), now + timedelta(minutes=a + b)
            if free(size, [*uses(), *bookings], max(now, start - LEAD), end + CLEAR) >= c:
                bookings.append(Use(start - LEAD, end + CLEAR, c))
        elif what == "take":
            held = len(leases) + len(starting) + sum(u.desktops for u in bookings if u.at(now))
            if held < size and not must_wait(latest_end(size, uses(), bookings, now, CLEAR), now, None if a is None else a * 60):
                starting.append([now + timedelta(minutes=b), a])
        elif what == "extend" and leases:
            lease = leases[a % len(leases)]
            limit = latest_end(size, uses(lease), bookings, now, CLEAR)
            if lease[0] is not None and (limit is None or limit > lease[0]):
                wanted = lease[0] + timedelta(minutes=b)
                lease[0] = wanted if limit is None else min(wanted, limit)
        elif what == "return" and leases:
            leases.pop(a % len(leases))
        elif what == "pass":
            for _ in range(a):
                now += timedelta(minutes=1)
                leases[:] = [lease for lease in leases if lease[0] is None or lease[0] + CLEAR > now]
                boot()
                taken = len(leases) + len(starting) + sum(u.desktops for u in bookings if u.at(now))
                assert taken <= size or not any(u.at(now) for u in bookings), (now, leases, starting, bookings)
        boot()
        assert full_from(size + 1, uses(), bookings, now) is None  # all of them together always fit
