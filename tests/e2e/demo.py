"""A site to click through: `python -m tests.e2e.demo`; Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests import make
from tests.e2e.site import PASSWORD, Site, paint_screens
from tests.postgres import Cluster


def furnish(site: Site) -> None:
    """Hosts, pools, people, and a little history."""
    site.add_host("alpha", "localhost")
    site.add_host("beta", "127.0.0.1")
    paint_screens(site)
    office = site.world.add_pool("Desktops", size=4, spares=1, description="Office desktops for everybody")
    design = site.world.add_pool("Design", size=1, spares=0, description="Workstations with a large screen")
    site.add_user("admin", "Ada Lovelace", role="system_admin")
    alice = site.add_user("alice", "Alice Adams", on=(office, design))
    site.add_user("bob", "Bob Baker", on=(office,), auto_launch=True)
    site.add_user("carol", "Carol Clark", on=(design,))
    site.add_user("dave", "Dave Doe")
    site.add_vm("alice-build", alice)
    with site.sessions.begin() as tx:
        make.a_directory(
            tx, "corp.example", "ad", config={"servers": ["ldaps://dc1.corp.example"], "base_dn": "DC=corp,DC=example"}
        )


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
