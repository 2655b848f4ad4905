"""Builders of rows for tests and scenarios: one short call a thing, sensible by default, everything else by keyword."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.clusters.models import Cluster, DataCenter
from backend.db import Tx
from backend.devices.models import Device
from backend.devices.rules import digest
from backend.directory.models import Directory, Group, Membership, Permission, User, WebSession
from backend.ha.models import PowerAgent, PowerKindRow
from backend.hosts.models import Host
from backend.storage.models import Disk, DomainReach, StorageDomain
from backend.vms.models import Template, Vm
from broker.models import AccessRule
from pools.models import Booking, Lease, Pool, PoolMember

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # where the told clock of conftest starts
_numbers = itertools.count(1)
Row = TypeVar("Row")


def _add(tx: Tx, row: Row) -> Row:
    tx.add(row)
    tx.flush()
    return row


def a_directory(tx: Tx, name: str = "internal", type: str = "internal", **fields: Any) -> Directory:
    """The directory of this name; made when there is none."""
    found = tx.scalars(sa.select(Directory).where(Directory.name == name)).first()
    return found or _add(tx, Directory(name=name, type=type, **fields))


def a_user(
    tx: Tx,
    name: str = "",
    *,
    directory: Directory | None = None,
    groups: list[Group] | None = None,
    **fields: Any,
) -> User:
    """A person, of the internal directory unless another is given."""
    name = name or f"user{next(_numbers)}"
    directory = directory or a_directory(tx)
    user = _add(
        tx, User(name=name, directory_id=directory.id, **{"display_name": name.capitalize(), **fields})
    )
    for group in groups or []:
        tx.add(Membership(user_id=user.id, group_id=group.id))
    tx.flush()
    return user


def a_group(tx: Tx, name: str = "", *, directory: Directory | None = None, **fields: Any) -> Group:
    """A group of a directory."""
    directory = directory or a_directory(tx)
    return _add(tx, Group(name=name or f"group{next(_numbers)}", directory_id=directory.id, **fields))


def a_permission(tx: Tx, who: User | Group, on: Any = None, role: str = "user", **fields: Any) -> Permission:
    """The role on a thing for a user or group; on the system when no thing is given."""
    whose = {"group_id": who.id} if isinstance(who, Group) else {"user_id": who.id}
    return _add(
        tx,
        Permission(
            role=role,
            object_type=on.kind if on is not None else "system",
            object_id=on.id if on is not None else None,
            **whose,
            **fields,
        ),
    )


def a_calendar(tx: Tx, *windows: str, name: str = "", timezone: str = "UTC", **fields: Any) -> Calendar:
    """Hours that come again, such as `Mon-Fri 08:00-18:00`."""
    name = name or f"calendar{next(_numbers)}"
    return _add(tx, Calendar(name=name, windows=list(windows), timezone=timezone, **fields))


def a_session(tx: Tx, user: User, now: datetime = NOW, **fields: Any) -> WebSession:
    """Somebody signed in; nobody knows the token."""
    return _add(
        tx,
        WebSession(
            **{
                "token_hash": uuid4().bytes,
                "user_id": user.id,
                "client": "browser",
                "created_at": now,
                "seen_at": now,
                "expires_at": now + timedelta(hours=12),
                **fields,
            }
        ),
    )


def a_device(tx: Tx, name: str = "", *, token: str = "", **fields: Any) -> Device:
    """A thin client: enrolled with this token, or announced when there is none."""
    enrolled = {"state": "enrolled", "token_hash": digest(token), "enrolled_at": NOW, "seen_at": NOW} if token else {}
    known = {"name": name or f"device{next(_numbers)}", "state": "announced", "created_at": NOW}
    return _add(tx, Device(**{**known, **enrolled, **fields}))


def an_access_rule(tx: Tx, effect: str, **fields: Any) -> AccessRule:
    """A rule behind those that are there."""
    place = 1 + (tx.scalar(sa.select(sa.func.count()).select_from(AccessRule)) or 0)
    return _add(tx, AccessRule(**{"name": f"rule{next(_numbers)}", "position": place, "effect": effect, **fields}))


def a_cluster(tx: Tx, name: str = "Default") -> Cluster:
    """The cluster of this name, in the data center Default; made when there is none."""
    if found := tx.scalars(sa.select(Cluster).where(Cluster.name == name)).first():
        return found
    center = tx.scalars(sa.select(DataCenter)).first() or _add(tx, DataCenter(name="Default"))
    return _add(tx, Cluster(name=name, data_center_id=center.id))


def a_host(tx: Tx, name: str = "", *, up: bool = True, **fields: Any) -> Host:
    """A host of the default cluster with room for many VMs."""
    name = name or f"host{next(_numbers)}"
    return _add(
        tx,
        Host(
            **{
                "name": name,
                "cluster_id": a_cluster(tx).id,
                "state": "up" if up else "non_responsive",
                "address": name,
                "port": 8445,
                "console_port": 8446,
                "cpus": 64,
                "memory_mib": 262_144,
                "memory_free_mib": 262_144,
                "boot_id": "boot-1",
                **fields,
            }
        ),
    )


def a_domain(tx: Tx, host: Host | None = None, **fields: Any) -> StorageDomain:
    """An active local storage domain of the host; of a new host when none is given."""
    host = host or a_host(tx)
    cluster = tx.get(Cluster, host.cluster_id)
    assert cluster is not None
    name = f"disks{next(_numbers)}"
    return _add(
        tx,
        StorageDomain(
            **{
                "name": name,
                "data_center_id": cluster.data_center_id,
                "host_id": host.id,
                "path": f"/srv/{name}",
                "state": "active",
                "total_mib": 1_000_000,
                "free_mib": 900_000,
                **fields,
            }
        ),
    )


def a_power_agent(tx: Tx, host: Host, **fields: Any) -> PowerAgent:
    """What switches the host's power, of a kind that is known."""
    if tx.get(PowerKindRow, "simulated") is None:
        options = {"plug": {"about": "Which supply."}}
        tx.add(PowerKindRow(name="simulated", about="Switches a simulated machine.", options=options))
    known = {"type": "simulated", "address": f"bmc-{host.name}", "username": "admin", "options": {"plug": "1"}}
    return _add(tx, PowerAgent(host_id=host.id, **{**known, **fields}))


def a_shared_domain(tx: Tx, name: str = "", *, hosts: Sequence[Host] = (), **fields: Any) -> StorageDomain:
    """An active storage domain that these hosts reach."""
    name = name or f"shared{next(_numbers)}"
    center_id = a_cluster(tx).data_center_id
    domain = _add(tx, StorageDomain(**{
        "name": name, "type": "posixfs", "data_center_id": center_id, "path": f"/srv/{name}", "state": "active",
        "total_mib": 1_000_000, "free_mib": 900_000, **fields,
    }))  # fmt: skip
    for host in hosts:
        _add(tx, DomainReach(domain_id=domain.id, host_id=host.id, ok=True, total_mib=1_000_000, free_mib=900_000, told_at=NOW))
    return domain


def a_template(tx: Tx, name: str = "", *, domain: StorageDomain | None = None, **fields: Any) -> Template:
    """A template that is ready, with one disk when a domain is given."""
    template = _add(
        tx,
        Template(
            **{
                "name": name or f"template{next(_numbers)}",
                "cluster_id": a_cluster(tx).id,
                "state": "ok",
                "memory_mib": 256,
                "boot": {"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd", "cmdline": "quiet"},
                "boot_timeout_s": 120,
                **fields,
            }
        ),
    )
    if domain is not None:
        disk = uuid4()
        _add(
            tx,
            Disk(
                id=disk,
                name=f"{template.name}-disk",
                domain_id=domain.id,
                template_id=template.id,
                state="ok",
                capacity_mib=1024,
                path=f"{domain.path}/{disk}.qcow2",
            ),
        )
    return template


def a_vm(tx: Tx, name: str = "", *, state: str = "down", host: Host | None = None, **fields: Any) -> Vm:
    """A VM in this state; one that is not down needs a host, and gets a new one when none is given."""
    if host is None and state not in ("down", "image_locked"):
        host = a_host(tx)
    return _add(
        tx,
        Vm(
            **{
                "name": name or f"vm{next(_numbers)}",
                "cluster_id": a_cluster(tx).id,
                "state": state,
                "memory_mib": 256,
                "host_id": host.id if host else None,
                **fields,
            }
        ),
    )


def a_pool(
    tx: Tx,
    name: str = "",
    *,
    host: Host | None = None,
    domain: StorageDomain | None = None,
    template: Template | None = None,
    members: int = 0,
    member_state: str = "ready",
    **policy: Any,
) -> Pool:
    """A pool of one-hour leases, with so many members already made in that state on the host."""
    host = host or a_host(tx)
    domain = domain or a_domain(tx, host)
    template = template or a_template(tx, domain=domain)
    pool = _add(
        tx,
        Pool(
            **{
                "name": name or f"Pool {next(_numbers)}",
                "cluster_id": a_cluster(tx).id,
                "template_id": template.id,
                "domain_id": domain.id,
                "size": max(members, 1),
                "lease_s": 3600,
                "extend_s": 1800,
                "extensions": 2,
                **policy,
            }
        ),
    )
    for _ in range(members):
        a_member(tx, pool, member_state, host=host)
    return pool


_VM_OF = {
    "creating": "image_locked",
    "warming": "powering_up",
    "spare": "up",
    "suspended": "suspended",
    "leased": "up",
    "resetting": "down",
}


def a_member(
    tx: Tx,
    pool: Pool,
    state: str = "ready",
    *,
    host: Host | None = None,
    vm_state: str | None = None,
    **fields: Any,
) -> PoolMember:
    """A member of the pool in this state, with its VM, and its disk over the template's."""
    domain = tx.get(StorageDomain, pool.domain_id)
    assert domain is not None
    host = host or (tx.get(Host, domain.host_id) if domain.host_id else a_host(tx))
    vm_state = vm_state or _VM_OF.get(state, "down")
    vm = a_vm(
        tx,
        f"{pool.name.lower().replace(' ', '-')}-{pool.next_member}",
        state=vm_state,
        pool_id=pool.id,
        template_id=pool.template_id,
        host=host if vm_state not in ("down", "image_locked") else None,
        boot={"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd", "cmdline": "quiet"},
    )
    pool.next_member += 1
    base = tx.scalars(sa.select(Disk).where(Disk.template_id == pool.template_id)).first()
    disk = uuid4()
    _add(
        tx,
        Disk(
            id=disk,
            name=f"{vm.name}-disk",
            domain_id=domain.id,
            vm_id=vm.id,
            backing_id=base.id if base else None,
            state="ok",
            capacity_mib=1024,
            path=f"{domain.path}/{disk}.qcow2",
        ),
    )
    return _add(tx, PoolMember(pool_id=pool.id, vm_id=vm.id, state=state, **fields))


def a_lease(
    tx: Tx,
    pool: Pool,
    user: User | UUID,
    state: str = "active",
    *,
    member: PoolMember | None = None,
    now: datetime = NOW,
    **fields: Any,
) -> Lease:
    """A lease of the person; one that is not queued holds a member, made when none is given."""
    user_id = user if isinstance(user, UUID) else user.id
    if state in ("queued", "ended"):
        return _add(
            tx, Lease(**{"pool_id": pool.id, "user_id": user_id, "state": state, "asked_at": now, **fields})
        )
    member = member or a_member(tx, pool, "leased")
    times: dict[str, Any] = {
        "starts_at": now,
        "ends_at": now + timedelta(seconds=pool.lease_s) if pool.lease_s else None,
    }
    if state == "starting":
        times = {}
    return _add(
        tx,
        Lease(
            **{
                "pool_id": pool.id,
                "user_id": user_id,
                "vm_id": member.vm_id,
                "state": state,
                "asked_at": now,
                "period": sa.dialects.postgresql.Range(now, None),
                **times,
                **fields,
            }
        ),
    )


def a_booking(
    tx: Tx, pool: Pool, user: User, *, starts_at: datetime, hours: float = 1, now: datetime = NOW, **fields: Any
) -> Booking:
    """A booking of the pool by this person."""
    desktops = fields.pop("desktops", 1)
    return _add(tx, Booking(**{
        "pool_id": pool.id, "user_id": user.id, "desktops": desktops, "kept": desktops, "starts_at": starts_at,
        "ends_at": starts_at + timedelta(hours=hours), "made_at": now, "changed_at": now, "state": Booking.machine.initial,
        **fields,
    }))  # fmt: skip
