"""Restarts agents from outside: over SSH, with a key of the manager's own that opens nothing else on a host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from backend.ha.loop import Silent
from backend.hosts.ssh import Login, NoShell, shell
from backend.secrets import Keyring

AT_ONCE = 16
CONNECT_S, ANSWER_S, WITHIN_S = 3.0, 4.0, 8.0  # the last is for all of it: then fencing goes on without
ROUND_S = 1.0  # that the loop waits in a round: most restarts are told of before the host answers again
log = structlog.get_logger("restarts")


class OwnKey(NamedTuple):
    """A key of the manager's own, as OpenSSH writes it."""

    private: str
    public: str


def own_key(keyring: Keyring) -> OwnKey:
    """The key by which every manager of this installation restarts agents: derived, so it stands nowhere."""
    key = Ed25519PrivateKey.from_private_bytes(keyring.derive("restart agents"))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return OwnKey(private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


class AgentRestarts:
    """A `SoftFence`: what takes longer than a second goes on beside the loop that asks, and within eight it is given up."""

    def __init__(self, keyring: Keyring) -> None:
        self._key = own_key(keyring).private
        self._threads = ThreadPoolExecutor(AT_ONCE, "restart")
        self._begun: dict[UUID, tuple[float, Future[bool]]] = {}

    def __call__(self, silent: Sequence[Silent]) -> dict[UUID, bool]:
        known = {one.host_id: False for one in silent if not one.ssh_fingerprint}  # nobody has said how to get in
        before, now = self._begun, time.monotonic()
        self._begun = {
            one.host_id: before.get(one.host_id) or (now, self._threads.submit(self._restart, one))
            for one in silent if one.ssh_fingerprint
        }  # fmt: skip
        wait([tried for _, tried in self._begun.values()], ROUND_S)
        for host_id, (began, tried) in self._begun.items():
            if tried.done():
                known[host_id] = tried.result()
            elif time.monotonic() - began > WITHIN_S:
                tried.cancel()
                known[host_id] = False
        return known

    def _restart(self, one: Silent) -> bool:
        login = Login(one.address, one.ssh_port, "root", one.ssh_fingerprint, private_key=self._key)
        try:
            with shell(login, within_s=CONNECT_S) as host:
                said = host.run("restart", within_s=ANSWER_S)  # this key runs one program, whatever is asked for
        except NoShell as no:
            log.info("agent not restarted", host=str(one.host_id), why=str(no))
            return False
        log.info("agent restarted" if said.code == 0 else "agent not restarted", host=str(one.host_id), why=said.err[-300:])
        return said.code == 0
