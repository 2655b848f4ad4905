"""A site to click through: `python -m tests.e2e.demo`; Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.directory.models import User
from backend.hosts.models import Host
from backend.placement.models import AffinityGroup, AffinityGroupVm, AffinityLabel, AffinityLabelHost, SchedulingPolicy
from backend.scheduling.policy import FILTERS
from backend.vms.models import Vm
from pools.models import Pool, SparePlan
from sim import make
from sim.postgres import Cluster
from tests.e2e.site import PASSWORD, Site, paint_screens


def furnish(site: Site) -> None:
    """Hosts, pools, people, and a little history."""
    site.add_host("alpha", "localhost")
    site.add_host("beta", "127.0.0.1")
    paint_screens(site)
    office = site.world.add_pool("Desktops", size=4, spares=1, description="Office desktops for everybody", book_desktops=2)
    design = site.world.add_pool("Design", size=1, spares=0, description="Workstations with a large screen")
    site.add_user("admin", "Ada Lovelace", role="system_admin")
    alice = site.add_user("alice", "Alice Adams", on=(office, design))
    site.add_user("bob", "Bob Baker", on=(office,), auto_launch=True)
    site.add_user("carol", "Carol Clark", on=(design,))
    site.add_user("dave", "Dave Doe")
    site.add_vm("alice-build", alice)
    _in_time(site, office, alice)
    _places(site)
    with site.sessions.begin() as tx:
        make.a_directory(
            tx, "corp.example", "ad", config={"servers": ["ldaps://dc1.corp.example"], "base_dn": "DC=corp,DC=example"}
        )


def _in_time(site: Site, pool_id: UUID, user_id: UUID) -> None:
    """What has to do with hours and days: a calendar, spares by the hour, bookings of the days to come."""
    with site.sessions.begin() as tx:
        pool = tx.get_one(Pool, pool_id)
        hours = Calendar(name="Office hours", windows=["Mon-Fri 07:30-18:00", "Sat 09:00-13:00"], timezone="Europe/Berlin",
                         closed=["2026-12-24..2027-01-01"], description="When people work here")  # fmt: skip
        tx.add(hours)
        tx.flush()
        tx.add(SparePlan(pool_id=pool.id, calendar_id=hours.id, spares=2))
        today = site.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        for day, hour, title in ((1, 9, "Introduction"), (2, 14, "Exercises"), (3, 9, "Questions")):
            starts = today + timedelta(days=day, hours=hour)
            make.a_booking(tx, pool, tx.get_one(User, user_id), starts_at=starts, hours=2, desktops=2, title=title)


def _places(site: Site) -> None:
    """What has to do with hosts: power agents, VMs that belong apart, a label, a policy of one's own."""
    with site.sessions.begin() as tx:
        hosts = list(tx.scalars(sa.select(Host).order_by(Host.name)))
        for host in hosts:
            make.a_power_agent(tx, host)
        apart = AffinityGroup(name="File servers apart", cluster_id=hosts[0].cluster_id, vms_rule="negative", vms_enforcing=True)
        label = AffinityLabel(name="graphics")
        own = SchedulingPolicy(name="Render farm", description="Big hosts first", filters=list(FILTERS), weights={"memory": 2})
        tx.add_all((apart, label, own))
        tx.flush()
        tx.add_all(AffinityGroupVm(group_id=apart.id, vm_id=id) for id in tx.scalars(sa.select(Vm.id).limit(2)))
        tx.add(AffinityLabelHost(label_id=label.id, host_id=hosts[0].id))


def main() -> None:
    cluster = Cluster()
    cluster.start()
    with tempfile.TemporaryDirectory(prefix="lh-demo-") as folder:
        site = Site(Path(folder), cluster)
        site.start()
        try:
            furnish(site)
            print(site.url, "admin, alice, bob, carol, dave:", PASSWORD, flush=True)
            stopped = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
            stopped.wait()
        finally:
            site.stop()
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
