"""CustomAction rows."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId


class CustomAction(HasId, Base):
    """A hook that may be run for a VM, on the host where it is, or for a host; with fixed arguments."""

    __tablename__ = "custom_action"
    kind = "customaction"
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    target: Mapped[str]  # vm | host
    hook: Mapped[str]  # a file's name in the hosts' folders of hooks
    args: Mapped[list[str]] = mapped_column(default=list, server_default="{}")
    timeout_s: Mapped[int] = mapped_column(default=60, server_default="60")
