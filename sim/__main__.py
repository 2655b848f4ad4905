"""`python -m sim scenario tests/scenarios/<name> …`: plays scenarios on a throw-away PostgreSQL and prints their logs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import structlog

from backend.db import new_sessions
from sim.postgres import Cluster
from sim.scenario import compare, play
from sim.story import Wrong


def main() -> int:
    """Play the folders that are named; 1 when one cannot be told, or does not end as it is expected to."""
    parser = argparse.ArgumentParser(prog="python -m sim", description="A data center that is not there.")
    verbs = parser.add_subparsers(required=True)
    scenario = verbs.add_parser("scenario", help="play scenario folders and print their logs")
    scenario.add_argument("folders", nargs="+", type=Path)
    scenario.add_argument("--check", action="store_true", help="print the difference from log.expect instead")
    scenario.add_argument("--rewrite", action="store_true", help="write log.expect anew")
    given = parser.parse_args()
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
