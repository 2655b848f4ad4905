"""A new installation's first rows: the internal directory and one system administrator."""

from __future__ import annotations

import sqlalchemy as sa

from backend.clock import Clock
from backend.db import Sessions
from backend.directory import internal
from backend.directory.models import Permission, User
from backend.events import record


def bootstrap(sessions: Sessions, clock: Clock, name: str, password: str) -> str:
    """Create the administrator unless there is one of that name already; answers a sentence saying which."""
    password_hash = internal.hash_password(password, name)
    with sessions.begin() as tx:
        directory = internal.directory(tx)
        if tx.scalar(sa.select(User.id).where(User.directory_id == directory.id, User.name == name)):
            return f"There is an administrator {name} already; nothing was changed."
        user = User(
            directory_id=directory.id,
            name=name,
            display_name="Administrator",
            password_hash=password_hash,
            refreshed_at=clock.now(),
        )
        tx.add(user)
        tx.flush()
        tx.add(Permission(user_id=user.id, role="system_admin", object_type="system"))
        record(tx, "user.created", user, actor="Installation")
    return f"Administrator {name} was created."
