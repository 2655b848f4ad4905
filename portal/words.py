"""Pure: how states, times and sizes are told to people: a word, a color, an icon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

BUSY = "icon:loader-circle"


@dataclass(frozen=True)
class Look:
    """A state as a label shows it; `busy` ones turn."""

    word: str
    color: str
    icon: str

    @property
    def busy(self) -> bool:
        return self.icon == BUSY


_GOOD, _BAD, _ODD = ("green", "icon:circle-check"), ("red", "icon:circle-x"), ("orange", "icon:triangle-alert")
_WORK, _OFF, _WAIT = ("blue", BUSY), ("grey", "icon:power"), ("purple", "icon:hourglass")

# the words where they differ from the state's own name, then color and icon; "" stands for every kind
_LOOKS: dict[str, dict[str, tuple[str, tuple[str, str]]]] = {
    "": {
        "up": ("Running", _GOOD),
        "active": ("Active", _GOOD),
        "ok": ("OK", _GOOD),
        "succeeded": ("Done", _GOOD),
        "done": ("Done", _GOOD),
        "down": ("Off", _OFF),
        "ended": ("Ended", ("grey", "icon:circle-check")),
        "failed": ("Failed", _BAD),
        "broken": ("Set aside", _BAD),
        "illegal": ("Unusable", _BAD),
        "error": ("Error", _BAD),
        "cancelled": ("Cancelled", ("grey", "icon:ban")),
        "undone": ("Undone", ("grey", "icon:undo-2")),
        "queued": ("Waiting", _WAIT),
        "asked": ("Running", _WORK),
        "running": ("Running", _WORK),
        "starting": ("Starting", _WORK),
        "paused": ("Paused", ("orange", "icon:pause")),
        "unknown": ("Unknown", ("orange", "icon:circle-help")),
        "not_responding": ("Not responding", _ODD),
        "removing": ("Being removed", _WORK),
    },
    "vm": {
        "wait_for_launch": ("Starting", _WORK),
        "powering_up": ("Starting", _WORK),
        "powering_down": ("Shutting down", _WORK),
        "image_locked": ("Being prepared", _WORK),
        "reboot_in_progress": ("Rebooting", _WORK),
        "saving_state": ("Being suspended", _WORK),
        "migrating": ("Migrating", _WORK),
        "suspended": ("Suspended", ("purple", "icon:moon")),
        "restoring_state": ("Waking up", _WORK),
    },
    "snapshot": {"locked": ("At work", _WORK)},
    "desktop": {
        "available": ("Available", ("teal", "icon:circle-dashed")),
        "closed": ("Not at this hour", ("grey", "icon:clock")),
        "called": ("Ready for you", ("teal", "icon:bell-ring")),
        "queued": ("Waiting", _WAIT),
        "starting": ("Starting", _WORK),
        "running": ("Running", _GOOD),
        "ending": ("Shutting down", _WORK),
        "off": ("Off", _OFF),
        "unreachable": ("Cannot be reached", _ODD),
        "soon": ("Ending soon", _ODD),
        "grace": ("Time is over", _ODD),
    },
    "host": {
        "pending_approval": ("Waits for approval", _WAIT),
        "installing": ("Waiting for its agent", _WAIT),
        "install_failed": ("Could not be installed", _BAD),
        "non_operational": ("Not operational", _BAD),
        "connecting": ("Connecting", _WORK),
        "non_responsive": ("Does not answer", _BAD),
        "preparing_for_maintenance": ("Preparing for maintenance", _WORK),
        "maintenance": ("Maintenance", ("purple", "icon:wrench")),
        "up": ("Up", _GOOD),
    },
    "storagedomain": {
        "unattached": ("Not attached", _OFF),
        "inactive": ("Inactive", _BAD),
        "activating": ("Activating", _WORK),
        "maintenance": ("Maintenance", ("purple", "icon:wrench")),
    },
    "disk": {"locked": ("Being prepared", _WORK)},
    "template": {"locked": ("Being prepared", _WORK)},
    "device": {
        "announced": ("Waits for its code", _WAIT),
        "enrolled": ("Enrolled", _GOOD),
        "revoked": ("Revoked", ("grey", "icon:ban")),
    },
    "accessrule": {"allow": ("Allow", _GOOD), "deny": ("Deny", ("red", "icon:ban"))},
    "pool": {"up": ("In use", _GOOD)},
    "lease": {
        "expiring": ("Ending soon", _ODD),
        "grace": ("In grace", _ODD),
        "returning": ("Going back", _WORK),
    },
    "booking": {
        "booked": ("Booked", ("teal", "icon:calendar-check")),
        "preparing": ("Being made ready", _WORK),
        "running": ("Now", _GOOD),
    },
    "member": {
        "creating": ("Being made", _WORK),
        "ready": ("Off, free", ("grey", "icon:circle-dashed")),
        "warming": ("Warming up", _WORK),
        "spare": ("Spare", ("teal", "icon:circle-check")),
        "saving": ("Being suspended", _WORK),
        "suspended": ("Suspended spare", ("teal", "icon:moon")),
        "leased": ("Leased", _GOOD),
        "resetting": ("Being reset", _WORK),
    },
    "rollout": {
        "running": ("Rolling out", _WORK),
        "halted": ("Halted", _ODD),
        "rolling_back": ("Rolling back", _WORK),
        "rolled_back": ("Rolled back", ("grey", "icon:undo-2")),
    },
    "decision": {
        "kept": ("Kept", _GOOD),
        "given": ("Given", _GOOD),
        "refused": ("Refused", _BAD),
    },
    "console": {"live": ("Open", _GOOD)},
    "user": {"enabled": ("Enabled", _GOOD), "disabled": ("Disabled", ("grey", "icon:ban"))},
    "directory": {"answers": ("Answers", _GOOD), "silent": ("Does not answer", _BAD)},
}


def look(kind: str, state: str) -> Look:
    """How this state of this kind of thing is shown; an unknown one by its own name."""
    word, (color, icon) = (
        _LOOKS.get(kind, {}).get(state)
        or _LOOKS[""].get(state)
        or (state.replace("_", " ").capitalize(), ("grey", "icon:circle-dashed"))
    )
    return Look(word, color, icon)


def moment(value: Any) -> datetime | None:
    """A time as rows and JSON have it, as an aware datetime."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def iso(value: Any) -> str:
    """For a <time> element."""
    at = moment(value)
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if at else ""


def utc(value: Any) -> str:
    """The time in full."""
    at = moment(value)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else ""


def zone(name: str) -> ZoneInfo:
    """The time zone of this name; UTC for what is none."""
    try:
        return ZoneInfo(name) if re.fullmatch(r"[A-Za-z0-9_+/-]{1,60}", name) else ZoneInfo("UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def clock(value: Any, where: ZoneInfo, now: datetime) -> str:
    """A moment on the reader's clock: 14:00 today, Tue 24 Nov 14:00 on another day."""
    at = moment(value)
    if at is None:
        return ""
    at, today = at.astimezone(where), now.astimezone(where).date()
    day = "" if at.date() == today else f"{at:%a %-d %b} " if abs((at.date() - today).days) < 300 else f"{at:%-d %b %Y} "
    return f"{day}{at:%H:%M}" + (" UTC" if str(where) == "UTC" else "")


_SAID = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d) UTC")


def told(sentence: str, where: ZoneInfo, now: datetime) -> str:
    """A sentence of the broker's with its times on the reader's clock."""
    return _SAID.sub(lambda said: clock(datetime.fromisoformat(said[1]).replace(tzinfo=UTC), where, now), sentence)


def span(seconds: float) -> str:
    """A length of time in its largest sensible unit."""
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 172_800:
        return f"{int(seconds // 3600)} h"
    return f"{int(seconds // 86_400)} days"


def about(seconds: float) -> str:
    """An estimate, no finer than it can be: half a minute, 3 minutes, 2 hours."""
    if seconds < 45:
        return "half a minute"
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(minutes / 60)
    return f"{hours} hours" if hours < 48 else f"{round(hours / 24)} days"


def ago(value: Any, now: datetime) -> str:
    """How long ago it was, or in how long it will be."""
    at = moment(value)
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if seconds < 0:
        return f"in {span(-seconds)}"
    return "just now" if seconds < 10 else f"{span(seconds)} ago"


def left(value: Any, now: datetime) -> str:
    """How much time is left until then; the page's script goes on counting."""
    at = moment(value)
    if at is None:
        return ""
    seconds = max(0.0, (at - now).total_seconds())
    if 3600 <= seconds < 172_800:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min left"
    return f"{span(seconds)} left"


def length(seconds: float | None) -> str:
    """A policy's length of time: 1 h 30 min."""
    if seconds is None:
        return "until returned"
    parts = [
        (int(seconds // 86_400), "d"),
        (int(seconds % 86_400 // 3600), "h"),
        (int(seconds % 3600 // 60), "min"),
        (int(seconds % 60), "s"),
    ]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"


def size(mib: float | None) -> str:
    """An amount of memory or disk."""
    if mib is None:
        return "—"
    for unit, factor in (("TiB", 1024 * 1024), ("GiB", 1024)):
        if mib >= factor:
            return f"{mib / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{mib:.0f} MiB"


def initials(name: str) -> str:
    """One or two letters for an avatar."""
    words = [w for w in name.split("@")[0].replace(".", " ").split() if w[0].isalnum()]
    return "".join(w[0] for w in (words[:1] + words[-1:] if len(words) > 1 else words)).upper() or "?"
