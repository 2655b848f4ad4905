"""Placement: every filter's reason, the scores, ties, and what must hold for any hosts."""

from __future__ import annotations

import dataclasses
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.scheduling.facts import HostFacts, NoHost, Policy, VmFacts
from backend.scheduling.place import fill, place, score, why_not

DOMAIN = uuid4()
DOMAINS = [frozenset[UUID](), frozenset({DOMAIN})]
STATES = ["up", "down", "maintenance"]
VM = VmFacts(uuid4(), "w7", memory_mib=2048, vcpus=2, domains=frozenset({DOMAIN}))
HOST = HostFacts(uuid4(), "alpha", "up", 8, 16_384, 0, 0.5, 0, frozenset({DOMAIN}))


@pytest.mark.parametrize(
    "host, reason",
    [
        (HOST, None),
        (HOST._replace(state="maintenance"), "Host alpha is in maintenance."),
        (HOST._replace(domains=frozenset()), "Host alpha does not reach the storage of VM w7."),
        (HOST._replace(cpus=1), "Host alpha has 1 CPUs; 2 are wanted."),
        (HOST._replace(memory_promised_mib=14_884), "Host alpha cannot take VM w7: 2,048 MiB wanted, 1,500 MiB free."),
        (HOST._replace(memory_promised_mib=14_336), None),
    ],
)
def test_filters_give_their_reason(host: HostFacts, reason: str | None) -> None:
    assert why_not(VM, host, Policy()) == reason


def test_overcommitment_makes_room() -> None:
    full = HOST._replace(memory_promised_mib=16_384)
    assert why_not(VM, full, Policy()) is not None
    assert why_not(VM, full, Policy(memory_overcommit_percent=150)) is None


def test_the_emptier_host_wins_and_the_other_is_told() -> None:
    busy = HOST._replace(host_id=uuid4(), name="beta", memory_promised_mib=8_000)
    placement = place(VM, [busy, HOST], Policy())
    assert placement.host_id == HOST.host_id and set(placement.others) == {"beta"}


def test_a_tie_goes_to_the_lower_name() -> None:
    twin = HOST._replace(host_id=uuid4(), name="beta")
    assert place(VM, [twin, HOST], Policy()).host_id == HOST.host_id


def test_no_host_has_a_reason_for_each() -> None:
    with pytest.raises(NoHost) as no:
        place(VM, [HOST._replace(state="down"), HOST._replace(name="beta", cpus=1)], Policy())
    assert set(no.value.facts["hosts"]) == {"alpha", "beta"}
    with pytest.raises(NoHost, match="has no hosts"):
        place(VM, [], Policy())


hosts = st.lists(
    st.builds(
        HostFacts,
        host_id=st.uuids(),
        name=st.text("abcdef", min_size=1, max_size=6),
        state=st.sampled_from(STATES),
        cpus=st.integers(1, 64),
        memory_mib=st.integers(1, 100_000),
        memory_promised_mib=st.integers(0, 120_000),
        load1=st.floats(0, 100),
        vms=st.integers(0, 100),
        domains=st.sampled_from(DOMAINS),
    ),
    max_size=12,
    unique_by=(lambda h: h.name, lambda h: h.host_id),
)


@given(hosts, st.integers(50, 400))
def test_what_is_chosen_fits_and_nothing_that_fits_is_better(found: list[HostFacts], overcommit: int) -> None:
    policy = Policy(memory_overcommit_percent=overcommit)
    fit: dict[UUID, HostFacts] = {h.host_id: h for h in found if why_not(VM, h, policy) is None}
    if not fit:
        with pytest.raises(NoHost):
            place(VM, found, policy)
        return
    chosen = place(VM, found, policy)
    assert chosen.host_id in fit
    assert all(score(VM, fit[chosen.host_id], policy) >= score(VM, other, policy) for other in fit.values())
    assert set(chosen.others) == {h.name for h in found} - {fit[chosen.host_id].name}


@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.sampled_from(STATES)), max_size=5), st.integers(1, 6000), st.integers(0, 30)
)
def test_as_many_find_room_as_could_be_placed_one_after_the_other(
    hosts: list[tuple[int, str]], memory_mib: int, most: int
) -> None:
    vm = dataclasses.replace(VM, memory_mib=memory_mib)
    made = [HOST._replace(host_id=uuid4(), name=f"h{n}", state=state, memory_promised_mib=mib)
            for n, (mib, state) in enumerate(hosts)]  # fmt: skip
    found, then = fill(vm, made, Policy(), most)
    room = sum((host.memory_mib - host.memory_promised_mib) // memory_mib for host in made if host.state == "up")
    assert found == min(most, room)
    assert sum(host.vms for host in then) == found
    assert all(host.memory_promised_mib <= host.memory_mib for host in then)
    by_hand = made
    for _ in range(found):
        there = place(vm, by_hand, Policy()).host_id
        by_hand = [h._replace(memory_promised_mib=h.memory_promised_mib + memory_mib, vcpus_promised=h.vcpus_promised + 2,
                           vms=h.vms + 1) if h.host_id == there else h for h in by_hand]  # fmt: skip
    assert by_hand == then
