"""A small place with one of everything, its people, and clients that ask as one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import assembly
from backend.actions.models import CustomAction
from backend.clusters.models import DataCenter
from backend.config import Settings
from backend.db import Sessions, Tx
from backend.directory import internal, sessions, tokens
from backend.directory.models import Directory, User, WebSession
from backend.events import Event, record
from backend.ha.models import PowerAgent
from backend.hosts.models import Evacuation, HostSample
from backend.placement.models import AffinityGroup, AffinityLabel, SchedulingPolicy
from backend.secrets import Keyring
from backend.storage.models import Disk, DomainReach
from backend.tasks.command import Actor
from backend.tasks.models import Task
from backend.vms.models import GuestSession, Vm, VmSnapshot, Vnic
from broker.models import ConsoleSession, Ticket
from pools.models import Decision, Rollout, SparePlan
from portal import Parts, create_app
from portal.auth import COOKIE
from sim import make

BASE = "https://leasehold.test:8443"
KEY = b"k" * 32
PASSWORD = "a good long password"
PEOPLE = ("root", "keeper", "auditor", "alice", "bob")

_HASHES: dict[str, str] = {}


def password_hash() -> str:
    """The hash of PASSWORD, made once a run: it costs 40 ms of CPU."""
    if not _HASHES:
        _HASHES["it"] = internal.hash_password(PASSWORD)
    return _HASHES["it"]


@dataclass
class Asker:
    """Asks as one person by bearer token, or as nobody."""

    client: FlaskClient
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **known: Any) -> TestResponse:
        headers = {**self.headers, **known.pop("headers", {})}
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return self.client.open(path, method=method, base_url=BASE, headers=headers, **known)

    def get(self, path: str, **known: Any) -> TestResponse:
        return self.ask("GET", path, **known)

    def post(self, path: str, json: Any = None, **known: Any) -> TestResponse:
        return self.ask("POST", path, json={} if json is None else json, **known)

    def delete(self, path: str, **known: Any) -> TestResponse:
        return self.ask("DELETE", path, **known)


class Place:
    """`ids` has the id of one thing of each kind; `people` their user ids; `tokens` their API tokens."""

    def __init__(self, maker: Sessions, clock: Any, **settings: Any) -> None:
        self.sessions, self.clock = maker, clock
        self.keyring = Keyring(KEY)
        self.settings = Settings(**{"public_url": BASE, "gateway_public": "leasehold.test:8444", **settings})
        self.parts = Parts(self.settings, maker, self.keyring, clock, assembly.COMMANDS)
        self.app: Flask = create_app(self.parts)
        self.people: dict[str, UUID] = {}
        self.tokens: dict[str, str] = {}
        self.session_ids: dict[str, UUID] = {}
        self.ids: dict[str, Any] = {}
        with maker.begin() as tx:
            self._people(tx)
            self._things(tx)

    def _people(self, tx: Tx) -> None:
        internal.directory(tx)
        for name in PEOPLE:
            user = make.a_user(tx, name, password_hash=password_hash())
            self.people[name] = user.id
            self.session_ids[name], self.tokens[name], _ = sessions.create(
                tx, user.id, client="api", address="192.0.2.1", now=self.clock.now())
        root, auditor = tx.get_one(User, self.people["root"]), tx.get_one(User, self.people["auditor"])
        make.a_permission(tx, root, role="system_admin")
        make.a_permission(tx, auditor, role="auditor")

    def _things(self, tx: Tx) -> None:
        """Everything hangs below the pool Desktops, which keeper runs and alice may use; bob has nothing."""
        now = self.clock.now()
        host = make.a_host(tx, "alpha")
        domain = make.a_domain(tx, host)
        make.a_shared_domain(tx, hosts=[host])
        make.a_power_agent(tx, host)
        template = make.a_template(tx, "Small", domain=domain)
        pool = make.a_pool(tx, "Desktops", host=host, domain=domain, template=template)
        keeper, alice = tx.get_one(User, self.people["keeper"]), tx.get_one(User, self.people["alice"])
        make.a_permission(tx, keeper, pool, role="pool_admin")
        entitlement = make.a_permission(tx, alice, pool)
        member = make.a_member(tx, pool, "leased", host=host)
        spare = make.a_member(tx, pool, "ready", host=host)
        lease = make.a_lease(tx, pool, alice, member=member, now=now)
        pool.book_desktops = 1
        booking = make.a_booking(tx, pool, alice, starts_at=now + timedelta(days=1), now=now, title="Thesis")
        own = make.a_vm(tx, "alices-own")
        make.a_permission(tx, alice, own)
        rollout = Rollout(pool_id=pool.id, from_template_id=template.id, to_template_id=template.id, mode="batches", batch=1,
                          max_failures=1, halt_at=1, who="root", created_at=now)
        tx.add(rollout)
        tx.flush()
        group = make.a_group(tx, "Staff")
        calendar, nights = make.a_calendar(tx, "Mon-Fri 08:00-18:00"), make.a_calendar(tx, "daily 22:00-06:00")
        spare_plan = SparePlan(pool_id=pool.id, calendar_id=nights.id, spares=0)
        tx.add(spare_plan)
        tx.flush()
        task = Task(command="vm.start", args={"vm_id": str(own.id)}, title="Start VM alices-own", object_kind="vm",
                    object_id=member.vm_id, actor_id=alice.id, actor_name="alice", state="queued", not_before=now, created_at=now)
        tx.add(task)
        record(tx, "vm.booted", tx.get_one(Vm, member.vm_id))
        decision = Decision(at=now, user_id=alice.id, pool_id=pool.id, lease_id=lease.id, outcome="given", vm_id=member.vm_id,
                            sentence="Desktop desktops-1 is ready for you.",
                            candidates={"members": [{"name": "desktops-2", "reason": "leased to carol"}]})
        ticket = Ticket(user_id=alice.id, session_id=self.session_ids["alice"], vm_id=member.vm_id, lease_id=lease.id,
                        protocol="spice", client="native", created_at=now, expires_at=now + timedelta(hours=1))
        snapshot = VmSnapshot(vm_id=member.vm_id, name="Before the update", state="ok", at_rest=True, created_at=now)
        inside = GuestSession(vm_id=member.vm_id, user_name="guest", since=now, seen_at=now)
        nic = Vnic(vm_id=member.vm_id, name="nic1", mac="02:4c:48:00:00:01", bridge="br0")
        action = CustomAction(name="Greet", target="vm", hook="greet", args=["--all"])
        tx.add_all([decision, ticket, snapshot, inside, nic, action])
        tx.flush()
        token_id, _ = tokens.create(
            tx, Actor(keeper.id, "keeper"), "watchdog", expires_at=now + timedelta(days=90), read_only=True, roles=None,
            address="192.0.2.1", now=now)
        device = make.a_device(tx, "Ward 3", token="the token of Ward 3")
        tx.get_one(WebSession, self.session_ids["alice"]).device_id = device.id
        rule = make.an_access_rule(tx, "allow", name="From everywhere")
        evacuation = Evacuation(host_id=host.id, vm_id=member.vm_id, began_at=now)
        busy = HostSample(host_id=host.id, at=now, cpu_percent=12.0, memory_percent=34.0, swap_percent=0.0, network_mib_s=1.5,
                          storage_percent=56.0)
        tx.add_all([evacuation, busy])
        console = ConsoleSession(
            ticket_id=ticket.id, user_id=alice.id, vm_id=member.vm_id, lease_id=lease.id, protocol="spice", client="native",
            address="192.0.2.1", gateway="gateway", started_at=now, seen_at=now)
        tx.add(console)
        placement = {
            "affinitygroup": AffinityGroup(name="web", cluster_id=host.cluster_id, vms_rule="negative"),
            "affinitylabel": AffinityLabel(name="gpu"),
            "schedulingpolicy": SchedulingPolicy(name="mine", filters=["up", "memory"], weights={"idle": 1.0}),
        }
        tx.add_all(placement.values())
        tx.flush()
        one = sa.select
        self.ids = {
            "datacenter": tx.scalars(one(DataCenter.id)).first(), "cluster": host.cluster_id, "host": host.id,
            "storagedomain": domain.id, "template": template.id, "pool": pool.id, "member": spare.id, "lease": lease.id,
            "rollout": rollout.id,
            "vm": member.vm_id, "own_vm": own.id, "disk": tx.scalars(one(Disk.id).where(Disk.vm_id == member.vm_id)).one(),
            "user": alice.id, "group": group.id, "directory": tx.scalars(one(Directory.id)).one(), "permission": entitlement.id,
            "calendar": calendar.id, "spareplan": spare_plan.id, **{kind: row.id for kind, row in placement.items()},
            "session": self.session_ids["alice"], "console": console.id, "task": task.id, "decision": decision.id,
            "event": tx.scalars(one(Event.id).where(Event.code == "vm.booted")).one(), "ticket": ticket.id, "device": device.id,
            "accessrule": rule.id, "token": token_id, "snapshot": snapshot.id, "vnic": nic.id, "customaction": action.id,
            "guestsession": inside.id, "booking": booking.id, "evacuation": evacuation.id, "hostsample": busy.id,
            "reach": tx.scalars(one(DomainReach.id)).one(), "poweragent": tx.scalars(one(PowerAgent.id)).one(),
            "powerkind": "simulated",
        }

    def as_(self, name: str | None) -> Asker:
        """Who asks by token; nobody when no name is given."""
        return Asker(self.app.test_client(), self.tokens[name] if name else None)

    def browser(self, name: str) -> Asker:
        """A browser in which this person is signed in, with its form secret in the header, as pages send it."""
        with self.sessions.begin() as tx:
            _, token, _ = sessions.create(tx, self.people[name], client="browser", address="192.0.2.1", now=self.clock.now())
        client = self.app.test_client()
        client.set_cookie(COOKIE, token, domain="leasehold.test", secure=True, path="/")
        return Asker(client, headers={"X-CSRFToken": form_secret(client)})


def form_secret(client: FlaskClient) -> str:
    """The form secret of a page of ours, read from the page as a browser's script does."""
    page = client.get("/account", base_url=BASE, follow_redirects=True).text
    tag = re.search(r'<(?:meta|input)[^>]*name="csrf[-_]token"[^>]*>', page)
    value = re.search(r'(?:content|value)="([^"]+)"', tag[0]) if tag else None
    assert value, page[:500]
    return value[1]
