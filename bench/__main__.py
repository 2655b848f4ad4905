"""`python -m bench [relay] [storm] …`: measure what is named, or all; print one table. Writes nothing into the repository.

A part that fails says why, and takes nothing from the others: what was measured stands in the table."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from importlib import import_module
from time import monotonic

import psycopg2
from rich.console import Console
from rich.markup import escape

from bench.figures import Figure, table

NAMES = ("relay", "storm", "starts", "estimate", "first_picture", "monitoring", "failover", "placement")
MORE = ("storm_5000",)  # only when asked for


def main() -> int:
    """Run the benchmarks that were named, or all; 1 when a goal was missed or a part failed."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="|".join(NAMES + MORE), help="which to run (default: all)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    wanted = parser.parse_args().names or list(NAMES)
    if unknown := sorted(set(wanted) - {*NAMES, *MORE}):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES + MORE)}")
    console, began, figures = Console(width=None if sys.stdout.isatty() else 160), monotonic(), list[Figure]()
    failed = list[str]()

    def say(sentence: str) -> None:
        console.print(f"[dim]{monotonic() - began:6.1f} s[/] {sentence}", highlight=False)

    for name in wanted:
        say(f"[bold]{name}[/]: {(import_module(f'bench.{name}').__doc__ or '').splitlines()[0]}")
        try:
            for figure in import_module(f"bench.{name}").run(say):
                figures.append(figure)
        except (SystemExit, OSError, AssertionError, subprocess.SubprocessError, psycopg2.Error) as wrong:
            failed.append(f"{name} did not get to its end: {str(wrong)[:500] or type(wrong).__name__}")
            say(f"[red]{escape(failed[-1])}[/]")
    console.print(table(f"Leasehold, measured in {monotonic() - began:.0f} s", figures))
    for sentence in failed:
        console.print(f"[red]{escape(sentence)}[/]", highlight=False)
    return 1 if failed or any(figure.reached is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
