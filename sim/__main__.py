"""`python -m sim --hosts 200`: a data center to click through; `python -m sim scenario tests/scenarios/<name> …`: plays
scenarios on a throw-away PostgreSQL and prints their logs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import structlog

from backend.db import new_sessions
from sim.center import Center, run
from sim.postgres import Cluster
from sim.scenario import compare, play
from sim.story import Wrong


def main() -> int:
    """Start a data center, or play the folders that are named; 1 when that cannot be done, or does not end as expected."""
    parser = argparse.ArgumentParser(prog="python -m sim", description="A data center that is not there.")
    parser.add_argument("--hosts", type=int, default=200, help="how many simulated hosts (default: 200)")
    parser.add_argument("--vms", type=int, help="how many VMs (default: ten a host)")
    parser.add_argument("--managers", type=int, default=1, help="how many managers share the hosts (default: 1)")
    parser.add_argument("--port", type=int, default=8443, help="of the portal; the gateway's is one more")
    parser.add_argument("--in-process", action="store_true",
                        help="reach the hosts within the manager, as is done with more than 300, instead of over mutual TLS")
    verbs = parser.add_subparsers()
    scenario = verbs.add_parser("scenario", help="play scenario folders and print their logs")
    scenario.add_argument("folders", nargs="+", type=Path)
    scenario.add_argument("--check", action="store_true", help="print the difference from log.expect instead")
    scenario.add_argument("--rewrite", action="store_true", help="write log.expect anew")
    given = parser.parse_args()
    if not hasattr(given, "folders"):
        return run(Center(given.hosts, given.vms, given.managers, given.port, False if given.in_process else None))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    cluster = Cluster()
    cluster.start()
    try:
        return max(_play(cluster, folder, given.check, given.rewrite) for folder in given.folders)
    finally:
        cluster.stop()


def _play(cluster: Cluster, folder: Path, check: bool, rewrite: bool) -> int:
    name = cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    try:
        log = play(folder, sessions)
    except (Wrong, FileNotFoundError) as wrong:
        print(wrong, file=sys.stderr)
        return 1
    finally:
        sessions.kw["bind"].dispose()
        cluster.drop(name)
    difference = compare(folder, log, rewrite=rewrite) if check or rewrite else ""
    print(difference if check else log)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
