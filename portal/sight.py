"""What of the change stream a person may see: the same that the lists show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory import sessions
from backend.directory.rights import grants_of, see_permit
from backend.directory.rules import places
from backend.search.query import Viewer, ids_seen
from pools.models import LIVE, Lease, Pool
from portal.collections import BY_KIND

FRESH = timedelta(seconds=15)  # how long rights may be out of date for what tells no change of its own (a period's end)
OF_PERSON = frozenset({"permission", "group", "user", "session", "lease"})  # a change of these may change what they see


@dataclass(frozen=True)
class Sight:
    """A person's session, rights and desktops as they were at `at`."""

    viewer: Viewer
    session_id: UUID
    at: datetime
    vms: frozenset[str]  # their own, and those whose lease they hold
    pools: frozenset[UUID]  # those they may take desktops from

    @staticmethod
    def of(tx: Tx, token: str, now: datetime) -> Sight | None:
        """What the person of this session sees; None when it has ended."""
        facts = sessions.find(tx, token, now)
        if facts is None:
            return None
        viewer = Viewer(facts.user_id, grants_of(tx, facts.user_id, facts.roles), now)
        used = places(viewer.grants, "desktop.use", now)
        clusters = [id for kind, id in used if kind == "cluster"]
        held = tx.execute(sa.select(Lease.vm_id, Lease.pool_id).where(Lease.user_id == facts.user_id, sa.text(LIVE))).all()
        vms = {str(id) for kind, id in used if kind == "vm"} | {str(row.vm_id) for row in held if row.vm_id}
        pools = {id for kind, id in used if kind == "pool" and id} | {row.pool_id for row in held}
        if clusters:
            pools |= set(tx.scalars(sa.select(Pool.id).where(Pool.cluster_id.in_(clusters))))
        return Sight(viewer, facts.id, now, frozenset(vms), frozenset(pools))

    def fresh(self, tx: Tx, token: str, now: datetime, news: Iterable[Any]) -> Sight | None:
        """The same, read again when it is old or when something about the person changed."""
        mine = any(n.kind in OF_PERSON and (n.user_id == self.viewer.user_id or n.user_id is None) for n in news)
        if mine or not self.at <= now < self.at + FRESH:
            return Sight.of(tx, token, now)
        return replace(self, viewer=replace(self.viewer, now=now))

    def only(self, tx: Tx, news: list[Any]) -> list[tuple[tuple[int, int], str, str]]:
        """Those of the changes that are theirs to see, in order, as (cursor, kind, id).

        Somebody else's lease is told to those who wait for the same pool as a change of the pool: their place in
        the queue may be another now, and whose lease it is is none of their business.
        """
        shown: list[tuple[tuple[int, int], str, str]] = []
        asked = self._asked(tx, [n for n in news if not self._plainly(n)])
        for change in news:
            if self._plainly(change) or (change.kind, change.id) in asked:
                shown.append((change.at, change.kind, change.id))
            elif change.pool_id in self.pools and change.kind in ("pool", "member", "lease", "booking"):
                shown.append((change.at, "pool", str(change.pool_id)))
        return shown

    def _plainly(self, change: Any) -> bool:
        """Whether it needs no look at rows: it is about them, or they may see all of its kind, or all of its pool."""
        if change.user_id == self.viewer.user_id or (change.kind == "vm" and change.id in self.vms):
            return True
        given = places(self.viewer.grants, see_permit(change.kind), self.viewer.now)
        return ("system", None) in given or (change.pool_id is not None and ("pool", change.pool_id) in given)

    def _asked(self, tx: Tx, news: list[Any]) -> set[tuple[str, str]]:
        """Of these, the ones whose rows the lists would show: for who administers a cluster, a host, a pool."""
        found: set[tuple[str, str]] = set()
        for kind in {n.kind for n in news} & BY_KIND.keys() - {"event"}:
            if not places(self.viewer.grants, see_permit(kind), self.viewer.now):
                continue
            collection = BY_KIND[kind]
            number = isinstance(collection.id.type, sa.Integer)
            ids = {n.id: int(n.id) if number else UUID(n.id) for n in news if n.kind == kind}
            seen = ids_seen(tx, collection, self.viewer, list(ids.values()))
            found |= {(kind, text) for text, id in ids.items() if id in seen}
        return found
