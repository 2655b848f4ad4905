"""Agents are restarted from outside on a real SSH server; where that cannot be done, the power agents are next."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.events import Event
from backend.ha.loop import HighAvailability, Silent
from backend.ha.models import Outage
from backend.hosts.models import Host
from backend.hosts.restarting import WITHIN_S, AgentRestarts, own_key
from backend.loops import tick
from backend.secrets import Keyring
from sim import protected
from sim.clock import ToldClock
from sim.installation import Installation
from tests.sshd import Sshd

SICK, OTHER = "127.0.0.1", "SHA256:" + "B" * 43  # a simulated host's address is its name; this one has an SSH server, too
KEYRING = Keyring(b"k" * 32)


@pytest.fixture
def asked(server: Sshd, tmp_path: Path) -> Iterator[Path]:
    """The manager's key may do one thing on the server; the file that it leaves then."""
    (restart := tmp_path / "restart").write_text(f'#!/bin/sh\necho "$SSH_ORIGINAL_COMMAND" >> {tmp_path}/asked\n')
    restart.chmod(0o755)
    before = server.authorized.read_text()
    server.authorized.write_text(f'{before}restrict,command="{restart}" {own_key(KEYRING).public} leasehold\n')
    yield tmp_path / "asked"
    server.authorized.write_text(before)


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of something that takes connections and says nothing."""
    with socket.create_server((SICK, 0)) as listening:
        yield listening.getsockname()[1]


class Place(Installation):
    """Two hosts with power agents; of one the agent hangs, and its SSH server is where `ssh` says."""

    def __init__(self, sessions: Sessions, clock: ToldClock, **ssh: Any) -> None:
        super().__init__(sessions, clock, keyring=KEYRING)
        self.ha = next(loop for loop in self.loops if isinstance(loop, HighAvailability))
        self.ha.soft = AgentRestarts(KEYRING)
        for name in (SICK, "beta"):
            self.add_host(name)
            protected.add_power_agents(self, name, [1])
        with self.tx() as tx:
            tx.execute(sa.update(Host).where(Host.name == SICK).values(**ssh))
        self.run_for(3)
        self.sim.do(f"agent {SICK} broken")

    def told(self, code: str) -> Callable[[Any], Any]:
        return lambda tx: tx.scalars(sa.select(Event).where(Event.code == code)).first()


def until_known(restarts: AgentRestarts, silent: Silent) -> bool:
    end = time.monotonic() + 10 * WITHIN_S
    while not (known := restarts([silent])):
        assert time.monotonic() < end
        time.sleep(0.02)
    return known[silent.host_id]


def test_an_agent_that_hangs_is_restarted(sessions: Sessions, clock: ToldClock, server: Sshd, asked: Path) -> None:
    place = Place(sessions, clock, ssh_port=server.port, ssh_fingerprint=server.fingerprint)
    place.run_until(lambda tx: tx.scalars(sa.select(Outage.soften_at)).first(), "it is to be restarted")
    end = time.monotonic() + 60
    while not place.sessions().scalars(sa.select(Outage.softened_at)).first():  # meanwhile no told time passes
        assert time.monotonic() < end, place.story()
        tick(sessions, place.ha)
        time.sleep(0.02)
    assert asked.read_text() == "restart\n"
    place.sim.do(f"agent {SICK} on")
    place.run_until(lambda tx: tx.scalars(sa.select(Host.state).where(Host.name == SICK)).one() == "up", "it is up again")
    with place.tx() as tx:
        assert place.told("host.softened")(tx) and not place.told("host.fencing")(tx), place.story()


@pytest.mark.parametrize("case", ["nobody there", "says nothing", "another host", "nobody said how"])
def test_where_it_cannot_be_restarted_its_power_is_next(
    sessions: Sessions, clock: ToldClock, server: Sshd, mute: int, asked: Path, case: str
) -> None:
    ssh = {
        "nobody there": (1, server.fingerprint), "says nothing": (mute, server.fingerprint),
        "another host": (server.port, OTHER), "nobody said how": (0, ""),
    }[case]  # fmt: skip
    place = Place(sessions, clock, ssh_port=ssh[0], ssh_fingerprint=ssh[1])
    place.run_until(place.told("host.proved_off"), "it is proved off", limit_s=30)
    with place.tx() as tx:
        assert not place.told("host.softened")(tx), place.story()
        (host,) = tx.scalars(sa.select(Host).where(Host.name == SICK))
        assert until_known(AgentRestarts(KEYRING), Silent(host.id, SICK, *ssh)) is False
    assert not asked.exists()


def test_what_it_was_asked_before_does_not_count(server: Sshd, asked: Path) -> None:
    restarts, host = AgentRestarts(KEYRING), Silent(UUID(int=1), SICK, server.port, server.fingerprint)
    for times in (1, 2):
        assert until_known(restarts, host)
        assert asked.read_text() == "restart\n" * times
        restarts([host])
        restarts([])


def test_the_key_opens_nothing_else(server: Sshd, asked: Path, tmp_path: Path) -> None:
    (key := tmp_path / "key").write_text(own_key(KEYRING).private)
    key.chmod(0o600)
    ssh = ["ssh", "-p", str(server.port), "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    said = subprocess.run([*ssh, f"root@{SICK}", "id"], capture_output=True, text=True, timeout=60, check=False)
    assert "uid=" not in said.stdout and asked.read_text() == "id\n"


