"""Certificates of hosts are renewed by themselves: by a real agent that enrolled when hosts and web had one CA, and later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

import managerd
from agent import config as agent_config
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, key_of_certificate, write_private
from backend.clock import WallClock
from backend.config import Settings
from backend.db import Sessions
from backend.hosts.certificates import Renew
from backend.hosts.models import Host
from backend.loops import tick
from hostapi.client import HostUnreachable, client_context
from sim import make
from tests.broker.processes import ROOT, free_port


def enrolled_long_ago(state: Path, ca: Authority, now: datetime) -> tuple[int, str]:
    """An agent's folder as it was when its certificate carried its own address: its port, and the certificate."""
    state.mkdir()
    key, certificate = ca.issue("alpha", "host", ["alpha", "127.0.0.1"], now)
    write_private(state / "key.pem", key.encode())
    (state / "cert.pem").write_text(certificate)
    (state / "ca.pem").write_text(ca.pem())
    port = free_port()
    agent_config.save(state, agent_config.AgentConfig(
        "alpha", "test:///default", listen="127.0.0.1", port=port, console_port=free_port()))
    return port, certificate


@contextmanager
def running(state: Path) -> Iterator[None]:
    agent = subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "--state", str(state)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None and agent.stdout.readline() == "READY\n"
        yield
    finally:
        agent.terminate()
        agent.communicate(timeout=60)


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A state folder that is older than its hosts' CA, as the manager finds it after its next start."""
    folder, now = tmp_path / "tls", WallClock().now()
    folder.mkdir()
    Authority.create(now).save(folder / "ca.pem", folder / "ca-key.pem")
    keep_hosts_authority(folder, now)
    return folder


def test_an_agent_of_the_old_ca_is_moved_to_the_hosts_ca_by_itself(tls: Path, tmp_path: Path, sessions: Sessions) -> None:
    clock, state = WallClock(), tmp_path / "agent"
    old = Authority.load(tls / "ca.pem", tls / "ca-key.pem")
    port, certificate = enrolled_long_ago(state, old, clock.now())
    with sessions.begin() as tx:
        host_id = make.a_host(tx, "alpha", address="127.0.0.1", port=port, certificate=certificate).id
    settings = Settings(ca_file=str(tls / "ca.pem"), ca_key_file=str(tls / "ca-key.pem"))
    doors = managerd.host_doors(client_context(tls / HOSTS_CA, tls / "manager.pem", tls / "manager-key.pem"))
    earlier = managerd.earlier_doors(settings, clock)
    assert earlier is not None
    renew = Renew(Authority.load(tls / HOSTS_CA, tls / HOSTS_CA_KEY), doors, clock, earlier=earlier)
    with running(state):
        with pytest.raises(HostUnreachable):
            doors(host_id, "127.0.0.1", port).report()  # it is believed by the hosts' CA alone, which it does not have yet
        assert earlier(host_id, "127.0.0.1", port).report().hostname
        tick(sessions, renew)
        assert doors(host_id, "127.0.0.1", port).report().hostname
        anew = managerd.earlier_doors(settings, clock)
        assert anew is not None
        with pytest.raises(HostUnreachable):
            anew(host_id, "127.0.0.1", port).report()  # nobody gets in with the CA that browsers trust
        with pytest.raises(HostUnreachable):
            doors(UUID(int=7), "127.0.0.1", port).report()  # and its address makes it no other host
    with sessions() as tx:
        now_has = tx.get_one(Host, host_id).certificate
    assert now_has != certificate and now_has == (state / "cert.pem").read_text()
    assert (state / "ca.pem").read_text() == (tls / HOSTS_CA).read_text()
    with running(state):
        assert doors(host_id, "127.0.0.1", port).report().hostname
        tick(sessions, renew)
        with sessions() as tx:
            assert tx.get_one(Host, host_id).certificate == now_has  # nothing more is due


@pytest.mark.parametrize("row_knows", [True, False])
def test_a_certificate_that_ends_soon_is_renewed(tls: Path, tmp_path: Path, sessions: Sessions, row_knows: bool) -> None:
    """Also when the manager died between handing the certificate over and writing it down."""
    clock, state = WallClock(), tmp_path / "agent"
    hosts = Authority.load(tls / HOSTS_CA, tls / HOSTS_CA_KEY)
    port, _ = enrolled_long_ago(state, hosts, clock.now())
    with sessions.begin() as tx:
        host = make.a_host(tx, "alpha", address="127.0.0.1", port=port)
        key, host_id = (state / "cert.pem").read_text(), host.id
        old = hosts.sign_host(key_of_certificate(key), host_id, "alpha", clock.now() - timedelta(days=300))
        host.certificate = old
    (state / "cert.pem").write_text(
        old if row_knows else hosts.sign_host(key_of_certificate(key), host_id, "alpha", clock.now()))
    (state / "ca.pem").write_text(hosts.pem())
    doors = managerd.host_doors(client_context(tls / HOSTS_CA, tls / "manager.pem", tls / "manager-key.pem"))
    with running(state):
        tick(sessions, Renew(hosts, doors, clock))
    with sessions() as tx:
        now_has = tx.get_one(Host, host_id).certificate
    assert now_has != old and now_has == (state / "cert.pem").read_text()
