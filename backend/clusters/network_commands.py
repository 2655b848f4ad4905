"""The networks that a cluster's hosts must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain

_BRIDGE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # what Linux takes as an interface's name
MOST = 64


@dataclass(frozen=True)
class RequireNetworks(Plain):
    """Say which networks a host must have, as bridges of these names; one that lacks any is not operational."""

    cluster_id: UUID
    networks: tuple[str, ...] = ()
    name, permission = "cluster.require_networks", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Say which networks hosts of cluster {get(tx, Cluster, self.cluster_id).name} must have"

    def check(self, tx: Tx) -> None:
        wrong = [name for name in self.networks if not _BRIDGE.fullmatch(name)]
        if wrong or len(self.networks) > MOST:
            sentence = f"“{wrong[0]}” cannot be a bridge: use up to 15 letters, digits, dots, dashes and underscores."
            raise Invalid("bad_network", sentence if wrong else f"Name at most {MOST} networks.", fields=["networks"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        cluster.networks = sorted(set(self.networks))
        record(tx, "cluster.networks_required", cluster, actor=actor.name, networks=", ".join(cluster.networks) or "none")
        touch(tx, "cluster", cluster.id)
