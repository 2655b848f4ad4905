"""Place one VM among 2,000 hosts; start 1,000 at once where 20,000 run: every host's room is kept, none is overbooked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, thread_time
from uuid import UUID, uuid4

import psycopg2
import sqlalchemy as sa

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend import facts
from backend.clusters.models import Cluster as ClusterRow
from backend.db import Sessions, get, new_sessions
from backend.events import move
from backend.hosts.models import Host
from backend.placement.models import HostLoad
from backend.scheduling.facts import GroupFacts, HostFacts, Policy, VmFacts
from backend.scheduling.place import place
from backend.scheduling.policies import SCORES
from backend.vms.models import Vm
from bench.figures import Figure, percentile
from sim import make
from sim.postgres import Cluster

HOSTS, RUNNING, STARTS, AT_ONCE = 2_000, 20_000, 1_000, 4
GOAL_MS = 5.0
FLOOR = "bare psycopg2: the same reads of 2,000 hosts, a lock, the VM's row, a commit; the host is drawn by lot"


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """The pure function first, then a storm against PostgreSQL, then its floor on the same database."""
    for name, spent in pure().items():
        yield Figure(f"place one VM among 2,000 hosts, {name}", percentile(spent, 50), "ms", p50_ms=percentile(spent, 50),
                     p99_ms=percentile(spent, 99), less_is_better=True, value_wanted=GOAL_MS)  # fmt: skip
    postgres = Cluster()
    postgres.start()
    try:
        sessions = new_sessions(postgres.url(postgres.new_database()), AT_ONCE)
        say(f"{HOSTS:,} hosts, {RUNNING:,} VMs that run")
        ids = fill(sessions)
        whole, spent = storm(sessions, ids)
        with sessions() as tx:
            over = tx.scalar(sa.select(sa.func.count()).select_from(Host).join(HostLoad)
                             .where(HostLoad.memory_mib > Host.memory_mib))  # fmt: skip
            wrong = facts.wrong_loads(tx)
        assert not over and not wrong, f"{over} hosts are overbooked, the sums of {len(wrong)} are wrong"
        say(f"{STARTS:,} placed by {AT_ONCE} at once in {whole:.1f} s; no host overbooked, every sum right")
        floor, floor_spent = bare(str(sessions.kw["bind"].url.render_as_string(False)), ids)
        yield Figure(
            f"placements in a storm of {STARTS:,}, {AT_ONCE} at once", STARTS / whole, "/s", STARTS / floor, FLOOR,
            percentile(spent, 50), percentile(spent, 99), percentile(floor_spent, 50), percentile(floor_spent, 99),
        )  # fmt: skip
        sessions.kw["bind"].dispose()
    finally:
        postgres.stop()


def pure(times: int = 40) -> dict[str, list[float]]:
    """Milliseconds that `place` takes, for a plain VM and for one that much is asked of."""
    chance, domain = random.Random(1), frozenset({uuid4()})
    hosts = [
        HostFacts(uuid4(), f"host{n:04}", "up" if n % 20 else "maintenance", 64, 262_144, chance.randrange(262_144),
                  60 * chance.random(), 10, domain, chance.randrange(200), frozenset({"lan", "dmz"}), labels=frozenset({"gpu"}))
        for n in range(HOSTS)
    ]  # fmt: skip
    apart = GroupFacts("web", "negative", True, "positive", False, frozenset(h.host_id for h in hosts[:50]),
                       {hosts[7].host_id: ("w1",)})  # fmt: skip
    plain = VmFacts(uuid4(), "w7", 4096, 4, domain)
    bound = VmFacts(uuid4(), "w8", 4096, 4, domain, frozenset({"lan"}), labels=frozenset({"gpu"}), groups=(apart,))
    rules = Policy(scores=SCORES["evenly_distributed"])
    found: dict[str, list[float]] = {}
    for name, vm in (("a plain one", plain), ("with networks, labels and affinity", bound)):
        for _ in range(times):
            began = thread_time()  # of this processor, however busy the machine is with other things
            place(vm, hosts, rules)
            found.setdefault(name, []).append(1000 * (thread_time() - began))
    return found


def fill(sessions: Sessions) -> list[UUID]:
    """Hosts, VMs that run on them, and the VMs to be started; answers these."""
    with sessions.begin() as tx:
        cluster = make.a_cluster(tx).id
        get(tx, ClusterRow, cluster).scheduling_policy = "evenly_distributed"
        tx.execute(sa.insert(Host), [
            {"id": uuid4(), "name": f"host{n:04}", "cluster_id": cluster, "state": "up", "cpus": 64, "memory_mib": 65_536,
             "load1": float(n % 13)} for n in range(HOSTS)
        ])  # fmt: skip
        hosts = tx.scalars(sa.select(Host.id).order_by(Host.name)).all()
        tx.execute(sa.insert(Vm), [
            {"id": uuid4(), "name": f"run{n}", "cluster_id": cluster, "state": "up", "memory_mib": 4096, "vcpus": 2,
             "host_id": hosts[n % HOSTS]} for n in range(RUNNING)
        ])  # fmt: skip
        ids = [uuid4() for _ in range(2 * STARTS)]
        tx.execute(sa.insert(Vm), [
            {"id": id, "name": f"new{n}", "cluster_id": cluster, "state": "down", "memory_mib": 4096, "vcpus": 2}
            for n, id in enumerate(ids)
        ])  # fmt: skip
    with sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    return ids


def storm(sessions: Sessions, ids: Sequence[UUID]) -> tuple[float, list[float]]:
    """Place the first half, each in a transaction of its own; seconds in all, milliseconds each."""

    def start(vm_id: UUID) -> float:
        began = perf_counter()
        with sessions.begin() as tx:
            vm = get(tx, Vm, vm_id, lock=True)
            placement = facts.reserve(tx, vm)
            move(tx, vm, "start", words={"host": ""}, host_id=placement.host_id)
        return 1000 * (perf_counter() - began)

    return _timed(start, ids[:STARTS])


def bare(url: str, ids: Sequence[UUID]) -> tuple[float, list[float]]:
    """The second half in the plainest way there is."""
    hosts = sa.engine.make_url(url)
    connections = [psycopg2.connect(host=hosts.query["host"], user=hosts.username, dbname=hosts.database) for _ in range(AT_ONCE)]
    free, chance = list(connections), random.Random(2)

    def start(vm_id: UUID) -> float:
        connection, began = free.pop(), perf_counter()
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM vm WHERE id = %s FOR UPDATE", (str(vm_id),))
            cursor.execute("SELECT h.id, h.name, h.state, h.cpus, h.memory_mib, h.load1, l.memory_mib, l.vms, l.vcpus"
                           " FROM host h JOIN host_load l ON l.host_id = h.id")  # fmt: skip
            one = chance.choice(cursor.fetchall())[0]
            cursor.execute("SELECT * FROM host_load WHERE host_id = %s FOR UPDATE", (one,))
            cursor.execute("UPDATE vm SET state = 'wait_for_launch', host_id = %s WHERE id = %s", (one, str(vm_id)))
        free.append(connection)
        return 1000 * (perf_counter() - began)

    try:
        return _timed(start, ids[STARTS:])
    finally:
        for connection in connections:
            connection.close()


def _timed(start: Callable[[UUID], float], ids: Sequence[UUID]) -> tuple[float, list[float]]:
    began = perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        spent = list(threads.map(start, ids))
    return perf_counter() - began, spent
