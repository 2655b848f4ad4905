"""Waiting for a task, with a bar that tells how far it is."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli import show
from cli.client import REFUSED, Client, Trouble, path

POLL_S = 0.5


def bar() -> Progress:
    """A progress bar on standard error, so that standard output stays for programs."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("[dim]{task.fields[message]}"))
    return Progress(*columns, TimeElapsedColumn(), console=show.err, transient=True)


def wait_for(client: Client, id: str) -> dict[str, Any]:
    """The task once it has ended; `Trouble` with its sentence when it did not succeed."""
    with bar() as progress:
        task: dict[str, Any] = client.ask("GET", path("tasks", id))
        line = progress.add_task(task["title"], total=100, message="")
        while task["state"] in ("queued", "running"):
            progress.update(line, completed=task["progress"], message=task["message"])
            time.sleep(POLL_S)
            task = client.ask("GET", path("tasks", id))
    if task["state"] != "succeeded":
        why = (task["error"] or {}).get("message") or f"It was {task['state']}."
        raise Trouble(REFUSED, f"{task['title']}: {why}")
    return task
