"""What keeps a pool from starting desktops: the cause, its sentence, and how long it waits before it tries again."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from backend.scheduling.facts import HostFacts, Policy, VmFacts
from backend.scheduling.place import look
from pools.trouble_rules import keeps_from_starting, no_host, no_storage, of_any, pause_s

DOMAIN = uuid4()
VM = VmFacts(uuid4(), "w", 2048, 2, frozenset({DOMAIN}), frozenset({"lan", "dmz"}))
HOST = HostFacts(uuid4(), "alpha", "up", 8, 16_384, 0, 0.5, 0, frozenset({DOMAIN}), networks=frozenset({"lan", "dmz"}))
FULL = HOST._replace(memory_promised_mib=16_000)
DOWN = HOST._replace(host_id=uuid4(), name="beta", state="non_responsive")
BARE = HOST._replace(host_id=uuid4(), name="gamma", networks=frozenset({"lan"}))


@pytest.mark.parametrize(
    "hosts, code, sentence, makes",
    [
        ([FULL], "memory", "No host that is up has enough free memory for another desktop.", False),
        ([FULL, DOWN], "memory", "No host that is up has enough free memory for another desktop.", False),
        ([FULL, BARE], "memory", "No host that is up has enough free memory for another desktop.", False),
        ([HOST._replace(cpus=1)], "cpus", "No host that is up has enough processors for a desktop of this pool.", False),
        ([BARE], "hosts", "The hosts lack a network that desktops of this pool need: dmz.", False),
        ([BARE._replace(state="non_operational")], "hosts", "The hosts lack a network that desktops of this pool need: dmz.",
         True),
        ([BARE, BARE._replace(name="delta", networks=frozenset({"dmz"}))], "hosts",
         "No host that is up has all the networks that desktops of this pool need.", False),
        ([HOST._replace(domains=frozenset())], "storage", "No host that is up reaches the storage of the desktops.", True),
        ([DOWN], "hosts", "No host of the cluster is up.", True),
        ([], "hosts", "The cluster has no hosts.", True),
    ],
)  # fmt: skip
def test_the_cause_is_what_stands_against_the_nearest_host(
    hosts: list[HostFacts], code: str, sentence: str, makes: bool
) -> None:
    found = no_host(VM, hosts, look(VM, hosts, Policy()), Policy())
    assert (found.code, found.sentence, found.makes) == (code, sentence, makes)
    assert [host.name for host in found.hosts] == [host.name for host in hosts]
    assert found.in_full.startswith(sentence) and all(host.why in found.in_full for host in found.hosts)


def test_rules_that_bind_desktops_are_a_cause_too() -> None:
    pinned = replace(VM, pinned=frozenset({uuid4()}))
    assert no_host(pinned, [HOST], look(pinned, [HOST], Policy()), Policy()).code == "pinned"


@pytest.mark.parametrize(
    "state, total, free, code",
    [("active", 1000, 500, None), ("active", 1000, 10, "storage_full"), ("active", 0, 0, None),
     ("maintenance", 1000, 500, "storage_inactive")],
)  # fmt: skip
def test_storage(state: str, total: int, free: int, code: str | None) -> None:
    found = no_storage("disks", state, "", total, free)
    assert (found.code if found else None) == code


def test_it_waits_twice_as_long_each_time_up_to_five_minutes() -> None:
    assert [pause_s(tries) for tries in (0, 1, 2, 3, 4, 5, 6, 50)] == [15, 15, 30, 60, 120, 240, 300, 300]


def test_what_keeps_from_making_keeps_nobody_from_starting() -> None:
    assert keeps_from_starting("memory") and keeps_from_starting("storage_full") and not keeps_from_starting("make.disk_error")
    assert of_any("Host alpha cannot take VM w7: 1 MiB wanted.", "w7") == "Host alpha cannot take a desktop: 1 MiB wanted."
