"""An agent's request on the manager's side: taken once, signed, and a bad one keeps no other host waiting."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from backend.ca import Authority
from backend.db import Sessions, Tx
from backend.errors import Denied, Invalid
from backend.hosts.certificates import Enroll
from backend.hosts.commands import ask_enrollment
from backend.hosts.models import Host
from backend.loops import tick
from hostapi.tls import host_name
from sim.make import a_host
from tests.conftest import ToldClock
from tests.pki import a_request


def announced(tx: Tx, name: str, clock: ToldClock) -> Host:
    return a_host(tx, name, state="installing", enroll_hash=hashlib.sha256(name.encode()).digest(),
                  enroll_until=clock.now() + timedelta(hours=1))


def ask(tx: Tx, clock: ToldClock, token: str, **other: Any) -> Host:
    given = {"csr": a_request(), "address": "10.0.0.7", "port": 7443, "console_port": 7444, **other}
    return ask_enrollment(tx, token=token, now=clock.now(), **given)


@pytest.mark.parametrize("wrong", [
    {"csr": "nonsense"}, {"csr": ""}, {"address": ""}, {"address": "höst"}, {"address": "a b"}, {"address": "x" * 300},
    {"address": "a\nb"}, {"address": "-"}, {"port": 0}, {"console_port": 65536},
])
def test_what_cannot_be_signed_is_refused_at_once(tx: Tx, clock: ToldClock, wrong: dict[str, Any]) -> None:
    host = announced(tx, "beta", clock)
    with pytest.raises(Invalid):
        ask(tx, clock, "beta", **wrong)
    assert host.enroll_csr is None


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7", "beta", "beta.corp.example", "127.0.0.1"])
def test_good_addresses_are_signed(sessions: Sessions, clock: ToldClock, address: str) -> None:
    with sessions.begin() as tx:
        announced(tx, "beta", clock)
        host_id = ask(tx, clock, "beta", address=address).id
    tick(sessions, Enroll(Authority.for_hosts(clock.now()), clock))
    with sessions() as tx:
        host = tx.get_one(Host, host_id)
        assert host.state == "connecting" and host.certificate
        names = x509.load_pem_x509_certificate(host.certificate.encode()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName(host_name(host_id))]  # nothing that the agent has said of itself


def test_a_host_that_is_enrolled_is_not_moved_by_its_old_token(sessions: Sessions, clock: ToldClock) -> None:
    csr = a_request()
    with sessions.begin() as tx:
        announced(tx, "beta", clock)
        ask(tx, clock, "beta", csr=csr)
    tick(sessions, Enroll(Authority.for_hosts(clock.now()), clock))
    with sessions.begin() as tx:
        ask(tx, clock, "beta", csr=csr)  # the agent was cut off and asks the same again
        with pytest.raises(Denied):
            ask(tx, clock, "beta", csr=csr, address="10.6.6.6")
        with pytest.raises(Denied):
            ask(tx, clock, "beta")


def test_a_request_that_cannot_be_signed_keeps_no_other_waiting(sessions: Sessions, clock: ToldClock) -> None:
    with sessions.begin() as tx:
        bad, good = announced(tx, "bad", clock), announced(tx, "good", clock)
        bad.enroll_csr, bad.address = "nonsense", "höst"
        ask(tx, clock, "good")
        ids = bad.id, good.id
    tick(sessions, Enroll(Authority.for_hosts(clock.now()), clock))
    with sessions() as tx:
        assert [tx.get_one(Host, id).state for id in ids] == ["installing", "connecting"]
