"""After chaos: is it at rest, and is everything as it must be? Reads the database, the hosts' files and the logs."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import sqlalchemy as sa

from tests.chaos.host import left
from tests.chaos.people import Told
from tests.chaos.place import Place

# what is still under way; nothing may be, once everybody has gone
UNREST = {
    "tasks": "SELECT concat(title, ' is ', state, ': ', message) FROM task WHERE state IN ('queued', 'running')",
    "leases": "SELECT concat('lease of ', u.name, ' is ', l.state, ', ends ', l.ends_at, ' ', l.why) FROM lease l"
              " JOIN user_account u ON u.id = l.user_id WHERE l.state <> 'ended'",
    "members": "SELECT concat('member ', v.name, ' is ', m.state, ' ', m.why) FROM pool_member m LEFT JOIN vm v ON v.id = m.vm_id"
               " WHERE m.state NOT IN ('ready', 'spare', 'broken')",
    "vms": "SELECT concat('VM ', name, ' is ', state, ' ', why) FROM vm WHERE state NOT IN ('up', 'down')",
    "hosts": "SELECT concat('host ', name, ' is ', state) FROM host WHERE state <> 'up'",
    "spares": "SELECT concat('pool ', p.name, ' has no spare. ', p.trouble) FROM pool p WHERE p.spares > (SELECT count(*)"
              " FROM pool_member m WHERE m.pool_id = p.id AND m.state = 'spare')",
    "bookings": "SELECT concat('a booking of ', u.name, ' is ', b.state, ', ends ', b.ends_at) FROM booking b JOIN user_account u"
                " ON u.id = b.user_id WHERE b.state IN ('booked', 'preparing', 'running')",
    "consoles": "SELECT concat('console of ', u.name, ' is open') FROM console_session c JOIN user_account u ON u.id = c.user_id"
                " WHERE c.ended_at IS NULL",
}  # fmt: skip
BOOKING_OVER = "CASE state WHEN 'cancelled' THEN changed_at ELSE ends_at END"
# what must never be
WRONG = {
    "double leases": "SELECT concat('a desktop was leased twice: ', a.vm_id) FROM lease a JOIN lease b ON a.vm_id = b.vm_id"
                     " AND a.id < b.id AND a.period && b.period",
    # one that is given back while another is taken is no second one: events tell what came first
    "two of one person": "SELECT concat('a person held two desktops of a pool: ', a.user_id) FROM lease a JOIN lease b ON"
                         " a.user_id = b.user_id AND a.pool_id = b.pool_id AND a.id <> b.id"
                         " JOIN event got ON got.object_id = b.id AND got.code = 'lease.assign'"
                         " WHERE got.id > (SELECT min(id) FROM event WHERE object_id = a.id AND code = 'lease.assign')"
                         " AND got.id < coalesce((SELECT min(id) FROM event WHERE object_id = a.id AND code = 'lease.give_back'),"
                         " (SELECT max(id) FROM event WHERE object_id = a.id AND code IN ('lease.end', 'lease.fail')))",
    # until it is cancelled a booking counts
    "overbooked": f"WITH b AS (SELECT *, {BOOKING_OVER} AS until_at FROM booking) SELECT concat('more desktops of pool ', p.name,"
                  " ' were booked at ', b.starts_at, ' than it has') FROM b JOIN pool p ON p.id = b.pool_id WHERE"
                  " b.until_at > b.starts_at AND p.size < (SELECT sum(o.desktops) FROM b o WHERE o.pool_id = p.id"
                  " AND o.starts_at <= b.starts_at AND b.starts_at < o.until_at)",
    "more than booked": "SELECT concat('two leases at once of the booking of one desktop ', a.booking_id) FROM lease a"
                        " JOIN lease b ON a.booking_id = b.booking_id AND a.id < b.id AND a.period && b.period",
    # who still starts when it is over begins like everybody else
    "outlived": "SELECT concat('lease ', l.id, ' from ', l.starts_at, ' until ', l.ends_at, ' outlives its booking, which ends',"
                " ' at ', b.ends_at) FROM lease l JOIN booking b ON b.id = l.booking_id WHERE b.state <> 'cancelled'"
                " AND l.starts_at < b.ends_at AND l.ends_at > b.ends_at",
    "unended": "SELECT concat('lease ', id, ' outlived its end') FROM lease WHERE state <> 'ended' AND ends_at < now()",
    "open periods": "SELECT concat('lease ', id, ' ended, its period did not') FROM lease WHERE state = 'ended'"
                    " AND period IS NOT NULL AND upper(period) IS NULL",
    "without VM": "SELECT concat('member ', m.id, ' has no VM') FROM pool_member m LEFT JOIN vm v ON v.id = m.vm_id"
                  " WHERE v.id IS NULL",
    "without member": "SELECT concat('VM ', v.name, ' is in a pool and no member of it') FROM vm v LEFT JOIN pool_member m"
                      " ON m.vm_id = v.id WHERE v.pool_id IS NOT NULL AND m.id IS NULL",
    "broken": "SELECT concat('member ', v.name, ' is broken: ', m.why) FROM pool_member m JOIN vm v ON v.id = m.vm_id"
              " WHERE m.state = 'broken'",
    "running": "SELECT concat('VM ', v.name, ' is up though its member is ', m.state) FROM pool_member m JOIN vm v"
               " ON v.id = m.vm_id WHERE v.state = 'up' AND m.state <> 'spare'",
    "off": "SELECT concat('spare ', v.name, ' is ', v.state) FROM pool_member m JOIN vm v ON v.id = m.vm_id"
           " WHERE m.state = 'spare' AND v.state <> 'up'",
    "locks": "SELECT concat(r.resource, ' is locked by a task that has ended') FROM resource_lock r JOIN task t"
             " ON t.id = r.task_id WHERE t.state NOT IN ('queued', 'running')",
    "steps": "SELECT concat('step ', s.name, ' of ', t.title, ' (', t.state, ') was asked and never ended') FROM step s"
             " JOIN task t ON t.id = s.task_id WHERE s.state = 'asked' AND t.state = 'succeeded'",
    "bugs": "SELECT concat(title, ' failed by a bug: ', error->>'message') FROM task WHERE state = 'failed'"
            " AND error->>'code' = 'internal_error'",
    "lost leases": "SELECT concat('a lease failed: ', why) FROM lease WHERE end_reason = 'failed'",
}  # fmt: skip


def rows(place: Place, sql: str) -> list[Any]:
    with place.sessions() as tx:
        return list(tx.execute(sa.text(sql)).scalars())


def unrest(place: Place) -> list[str]:
    """What is still under way, in words; the database may be away."""
    try:
        return [str(row) for sql in UNREST.values() for row in rows(place, sql)]
    except sa.exc.OperationalError as gone:
        return [f"The database does not answer: {gone}"]


def wrong(place: Place, told: Told) -> list[str]:
    """Everything that must not be."""
    found = [str(row) for sql in WRONG.values() for row in rows(place, sql)]
    return [*told.faults, *found, *_orphans(place), *_seen_by_two(told), *_tracebacks(place)]


def _orphans(place: Place) -> list[str]:
    """What hosts have and rows do not, and the other way about."""
    with place.sessions() as tx:
        vms = {id: f"{name} of {host}" for id, name, host in tx.execute(sa.text(
            "SELECT v.id, v.name, h.name FROM vm v JOIN host h ON h.id = v.host_id WHERE v.state = 'up'"))}
        disks = set(tx.execute(sa.text("SELECT id FROM disk WHERE vm_id IS NOT NULL")).scalars())
    running: dict[Any, str] = {}
    volumes: set[Any] = set()
    found = []
    for host in place.hosts:
        here, there = left(place.folder / f"{host}.state")
        found += [f"VM {name} runs on {host} and on {running[id]}" for id, name in here.items() if id in running]
        running |= {id: f"{name} of {host}" for id, name in here.items()}
        volumes |= set(there)
    found += [f"VM {running[id]} runs, and the rows do not know" for id in running.keys() - vms.keys()]
    found += [f"VM {vms[id]} is up in the rows alone" for id in vms.keys() - running.keys()]
    found += [f"volume {id} has no disk" for id in volumes - disks]
    return found + [f"disk {id} has no volume" for id in disks - volumes]


def _seen_by_two(told: Told) -> list[str]:
    """Two people who each had the same desktop's living console before them at one moment."""
    found = []
    for vm, spans in told.seen.items():
        spans.sort()
        for (_, until, one), (since, _, other) in zip(spans, spans[1:], strict=False):
            if one != other and since < until:
                found.append(f"{other} saw VM {vm} for {until - since:.1f} s while {one} did")
    return found


def _tracebacks(place: Place) -> list[str]:
    """Every kind of traceback in the logs, with how often it is there."""
    found: Counter[str] = Counter()
    for name, log in place.logs().items():
        for line in log.splitlines():
            if '"exception"' in line:
                entry = json.loads(line)
                last = entry["exception"][0]
                found[f"{name}: {entry.get('event')}: {last['exc_type']}: {last['exc_value'].splitlines()[0]}"] += 1
        for trace in re.finditer(r"^Traceback .*\n(?:(?:[ \t].*)?\n)*(.*)", log, re.MULTILINE):
            found[f"{name}: {trace[1]}"] += 1
    return [f"a traceback, {count} times, in the log of {what}" for what, count in found.items()]


def story(place: Place) -> dict[str, list[str]]:
    """How tasks and leases ended, and what went wrong on the way: to be read, not to be judged."""
    return {
        "tasks": rows(place, "SELECT concat(count(*), ' ', command, ' ', state, ' ', error->>'code') FROM task"
                             " GROUP BY command, state, error->>'code' ORDER BY 1"),
        "leases": rows(place, "SELECT concat(count(*), ' ', state, ' ', end_reason) FROM lease GROUP BY state, end_reason"),
        "set aside": rows(place, "SELECT concat(count(*), ' desktops: ', regexp_replace(why, 'host[0-9]+', '…')) FROM pool_member"
                                 " WHERE state = 'broken' GROUP BY regexp_replace(why, 'host[0-9]+', '…')"),
        "events": rows(place, "SELECT concat(code, ': ', sentence) FROM event WHERE severity IN ('error', 'warning')"
                              " ORDER BY id DESC LIMIT 30"),
    }  # fmt: skip
