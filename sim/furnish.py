"""`furnish`: the rows of a data center to click through: clusters of hosts full of VMs, pools, and people."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlalchemy.dialects.postgresql import Range

from backend.clusters.models import Cluster, DataCenter
from backend.db import Tx
from backend.directory.internal import hash_password
from backend.directory.models import User
from backend.hosts.joining import Newcomer, register
from backend.hosts.models import Host
from backend.storage.models import Disk, DomainReach, StorageDomain
from backend.vms.models import Template, Vm
from pools.models import Pool, PoolMember
from sim import make

CENTERS = ("Harbour", "Hillside")
CLUSTERS = ("Office", "Engineering", "Training", "Design", "Servers", "Research", "Finance", "Medical")
VMS_OF = {"Servers": ("web", "mail", "files", "build"), "Research": ("node", "notebook"), "Engineering": ("cad", "ci", "test")}
HOSTS_IN_CLUSTER = 25
CPUS, MEMORY_MIB = 64, 262_144
BOOT = {"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd", "cmdline": "quiet"}
PEOPLE = {  # name: display name, role on everything, what `python -m sim` says of them
    "admin": ("Ada Admin", "system_admin", "administrator"),
    "anna": ("Anna Alder", "", "three pools"),
    "ben": ("Ben Birch", "", "the pool Office; goes straight to a desktop"),
    "carl": ("Carl Cedar", "", "nothing yet"),
}
Signer = Callable[[UUID, str], str]


@dataclass(frozen=True)
class Wanted:
    """How large it is to be; `address_of` answers where a host's agent and its consoles are, by its number."""

    hosts: int
    vms: int
    address_of: Callable[[int], tuple[str, int, int]]
    sign: Signer | None = None  # a certificate for a host's id and name


def furnish(tx: Tx, wanted: Wanted, passwords: Mapping[str, str], now: datetime) -> None:
    """Write all of it; the same size is the same data center each time."""
    chance = random.Random(wanted.hosts)
    clusters = _clusters(tx, max(1, -(-wanted.hosts // HOSTS_IN_CLUSTER)))
    hosts = _hosts(tx, clusters, wanted, now)
    _newcomers(tx, wanted, now)
    domains = _storage(tx, clusters, hosts, now)
    templates = {cluster.id: _template(tx, cluster, domains[cluster.data_center_id]) for cluster in clusters}
    _vms(tx, clusters, hosts, templates, domains, wanted.vms, chance, now)
    _people(tx, _pools(tx, clusters, hosts, templates, domains, chance, now), passwords, chance, now)


def _clusters(tx: Tx, count: int) -> list[Cluster]:
    centers = [DataCenter(name=name) for name in CENTERS[: min(count, len(CENTERS))]]
    tx.add_all(centers)
    tx.flush()
    names = [CLUSTERS[n % len(CLUSTERS)] + (f"-{n // len(CLUSTERS) + 1}" if n >= len(CLUSTERS) else "") for n in range(count)]
    clusters = [
        Cluster(name=name, data_center_id=centers[n % len(centers)].id, memory_overcommit_percent=150 if n % 3 == 0 else 100)
        for n, name in enumerate(names)
    ]
    tx.add_all(clusters)
    tx.flush()
    return clusters


def _hosts(tx: Tx, clusters: Sequence[Cluster], wanted: Wanted, now: datetime) -> dict[UUID, list[Host]]:
    """Hosts by cluster, in the order of their names."""
    found: dict[UUID, list[Host]] = {cluster.id: [] for cluster in clusters}
    digits = max(3, len(str(wanted.hosts)))
    for n in range(wanted.hosts):
        cluster, name, id = clusters[n * len(clusters) // wanted.hosts], f"host-{n + 1:0{digits}}", uuid4()
        address, port, console_port = wanted.address_of(n)
        host = Host(
            id=id, name=name, cluster_id=cluster.id, state="up", address=address, port=port, console_port=console_port,
            virt_type="kvm", hypervisor="simulated", agent_version="simulated", boot_id=str(uuid4()), cpus=CPUS,
            memory_mib=MEMORY_MIB, memory_free_mib=MEMORY_MIB, reported_at=now,
            certificate=wanted.sign(id, name) if wanted.sign else None,
        )  # fmt: skip
        found[cluster.id].append(host)
    tx.add_all([host for some in found.values() for host in some])
    tx.flush()
    return found


def _newcomers(tx: Tx, wanted: Wanted, now: datetime) -> None:
    """Hosts that nobody has announced, which wait for somebody to approve of them."""
    for n in range(2):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"newcomer-{n + 1}")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        csr, (address, port, console_port) = request.public_bytes(Encoding.PEM).decode(), wanted.address_of(wanted.hosts + n)
        new = Newcomer("x" * 40 + str(n), csr, address, port, console_port, f"newcomer-{n + 1}", CPUS, MEMORY_MIB, "kvm")
        register(tx, new, now)


def _storage(
    tx: Tx, clusters: Sequence[Cluster], hosts: Mapping[UUID, Sequence[Host]], now: datetime
) -> dict[UUID, StorageDomain]:
    """A shared domain for each data center, which all of its hosts reach."""
    domains = {}
    for center in tx.scalars(sa.select(DataCenter)):
        path = f"/srv/{center.name.lower()}"
        domains[center.id] = StorageDomain(name=f"{center.name}-disks", type="posixfs", data_center_id=center.id, path=path,
                                           state="active", total_mib=20_000_000, free_mib=11_000_000)  # fmt: skip
    tx.add_all(domains.values())
    tx.flush()
    rows = [
        {"id": uuid4(), "domain_id": domains[cluster.data_center_id].id, "host_id": host.id, "ok": True, "told_at": now,
         "total_mib": 1_000_000, "free_mib": 900_000}
        for cluster in clusters
        for host in hosts[cluster.id]
    ]
    _insert(tx, DomainReach, rows)
    return domains


def _template(tx: Tx, cluster: Cluster, domain: StorageDomain) -> Template:
    template = Template(
        name=f"{cluster.name} desktop", cluster_id=cluster.id, state="ok", memory_mib=2048, vcpus=2, boot=BOOT, boot_timeout_s=60
    )
    tx.add(template)
    tx.flush()
    id = uuid4()
    tx.add(Disk(id=id, name=f"{template.name}-disk", domain_id=domain.id, template_id=template.id, state="ok",
                capacity_mib=20_480, path=f"{domain.path}/volumes/{id}.qcow2"))  # fmt: skip
    return template


def _vms(
    tx: Tx, clusters: Sequence[Cluster], hosts: Mapping[UUID, Sequence[Host]], templates: Mapping[UUID, Template],
    domains: Mapping[UUID, StorageDomain], count: int, chance: random.Random, now: datetime,
) -> None:  # fmt: skip
    """VMs of every cluster, most of them running; some hosts are full, some have hardly any."""
    vms, disks = list[dict[str, Any]](), list[dict[str, Any]]()
    weights = {cluster.id: [chance.choice((1, 4, 8, 10, 14)) for _ in hosts[cluster.id]] for cluster in clusters}
    free = {host.id: MEMORY_MIB - 4096 for some in hosts.values() for host in some}
    for n in range(count):
        cluster = clusters[n % len(clusters)]
        kinds = VMS_OF.get(cluster.name.partition("-")[0], ("desk", "app"))
        memory = chance.choice((2048, 4096, 4096, 8192, 16_384))
        host = chance.choices(hosts[cluster.id], weights[cluster.id])[0]
        up = chance.random() < 0.93 and free[host.id] >= memory
        if up:
            free[host.id] -= memory
        id, name = uuid4(), f"{cluster.name.lower()}-{chance.choice(kinds)}-{n + 1:04}"
        vms.append({
            "id": id, "name": name, "cluster_id": cluster.id,
            "template_id": templates[cluster.id].id, "state": "up" if up else "down", "host_id": host.id if up else None,
            "memory_mib": memory, "vcpus": chance.choice((1, 2, 2, 4, 8)), "boot": BOOT, "protocols": ["vnc"],
            "started_at": now - timedelta(minutes=chance.randrange(5, 40_000)) if up else None,
        })  # fmt: skip
        disks.append(_disk(id, name, domains[cluster.data_center_id], chance.choice((20_480, 40_960, 102_400))))
    _insert(tx, Vm, vms)
    _insert(tx, Disk, disks)


def _disk(vm_id: UUID, name: str, domain: StorageDomain, capacity_mib: int) -> dict[str, Any]:
    id = uuid4()
    return {"id": id, "name": f"{name}-disk", "domain_id": domain.id, "vm_id": vm_id, "state": "ok",
            "capacity_mib": capacity_mib, "path": f"{domain.path}/volumes/{id}.qcow2"}  # fmt: skip


def _pools(
    tx: Tx, clusters: Sequence[Cluster], hosts: Mapping[UUID, Sequence[Host]], templates: Mapping[UUID, Template],
    domains: Mapping[UUID, StorageDomain], chance: random.Random, now: datetime,
) -> list[Pool]:  # fmt: skip
    """A pool in each of the first clusters, with desktops up that nobody has yet."""
    pools = []
    for cluster in clusters[:4]:
        domain = domains[cluster.data_center_id]
        pool = Pool(
            name=cluster.name, description=f"Desktops of {cluster.name}", cluster_id=cluster.id,
            template_id=templates[cluster.id].id, domain_id=domain.id, size=24, spares=4, lease_s=7200, extend_s=3600,
            extensions=2, protocols=["vnc"], book_desktops=2,
        )  # fmt: skip
        tx.add(pool)
        tx.flush()
        for n in range(12):
            host = chance.choice(hosts[cluster.id])
            vm = Vm(
                name=f"{cluster.name.lower()}-{n + 1}", cluster_id=cluster.id, template_id=pool.template_id, pool_id=pool.id,
                host_id=host.id, state="up", memory_mib=2048, vcpus=2, boot=BOOT, protocols=["vnc"],
                started_at=now - timedelta(minutes=n + 1),
            )  # fmt: skip
            tx.add(vm)
            tx.flush()
            _insert(tx, Disk, [_disk(vm.id, vm.name, domain, 20_480)])
            tx.add(PoolMember(pool_id=pool.id, vm_id=vm.id, state="spare"))
        pool.next_member = 13
        pools.append(pool)
    tx.flush()
    return pools


def _people(tx: Tx, pools: Sequence[Pool], passwords: Mapping[str, str], chance: random.Random, now: datetime) -> None:
    """Those who may sign in, and some more who have desktops."""
    named = dict[str, User]()
    for name, (shown, role, _) in PEOPLE.items():
        user = named[name] = make.a_user(
            tx, name, display_name=shown, password_hash=hash_password(passwords[name], name), refreshed_at=now,
            auto_launch=name == "ben",
        )  # fmt: skip
        if role:
            make.a_permission(tx, user, None, role)
    for pool in pools[:3]:
        make.a_permission(tx, named["anna"], pool)
    make.a_permission(tx, named["ben"], pools[0])
    for pool in pools:
        members = tx.scalars(sa.select(PoolMember).where(PoolMember.pool_id == pool.id).order_by(PoolMember.id)).all()
        for n, member in enumerate(members[:8]):
            user = make.a_user(tx, f"{pool.name.lower()}{n + 1:02}", display_name=f"{pool.name} {n + 1}", refreshed_at=now)
            make.a_permission(tx, user, pool)
            asked = now - timedelta(minutes=chance.randrange(1, 100))
            member.state = "leased"
            make.a_lease(tx, pool, user, member=member, now=asked, ends_at=asked + timedelta(hours=2), period=Range(asked, None))


def _insert(tx: Tx, cls: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        tx.execute(sa.insert(cls), list(rows))


__all__ = ["PEOPLE", "Wanted", "furnish"]
