"""Certificates of hosts (loops): sign the requests of agents that showed a good token, renew old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from backend.ca import Authority, key_of_certificate, key_of_request
from backend.clock import Clock
from backend.db import Tx
from backend.errors import Refused
from backend.events import move, record
from backend.hosts.joining import forget_stale
from backend.hosts.loop import ASKED
from backend.hosts.models import Host
from hostapi.client import HostUnreachable
from hostapi.types import Outcome

log = structlog.get_logger("certificates")
RENEW_WAIT_S = 20.0


class RenewDoor(Protocol):
    """How a host is told of its new certificate."""

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome: ...


Doors = Callable[[UUID, str, int], RenewDoor]


class Enroll:
    """Sign the requests of agents that showed a good token. The hosts' CA's key is in the manager alone."""

    name = "enroll"

    def __init__(self, authority: Authority, clock: Clock, every_s: float = 1.0) -> None:
        self.authority, self.clock, self.every_s = authority, clock, every_s

    def read(self, tx: Tx) -> list[tuple[UUID, str, str]]:
        waiting = sa.select(Host.id, Host.name, Host.enroll_csr).where(
            Host.enroll_csr.is_not(None), Host.certificate.is_(None), Host.state == "installing"
        )
        return [tuple(row) for row in tx.execute(waiting)]  # type: ignore[misc]

    def gather(self, wanted: list[tuple[UUID, str, str]]) -> list[tuple[UUID, str]]:
        now, signed = self.clock.now(), []
        for id, name, csr in wanted:
            try:
                signed.append((id, self.authority.sign_host(key_of_request(csr), id, name, now)))
            except (Refused, ValueError) as no:  # one that cannot be signed keeps the others from nothing
                log.error("request cannot be signed", host=name, why=str(no))
        return signed

    def apply(self, tx: Tx, found: list[tuple[UUID, str]]) -> None:
        for host_id, certificate in found:
            host = tx.get(Host, host_id, with_for_update=True, populate_existing=True)
            if host is not None and host.certificate is None and host.state == "installing":
                move(tx, host, "enrolled", certificate=certificate, reported_at=self.clock.now(), why="")
        forget_stale(tx, self.clock.now())


@dataclass(frozen=True)
class Certified:
    """A host, where it is, and the certificate that it has."""

    id: UUID
    name: str
    address: str
    port: int
    certificate: str


class Renew:
    """Give hosts a new certificate in time. Those that enrolled while hosts and web shared one CA still believe that
    one: `earlier` is their door, and they are moved to the hosts' CA by it."""

    name = "renew"

    def __init__(
        self, authority: Authority, doors: Doors, clock: Clock, *, earlier: Doors | None = None, every_s: float = 15.0
    ) -> None:
        self.authority, self.clock, self.every_s = authority, clock, every_s
        self._ways = [doors, earlier] if earlier else [doors]

    def read(self, tx: Tx) -> list[Certified]:
        known = sa.select(Host.id, Host.name, Host.address, Host.port, Host.certificate).where(
            Host.certificate.is_not(None), Host.state.in_(ASKED)
        )
        return [Certified(id, name, address, port, pem) for id, name, address, port, pem in tx.execute(known) if pem]

    def gather(self, wanted: list[Certified]) -> list[tuple[UUID, str]]:
        now, renewed = self.clock.now(), []
        for host in wanted:
            try:
                if self.authority.is_due(host.certificate, host.id, now):
                    fresh = self.authority.sign_host(key_of_certificate(host.certificate), host.id, host.name, now)
                    if self._hand_over(host, fresh):
                        renewed.append((host.id, fresh))
            except ValueError as no:
                log.error("certificate cannot be renewed", host=host.name, why=str(no))
        return renewed

    def apply(self, tx: Tx, found: list[tuple[UUID, str]]) -> None:
        for host_id, certificate in found:
            host = tx.get(Host, host_id, with_for_update=True, populate_existing=True)
            if host is not None:
                host.certificate = certificate
                record(tx, "host.certified", host)

    def _hand_over(self, host: Certified, certificate: str) -> bool:
        args = {"certificate": certificate, "ca": self.authority.pem()}
        for way in self._ways:
            try:
                outcome = way(host.id, host.address, host.port).ask(uuid4(), "certify", args, wait_s=RENEW_WAIT_S)
            except HostUnreachable as silent:
                log.info("host did not take its new certificate", host=host.name, why=str(silent))
                continue
            if outcome.state == "done":
                return True
            log.warning("host refused its new certificate", host=host.name, why=outcome.failure and outcome.failure.message)
        return False


__all__ = ["Enroll", "Renew"]
