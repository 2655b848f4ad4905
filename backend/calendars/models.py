"""Calendar rows."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from backend.calendars.rules import Hours, hours
from backend.db import Base, HasId


class Calendar(HasId, Base):
    """Hours by a name, in a time zone; entitlements and pools point at it. `windows` and `closed` are as people write them."""

    __tablename__ = "calendar"
    kind = "calendar"
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    timezone: Mapped[str]
    windows: Mapped[list[str]]
    closed: Mapped[list[str]] = mapped_column(default=list, server_default="{}")

    @property
    def hours(self) -> Hours:
        """The calendar as the rules see it."""
        return hours(self.timezone, tuple(self.windows), tuple(self.closed))
