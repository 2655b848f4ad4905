"""What the command line prints: tables for people, tab-separated lines and JSON for programs, progress bars."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# the columns of a list, the most telling first; others with --columns
COLUMNS = {
    "vms": ("name", "state", "host", "pool", "user", "ip"),
    "hosts": ("name", "state", "cluster", "vms", "cpu_usage", "memory_free_mib"),
    "pools": ("name", "state", "members", "leased", "waiting", "size", "spares"),
    "members": ("vm", "state", "pool", "user", "owner", "why"),
    "rollouts": ("id", "pool", "template", "version", "state", "progress", "failures", "why"),
    "spareplans": ("pool", "calendar", "spares"),
    "leases": ("id", "user", "pool", "vm", "state", "ends_at"),
    "bookings": ("id", "user", "name", "pool", "state", "desktops", "starts_at", "ends_at"),
    "clusters": ("name", "datacenter", "cpu", "scheduling_policy", "memory_overcommit_percent"),
    "affinitygroups": ("name", "cluster", "vms_rule", "vms_enforcing", "vms", "hosts_rule", "hosts_enforcing", "hosts"),
    "affinitylabels": ("name", "hosts", "vms"),
    "schedulingpolicies": ("name", "balancing", "weights", "filters"),
    "templates": ("name", "version", "state", "memory_mib", "vcpus"),
    "storagedomains": ("name", "type", "state", "host", "path", "free_mib", "total_mib"),
    "evacuations": ("vm", "vm_state", "host", "destination", "progress", "why"),
    "reaches": ("domain", "host", "ok", "free_mib", "why"),
    "users": ("full_name", "display_name", "enabled", "auto_launch", "group"),
    "permissions": ("id", "role", "user", "group", "object_type", "object", "valid_until", "calendar", "priority"),
    "calendars": ("name", "windows", "timezone", "closed"),
    "tasks": ("id", "title", "state", "progress", "actor", "message"),
    "events": ("at", "severity", "sentence"),
    "sessions": ("id", "user", "client", "address", "seen_at", "ended_at"),
    "consoles": ("id", "user", "vm", "protocol", "address", "started_at", "ended_at"),
    "decisions": ("at", "user", "pool", "outcome", "sentence"),
    "directories": ("name", "type", "servers", "trouble"),
    "desktops": ("name", "kind", "state", "vm", "lease", "sentence"),
}
COLORS = {
    "up": "green", "ok": "green", "active": "green", "succeeded": "green", "spare": "green", "running": "green", "ready": "green",
    "down": "dim", "ended": "dim", "failed": "red", "broken": "red", "non_responsive": "red", "unknown": "red", "error": "red",
    "illegal": "red", "queued": "yellow", "starting": "yellow", "warning": "yellow", "expiring": "yellow", "grace": "yellow",
}

out = Console(soft_wrap=False)
err = Console(stderr=True)


def rows(plural: str, items: list[dict[str, Any]], columns: tuple[str, ...] | None = None) -> None:
    """A table on a terminal; elsewhere a line an item, tabs between, with a heading."""
    chosen = columns or COLUMNS.get(plural) or tuple(n for n in (items[0] if items else {}) if not n.endswith("_id"))[:7]
    if not out.is_terminal:
        for line in (chosen, *(tuple(text(item.get(name)) for name in chosen) for item in items)):
            sys.stdout.write("\t".join(" ".join(cell.split()) for cell in line) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in chosen:
        table.add_column(name.replace("_", " "), overflow="fold")
    for item in items:
        table.add_row(*(Text(text(item.get(name)), style=COLORS.get(text(item.get(name)), "")) for name in chosen))
    out.print(table)
    out.print(f"[dim]{len(items)} {plural if len(items) != 1 else plural.removesuffix('s')}[/]")


def story(told: dict[str, Any]) -> None:
    """The moments of a lease, a line each; below a decision the desktops that were looked at, with their reasons."""
    sys.stdout.write(f"{told['sentence']}\n\n")
    for moment in told["moments"]:
        by = f" ({moment['who']})" if moment.get("who") else ""
        at = moment["at"][:19].replace("T", " ")
        sys.stdout.write(f"{at}  {moment['kind']:<8}  {moment['sentence']}{by}\n")
        for each in moment.get("candidates", {}).get("members", ()):
            sys.stdout.write(f"{'':31}{each['name']}: {each['reason']}\n")


def placement(told: dict[str, Any]) -> None:
    """The hosts that a VM could go to, the best first, the reasons against the others, and the last decision."""
    sys.stdout.write(f"{told['sentence']} (policy {told['policy']})\n\n")
    for host in told["hosts"]:
        here = "  (runs here)" if host["runs_here"] else ""
        if host["score"] is None:
            sys.stdout.write(f"  {host['host']:<20} -      {' '.join(host['reasons'])}{here}\n")
        else:
            parts = ", ".join(f"{name} {part:.2f}" for name, part in host["parts"].items() if part)
            sys.stdout.write(f"  {host['host']:<20} {host['score']:<5.2f}  {parts}{here}\n")
    if last := told["last"]:
        sys.stdout.write(f"\nThe last time, {last['at'][:19].replace('T', ' ')}: {last['sentence']}\n")
        for host in last["hosts"]:
            sys.stdout.write(f"  {host['why']}\n")


def obstacle(told: dict[str, Any]) -> None:
    """What keeps a pool from starting desktops, and the reason of every host."""
    if (found := told["obstacle"]) is None:
        sys.stdout.write(f"Nothing keeps pool {told['name']} from making and starting desktops.\n")
        return
    since = found["since"][:19].replace("T", " ")
    again = f" It is tried again at {found['retry_at'][11:19]}." if found["retry_at"] else ""
    sys.stdout.write(f"{found['sentence']} Since {since}.{again} {told['waiting']} waiting.\n")
    for host in found["hosts"]:
        sys.stdout.write(f"  {host['host']:<20} {host['why']}\n")


def as_json(value: Any) -> None:
    """JSON, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def one(item: dict[str, Any]) -> None:
    """All fields of one thing, a line each."""
    for name, value in item.items():
        if not isinstance(value, (list, dict)) or not any(isinstance(v, dict) for v in value):
            sys.stdout.write(f"{name}: {text(value)}\n")


def text(value: Any) -> str:
    """A cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(text(v) for v in value)
    if isinstance(value, dict):
        return str(value.get("name") or value.get("state") or json.dumps(value))
    return str(value)
