"""Promised room: what the database keeps of it, and starts at once in several transactions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import sqlalchemy as sa

from backend import facts
from backend.db import Sessions, Tx, get
from backend.errors import Refused
from backend.events import move
from backend.hosts.models import Host
from backend.placement.models import AffinityGroup, AffinityGroupVm, HostLoad, VmPlacement
from backend.vms.models import Vm
from sim import make


def load(tx: Tx, host: Host) -> tuple[int, int, int]:
    row = tx.execute(sa.select(HostLoad.memory_mib, HostLoad.vcpus, HostLoad.vms).where(HostLoad.host_id == host.id)).one()
    return (row[0], row[1], row[2])


def test_promises_follow_a_vm_through_its_life(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        alpha, beta = make.a_host(tx, "alpha"), make.a_host(tx, "beta")
        vm = make.a_vm(tx, "w1", memory_mib=1000, vcpus=2)
        assert load(tx, alpha) == (0, 0, 0)
        move(tx, vm, "start", words={"host": "alpha"}, host_id=alpha.id)
        assert load(tx, alpha) == (1000, 2, 1)  # seen within the transaction
    with sessions.begin() as tx:
        vm = get(tx, Vm, vm.id)
        vm.destination_id = beta.id
        tx.flush()
        assert load(tx, alpha) == load(tx, beta) == (1000, 2, 1)  # while it moves it has room on both
    with sessions.begin() as tx:
        vm = get(tx, Vm, vm.id)
        vm.host_id, vm.destination_id, vm.memory_mib = beta.id, None, 1500
    with sessions.begin() as tx:
        assert (load(tx, alpha), load(tx, beta)) == ((0, 0, 0), (1500, 2, 1))
        vm = get(tx, Vm, vm.id)
        move(tx, vm, "stopped", host_id=None)
    with sessions.begin() as tx:
        assert load(tx, beta) == (0, 0, 0)
        make.a_vm(tx, "w2", state="up", host=beta, memory_mib=700)
    with sessions.begin() as tx:
        assert load(tx, beta) == (700, 1, 1)
        tx.execute(sa.delete(Vm).where(Vm.name == "w2"))
    with sessions.begin() as tx:
        assert load(tx, beta) == (0, 0, 0) and facts.wrong_loads(tx) == []


def test_what_is_wrong_is_found_and_mended(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        host = make.a_host(tx)
        make.a_vm(tx, state="up", host=host, memory_mib=700)
    with sessions.begin() as tx:
        assert facts.mend_loads(tx) == []
        tx.execute(sa.update(HostLoad).values(memory_mib=5, vms=9))
    with sessions.begin() as tx:
        assert facts.mend_loads(tx) == [host.id]
    with sessions.begin() as tx:
        assert load(tx, host) == (700, 1, 1) and facts.mend_loads(tx) == []


def _start_all(sessions: Sessions, vms: list[UUID], at_once: int = 8) -> list[str]:
    """Place all of them, each in a transaction of its own, so many at a time; answers why some could not be."""

    def start(vm_id: UUID) -> str:
        try:
            with sessions.begin() as tx:
                vm = get(tx, Vm, vm_id, lock=True)
                placement = facts.reserve(tx, vm)
                move(tx, vm, "start", words={"host": "x"}, host_id=placement.host_id)
                return ""
        except Refused as no:
            return no.message

    with ThreadPoolExecutor(at_once) as threads:
        return [why for why in threads.map(start, vms) if why]


def test_starts_at_once_never_overbook(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        hosts = [make.a_host(tx, f"h{n}", memory_mib=1000) for n in range(5)]
        vms = [make.a_vm(tx, f"w{n}", memory_mib=300).id for n in range(20)]
    refused = _start_all(sessions, vms)
    with sessions.begin() as tx:
        assert [load(tx, host)[0] for host in hosts] == [900] * 5  # every host is as full as it can be, and no fuller
        assert len(refused) == 5 and all("300 MiB wanted, 100 MiB free" in why for why in refused)
        assert facts.wrong_loads(tx) == []
        assert len(tx.scalars(sa.select(VmPlacement)).all()) == 15


def test_hard_groups_hold_for_starts_at_once(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        for n in range(6):
            make.a_host(tx, f"h{n}")
        vms = {rule: [make.a_vm(tx, f"{rule}{n}") for n in range(6)] for rule in ("positive", "negative")}
        for rule, members in vms.items():
            group = AffinityGroup(name=rule, cluster_id=members[0].cluster_id, vms_rule=rule, vms_enforcing=True)
            tx.add(group)
            tx.flush()
            tx.add_all([AffinityGroupVm(group_id=group.id, vm_id=vm.id) for vm in members])
    both = [vm.id for pair in zip(vms["positive"], vms["negative"], strict=True) for vm in pair]
    assert _start_all(sessions, both) == []
    with sessions.begin() as tx:
        on = {rule: {get(tx, Vm, vm.id).host_id for vm in members} for rule, members in vms.items()}
        assert len(on["positive"]) == 1 and len(on["negative"]) == 6
