"""Hosts that nobody announced: they wait, are approved or rejected; hosts that come in again; hosts that are not fit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from backend.ca import Authority
from backend.db import Sessions, Tx
from backend.errors import Impossible, Invalid, TooMany
from backend.hosts import joining
from backend.hosts.certificates import Enroll
from backend.hosts.commands import ask_enrollment, new_token
from backend.hosts.joining import ApproveHost, Newcomer, ReinstallHost, RejectHost
from backend.hosts.models import Host
from backend.loops import tick
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from sim.make import a_cluster, a_host
from tests.conftest import ToldClock
from tests.pki import a_request


def newcomer(name: str = "gamma", token: str = "t" * 40, **other: Any) -> Newcomer:
    given = {"csr": a_request(), "address": "10.0.0.9", "port": 7443, "console_port": 7444, "hostname": name, **other}
    return Newcomer(token, **given)


def registered(tx: Tx, clock: ToldClock, name: str = "gamma", **other: Any) -> Host:
    a_cluster(tx)
    return joining.register(tx, newcomer(name, **other), clock.now())


def test_a_host_is_signed_only_when_it_is_approved(sessions: Sessions, clock: ToldClock) -> None:
    enroll = Enroll(Authority.for_hosts(clock.now()), clock)
    with sessions.begin() as tx:
        host = registered(tx, clock)
        host_id, cluster = host.id, a_cluster(tx, "Other")
        cluster_id = cluster.id
        assert host.state == "pending_approval" and len(host.fingerprint) == 64
    tick(sessions, enroll)
    with sessions.begin() as tx:
        assert tx.get_one(Host, host_id).certificate is None
        submit(tx, ApproveHost(host_id, cluster_id, "delta"), SYSTEM, clock.now())
    tick(sessions, enroll)
    with sessions() as tx:
        host = tx.get_one(Host, host_id)
        assert (host.state, host.name, host.cluster_id) == ("connecting", "delta", cluster_id) and host.certificate


def test_a_rejected_host_is_forgotten(tx: Tx, clock: ToldClock) -> None:
    host = registered(tx, clock)
    submit(tx, RejectHost(host.id), SYSTEM, clock.now())
    assert tx.get(Host, host.id) is None


def test_only_those_that_wait_are_rejected_or_approved(tx: Tx, clock: ToldClock) -> None:
    host = a_host(tx)
    for command in (RejectHost(host.id), ApproveHost(host.id, host.cluster_id)):
        with pytest.raises(Impossible):
            submit(tx, command, SYSTEM, clock.now())


def test_the_same_name_gets_a_number(tx: Tx, clock: ToldClock) -> None:
    a_host(tx, "gamma")
    assert [registered(tx, clock, token=letter * 40).name for letter in "ab"] == ["gamma-2", "gamma-3"]


@pytest.mark.parametrize("wrong", [{"token": "short"}, {"csr": "nonsense"}, {"hostname": "a b"}, {"address": "-"}, {"port": 0}])
def test_nonsense_is_refused(tx: Tx, clock: ToldClock, wrong: dict[str, Any]) -> None:
    a_cluster(tx)
    given = {"name": wrong.pop("hostname", "gamma"), **wrong}
    with pytest.raises(Invalid):
        joining.register(tx, newcomer(**given), clock.now())


def test_only_so_many_wait_at_once(tx: Tx, clock: ToldClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_PENDING", 2)
    for letter in "ab":
        registered(tx, clock, token=letter * 40)
    with pytest.raises(TooMany):
        registered(tx, clock, token="c" * 40)


def test_nobody_came(sessions: Sessions, clock: ToldClock) -> None:
    """An announced host whose agent never came has failed, and may be tried again; one that nobody approved is forgotten."""
    with sessions.begin() as tx:
        waiting = registered(tx, clock).id
        announced = a_host(tx, "beta", state="installing", enroll_until=clock.now() + timedelta(hours=1)).id
    clock.sleep(8 * 86_400)
    enroll = Enroll(Authority.for_hosts(clock.now()), clock)
    tick(sessions, enroll)
    token, digest = new_token()
    with sessions.begin() as tx:
        assert tx.get(Host, waiting) is None
        host = tx.get_one(Host, announced)
        assert host.state == "install_failed" and "did not enroll" in host.why
        submit(tx, ReinstallHost(announced, digest), SYSTEM, clock.now())
        given = {"csr": a_request(), "address": "10.0.0.7", "port": 7443, "console_port": 7444}
        ask_enrollment(tx, token=token, now=clock.now(), **given)
    tick(sessions, enroll)
    with sessions() as tx:
        host = tx.get_one(Host, announced)
        assert (host.state, host.why) == ("connecting", "")
