"""Create, edit and remove calendars."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.calendars.rules import hours
from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain


def _require_name(tx: Tx, name: str, but: UUID | None) -> None:
    if not 1 <= len(name.strip()) <= 60 or not name.isprintable():
        raise Invalid("bad_name", "A calendar's name has between 1 and 60 characters.", fields=["calendar_name"])
    if (other := tx.scalar(sa.select(Calendar.id).where(Calendar.name == name.strip()))) is not None and other != but:
        raise Invalid("name_taken", f"There is already a calendar named {name.strip()}; choose another name.",
                      fields=["calendar_name"])


@dataclass(frozen=True)
class CreateCalendar(Plain):
    """Name hours that come again, such as Mon-Fri 07:30-18:00, in a time zone."""

    calendar_name: str
    windows: tuple[str, ...]
    timezone: str = "UTC"
    closed: tuple[str, ...] = ()
    description: str = ""
    name, permission = "calendar.create", "calendar.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Create calendar {self.calendar_name}"

    def check(self, tx: Tx) -> None:
        _require_name(tx, self.calendar_name, None)
        hours(self.timezone, self.windows, self.closed)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        calendar = Calendar(name=self.calendar_name.strip(), description=self.description, timezone=self.timezone,
                            windows=list(self.windows), closed=list(self.closed))
        tx.add(calendar)
        tx.flush()
        record(tx, "calendar.created", calendar, actor=actor.name)
        touch(tx, "calendar", calendar.id)
        return {"id": str(calendar.id)}


class _OnCalendar(Plain):
    """What the commands on one calendar share."""

    calendar_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        get(tx, Calendar, self.calendar_id)
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"{self.verb} calendar {get(tx, Calendar, self.calendar_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"calendar:{self.calendar_id}"]


@dataclass(frozen=True)
class EditCalendar(_OnCalendar):
    """Change a calendar; what is left out stays. Leases that run keep the end they were given."""

    calendar_id: UUID
    calendar_name: str | None = None
    windows: tuple[str, ...] | None = None
    timezone: str | None = None
    closed: tuple[str, ...] | None = None
    description: str | None = None
    name, permission, verb = "calendar.edit", "calendar.edit", "Edit"

    def check(self, tx: Tx) -> None:
        calendar = get(tx, Calendar, self.calendar_id)
        if self.calendar_name is not None:
            _require_name(tx, self.calendar_name, calendar.id)
        given = self._given()
        hours(*(tuple(v) if isinstance(v := given.get(f, getattr(calendar, f)), (list, tuple)) else v
                for f in ("timezone", "windows", "closed")))

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        calendar = get(tx, Calendar, self.calendar_id, lock=True)
        for field, value in self._given().items():
            setattr(calendar, field, list(value) if isinstance(value, tuple) else value)
        record(tx, "calendar.edited", calendar, actor=actor.name)
        touch(tx, "calendar", calendar.id)

    def _given(self) -> dict[str, Any]:
        fields = {"name": self.calendar_name and self.calendar_name.strip(), "description": self.description,
                  "timezone": self.timezone, "windows": self.windows, "closed": self.closed}
        return {field: value for field, value in fields.items() if value is not None}


@dataclass(frozen=True)
class RemoveCalendar(_OnCalendar):
    """Remove a calendar that nothing uses any more."""

    calendar_id: UUID
    name, permission, verb = "calendar.remove", "calendar.edit", "Remove"

    def check(self, tx: Tx) -> None:
        calendar = get(tx, Calendar, self.calendar_id)
        for table, what in USERS:
            count = tx.scalar(sa.select(sa.func.count()).select_from(sa.table(table))
                              .where(sa.column("calendar_id") == calendar.id)) or 0
            if count:
                raise Impossible("calendar_used", f"Calendar {calendar.name} is used by {count} {what}; give them another one "
                                 "first.", count=count)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        calendar = get(tx, Calendar, self.calendar_id, lock=True)
        record(tx, "calendar.removed", calendar, actor=actor.name)
        touch(tx, "calendar", calendar.id)
        tx.delete(calendar)
        tx.flush()


# tables with a calendar_id, by name: rooms above this one are not imported
USERS = (("permission", "entitlement(s)"), ("spare_plan", "plan(s) of spares"))
