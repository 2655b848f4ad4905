"""Pure: may these permissions do this on this object; roles, permits and the tree of objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backend.calendars.rules import Hours

OBJECT_TYPES = ("system", "datacenter", "cluster", "host", "storagedomain", "template", "vm", "pool")

ROLES: dict[str, frozenset[str]] = {
    # the person whose desktop it is
    "user": frozenset({"desktop.use"}),
    # runs pools: members, leases, entitlements, and the VMs and tasks below them
    "pool_admin": frozenset({
        "pool.see", "pool.edit", "pool.entitle", "pool.remove", "lease.see", "lease.reclaim", "vm.see", "vm.operate",
        "task.see", "event.see", "directory.search", "console.see", "console.end", "template.see", "cluster.see",
        "device.see", "calendar.see", "accessrule.see",
    }),
    # may look at everything and change nothing
    "auditor": frozenset({
        "pool.see", "lease.see", "vm.see", "host.see", "task.see", "event.see", "console.see", "template.see",
        "cluster.see", "storage.see", "user.see", "directory.search", "customaction.see",
        "device.see", "calendar.see", "accessrule.see",
    }),
    # runs the place
    "system_admin": frozenset({"*"}),
}


@dataclass(frozen=True)
class Grant:
    """One permission as plain data; `object_id` is None for the system itself."""

    role: str
    object_type: str
    object_id: UUID | None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    hours: Hours | None = None  # none: at any hour
    priority: int = 0
    only: tuple[str, ...] | None = None  # the roles that a token holds it to; none: it is what it is

    def gives(self, permit: str) -> bool:
        """Whether the role, and what it is held to, has the permit."""
        return _role_gives(self.role, permit) and (
            self.only is None or any(_role_gives(role, permit) for role in self.only))

    def permits(self) -> frozenset[str]:
        """All that it gives; “*” stands for everything."""
        own = ROLES.get(self.role, frozenset())
        if self.only is None:
            return own
        held_to = frozenset[str]().union(*(ROLES.get(role, frozenset()) for role in self.only))
        return held_to if "*" in own else own if "*" in held_to else own & held_to

    def holds(self, now: datetime) -> bool:
        """Whether `now` lies within its period, and within its hours."""
        if (self.valid_from is not None and now < self.valid_from) or (self.valid_until is not None and now >= self.valid_until):
            return False
        return self.hours is None or self.hours.open_at(now)

    def until(self, now: datetime) -> datetime | None:
        """Of one that holds now: when it stops to; None: no end in sight."""
        closes = self.hours.until(now) if self.hours is not None else None
        return min((end for end in (closes, self.valid_until) if end is not None), default=None)

    def opens(self, now: datetime) -> datetime | None:
        """Of one that does not hold now: when it will; None: never, as far as anybody can see."""
        at = max(now, self.valid_from) if self.valid_from is not None else now
        if self.hours is not None and not self.hours.open_at(at):
            later = self.hours.opens(at)
            if later is None:
                return None
            at = later
        return at if self.valid_until is None or at < self.valid_until else None


Path = tuple[tuple[str, UUID | None], ...]
"""An object and everything above it, nearest first: (("vm", id), ("pool", id), ("cluster", id), …, ("system", None))."""


def permits(role: str, permit: str) -> bool:
    """Whether the role has the permit."""
    held = ROLES.get(role, frozenset())
    return "*" in held or permit in held


def _role_gives(role: str, permit: str) -> bool:
    return role == "user" if permit == "desktop.use" else permits(role, permit)


def may(grants: Iterable[Grant], permit: str, path: Path, now: datetime) -> bool:
    """Whether any of the grants allows this on the object at the head of the path.

    `desktop.use` is never given by an administrator's role: who runs a pool is not thereby its user."""
    places = set(path)
    for grant in grants:
        if (grant.object_type, grant.object_id) not in places or not grant.holds(now):
            continue
        if grant.gives(permit):
            return True
    return False


def places(grants: Iterable[Grant], permit: str, now: datetime) -> set[tuple[str, UUID | None]]:
    """The objects on which the permit is given directly; everything below them counts too."""
    return {
        (g.object_type, g.object_id) for g in grants
        if g.holds(now) and g.gives(permit)
    }
