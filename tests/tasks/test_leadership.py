"""One process leads a loop; another takes over what is left, or what a lost connection set free."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from backend.db import Sessions
from backend.loops import Leadership

HANG_UP = sa.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
                  "(SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip


def soon(true: Callable[[], bool]) -> None:
    """PostgreSQL ends a connection, and frees its locks, in a moment of its own."""
    while not true():
        time.sleep(0.01)


def test_a_loop_is_led_by_one_until_it_leaves(sessions: Sessions) -> None:
    one, other = Leadership(sessions), Leadership(sessions)
    assert one.of(["leases", "spares"]) == {"leases", "spares"}
    assert other.of(["leases", "spares", "monitor"]) == {"monitor"}
    assert one.of(["leases", "monitor"]) == {"leases"}
    one.leave("leases")
    assert other.of(["leases", "spares", "monitor"]) == {"leases", "monitor"}
    assert one.of(["leases", "spares"]) == {"spares"}
    one.resign()
    soon(lambda: other.of(["leases", "spares"]) == {"leases", "spares"})
    other.resign()


def test_who_loses_the_connection_leads_nothing_until_it_is_free_again(sessions: Sessions) -> None:
    one, other = Leadership(sessions), Leadership(sessions)
    assert one.of(["leases", "spares"]) == {"leases", "spares"}
    with sessions() as tx:
        tx.execute(HANG_UP)
    soon(lambda: one.of(["leases"]) == set())  # it finds out before the loop's next round
    soon(lambda: other.of(["leases"]) == {"leases"})
    assert one.of(["leases"]) == set()
    soon(lambda: one.of(["leases", "spares"]) == {"spares"})
    one.resign()
    other.resign()
