"""Pure: how tasks and events are shown."""

from __future__ import annotations

from portal.thing import STATE, Column, Thing

TASKS = Thing(
    "tasks",
    "task",
    "Tasks",
    "icon:list-checks",
    "Everything that takes a while, step by step.",
    (
        Column("title", "Task", "name"),
        STATE,
        Column("progress", "Progress", "progress"),
        Column("actor", "Asked by"),
        Column("created_at", "Asked", "ago"),
        Column("ended_at", "Ended", "ago"),
    ),
    (
        Column("command", "Command", "mono"),
        Column("actor", "Asked by"),
        Column("reason", "Reason"),
        Column("message", "It says"),
        Column("object_id", "On", "task_object"),
        Column("created_at", "Asked", "ago"),
        Column("started_at", "Began", "ago"),
        Column("ended_at", "Ended", "ago"),
    ),
    name="title",
    hints=("state = running", "state = failed", "actor = admin"),
)

EVENTS = Thing(
    "events",
    "event",
    "Events",
    "icon:scroll-text",
    "What happened, and to whom.",
    (
        Column("at", "When", "ago"),
        Column("severity", "", "severity"),
        Column("sentence", "What happened", "event"),
        Column("actor", "By"),
    ),
    name="sentence",
    hints=("severity = error", "severity != info", "code = lease.expire"),
    detail=False,
)
