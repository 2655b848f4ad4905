"""Every route there is, as a stranger, as the wrong user and as the right one; a route that the table lacks fails.

Bob is signed in and has nothing. Alice may use the pool Desktops and owns a VM, keeper runs the pool, root everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
from werkzeug.test import TestResponse

import assembly
from backend.config import Settings
from backend.db import new_sessions
from backend.secrets import Keyring
from portal import Parts, create_app
from portal.collections import BY_KIND, COLLECTIONS
from portal.devices import COOKIE as DEVICE_COOKIE
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.pki import Pki
from tests.web.place import Place

OK = frozenset({200})
DONE = frozenset({202})
REFUSED = frozenset({403, 404})
NOBODY = frozenset({401})
TO_SIGN_IN = frozenset({303})


@dataclass(frozen=True)
class Case:
    """How a route answers. "@pool" in path, query or body stands for the id of that thing."""

    right: str | None = "root"
    fine: frozenset[int] = OK
    wrong: str | None = "bob"
    no: frozenset[int] = REFUSED
    stranger: frozenset[int] = NOBODY
    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    form: dict[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)


def everybody(fine: frozenset[int] = OK, **known: Any) -> Case:
    """Whoever is signed in: bob too."""
    return Case("bob", fine, None, **known)


def open_to_all(fine: frozenset[int] = OK, **known: Any) -> Case:
    """Strangers too."""
    return Case(None, stranger=fine, wrong=None, **known)


def alice(fine: frozenset[int] = OK, **known: Any) -> Case:
    """Alice's own things: the wrong one is even root, who runs everything and has no desktops."""
    return Case("alice", fine, "root", **known)


def command(right: str = "root", path: str = "", fine: frozenset[int] = DONE, **known: Any) -> Case:
    """An action on the thing of this kind."""
    return Case(right, fine, path={"id": f"@{path}"} if path else {}, **known)


def page(right: str = "root", fine: frozenset[int] = OK, **known: Any) -> Case:
    """A page of the administration."""
    return Case(right, fine, stranger=TO_SIGN_IN, **known)


def send(right: str = "root", fine: frozenset[int] = frozenset({303}), **known: Any) -> Case:
    """A form: who is not signed in has no page that it could come from."""
    return Case(right, fine, stranger=frozenset({401, 403}), **{"form": {}, **known})


DESKTOP = {"id": "@pool"}
DAY = f"{ToldClock().now() + timedelta(days=2):%Y-%m-%d}"
NEW_POOL = {"name": "New", "template_id": "@template", "size": 1}
USER_BOB = {"user_id": "@bob"}

BOOKING = {"id": "@booking"}
BOOK = {"pool_id": "@pool", "starts_at": f"{DAY}T12:00:00Z", "ends_at": f"{DAY}T13:00:00Z"}
BOOK_FORM = {"pool": "@pool", "day": DAY, "starts": "12:00", "ends": "13:00", "timezone": "UTC"}

TABLE: dict[str, Case] = {
    # about
    "GET static": open_to_all(path={"filename": "app.css"}),
    "GET healthz": open_to_all(),
    "GET readyz": open_to_all(frozenset({503})),
    "GET metrics": open_to_all(),
    "GET api.openapi_json": open_to_all(),
    "GET api.openapi_page": open_to_all(),
    "GET api.authority": open_to_all(),
    # session
    "POST api.create_session": open_to_all(NOBODY, body={"user": "alice", "password": "wrong"}),
    "DELETE api.end_session": everybody(frozenset({204})),
    "GET api.me": everybody(),
    "POST api.token_create": everybody(frozenset({201}), body={"name": "backup"}),
    "GET api.my_tokens": everybody(),
    "POST api.token_revoke": Case("keeper", frozenset({204}), path={"id": "@token"}, body={}),
    "POST api.session_end": Case("alice", frozenset({204}), path={"id": "@session"}, body={}),
    "POST api.console_end": Case("alice", frozenset({204}), path={"id": "@console"}, body={}),
    "GET api.changes": everybody(),
    # enrollment: the token is the right
    "POST api.enroll_ask": open_to_all(frozenset({403}), body={
        "token": "wrong", "csr": "", "address": "", "port": 1, "console_port": 1}),
    "GET api.enroll_answer": open_to_all(frozenset({403}), path={"id": "@host"}),
    # a person's desktops
    "GET api.my_desktops": everybody(),
    "POST api.desktop_connect": alice(frozenset({201}), path=DESKTOP, body={}),
    "POST api.desktop_start": alice(DONE, path={"id": "@own_vm"}, body={}),
    "POST api.desktop_shutdown": alice(DONE, path=DESKTOP, body={}),
    "POST api.desktop_stop": alice(frozenset({403}), path=DESKTOP, body={}, no=frozenset({404})),  # no right of this pool
    "POST api.desktop_reboot": alice(frozenset({403}), path=DESKTOP, body={}, no=frozenset({404})),
    "POST api.desktop_swap": alice(frozenset({403}), path=DESKTOP, body={}, no=frozenset({404})),
    "POST api.desktop_snapshot": alice(frozenset({403}), path=DESKTOP, body={"name": "now"}, no=frozenset({404})),
    "POST api.desktop_go_back": alice(frozenset({403}), path=DESKTOP, body={"snapshot_id": "@snapshot"}, no=frozenset({404})),
    "POST api.desktop_remove_snapshot": alice(frozenset({403}), path=DESKTOP, body={"snapshot_id": "@snapshot"},
                                              no=frozenset({404})),
    "POST api.desktop_reset": alice(DONE, path=DESKTOP, body={}),
    "GET api.ticket_viewer": alice(path={"id": "@ticket"}),
    "POST api.lease_return": alice(path={"id": "@lease"}, body={}),
    "GET api.lease_explain": Case("alice", path={"id": "@lease"}),
    "POST api.lease_extend": alice(path={"id": "@lease"}, body={}),
    "GET api.vm_screen": Case("alice", frozenset({404}), None, path={"id": "@vm"}),  # no picture yet; bob's is in test_api.py
    # bookings: alice's own, and what the pool's administrator does with them
    "GET api.my_bookings": everybody(),
    "POST api.book": Case("alice", frozenset({201}), body=BOOK),
    "POST api.my_booking_edit": Case("alice", path=BOOKING, body={"name": "Other"}),
    "POST api.my_booking_cancel": Case("alice", path=BOOKING, body={}),
    "GET api.booking_ics": Case("alice", path=BOOKING),
    "GET api.pool_calendar": Case("alice", path=DESKTOP),
    "GET api.pool_ics": Case("alice", path=DESKTOP),
    "POST api.booking_create": command("keeper", body=BOOK | {"user_id": "@alice"}),
    "POST api.booking_edit": command("keeper", "booking", body={"name": "Other"}, wrong="alice"),
    "POST api.booking_cancel": command("keeper", "booking", body={}),
    # lists of parts
    "GET api.pool_members": Case("keeper", path=DESKTOP),
    "GET api.entitlements": Case("keeper", path=DESKTOP),
    "GET api.roles_list": everybody(),
    "GET api.read_map": everybody(),
    "GET api.search_completions": everybody(path={"name": "vms"}),
    # directories and people
    "GET api.directory_search": Case("keeper", path={"id": "@directory"}, query={"text": "ali"}),
    "POST api.directory_test": Case(fine=frozenset({409}), path={"id": "@directory"}, body={}),  # the internal one: none to test
    "POST api.directory_add": Case(fine=frozenset({422}), body={
        "name": "corp.example", "servers": [], "bind_user": "svc", "bind_password": "x"}),
    "POST api.directory_edit": Case(fine=frozenset({409}), path={"id": "@directory"}, body={}),
    "POST api.directory_import": Case("root", frozenset({409}), path={"id": "@directory"}, body={
        "kind": "user", "external_id": "S-1-5-21-1"}),
    "POST api.directory_remove": command(path="directory", fine=frozenset({409}), body={}),
    "POST api.user_create": command(body={"name": "new"}),
    "POST api.user_password": Case(fine=frozenset({204}), path={"id": "@user"}, body={"password": "a long enough one"}),
    "POST api.user_edit": command(path="user", body={"auto_launch": True}),
    "POST api.user_remove": command(path="keeper", body={}),
    "POST api.user_sign_out": command(path="user", body={}),
    "POST api.group_edit": command(path="group", body={"auto_launch": True}),
    "POST api.permission_grant": command(body={"role": "auditor", "object_type": "system", **USER_BOB}),
    "POST api.permission_take": command("keeper", "permission", body={}),
    # thin clients and from where desktops can be reached; the code is a device's right to enroll
    "POST api.device_create": Case(fine=frozenset({201}), body={"name": "Lab 1"}),
    "POST api.device_renew": Case(path={"id": "@device"}, body={}),
    "POST api.device_enroll": open_to_all(frozenset({403}), body={"code": "wrong"}),
    "POST api.device_edit": command(path="device", body={"pool_id": None}),
    "POST api.device_revoke": command(path="device", body={}),
    "POST api.device_remove": command(path="device", body={}),
    "POST api.accessrule_create": command(body={"name": "new", "effect": "deny"}),
    "POST api.accessrule_edit": command(path="accessrule", body={"network": "10.0.0.0/8"}),
    "POST api.accessrule_move": command(path="accessrule", body={"by": 1}),
    "POST api.accessrule_remove": command(path="accessrule", body={}),
    "POST api.accessrule_test": Case("keeper", body={"user_id": "@alice", "pool_id": "@pool", "address": "10.1.2.3"}),
    # pools
    "POST api.entitle": command("keeper", "pool", body=USER_BOB),
    "DELETE api.disentitle": Case("keeper", DONE, path={"id": "@pool", "permission_id": "@permission"}),
    "POST api.pool_create": command(body=NEW_POOL),
    "POST api.pool_edit": command("keeper", "pool", body={"size": 3}),
    "POST api.pool_pause": command("keeper", "pool", body={"message": "soon"}),
    "POST api.pool_resume": command("keeper", "pool", fine=frozenset({409}), body={}),  # it is not paused
    "POST api.pool_remove": command("keeper", "pool", body={"force": True}),
    "POST api.pool_add_member": command("keeper", "pool", body={"name": "extra"}),
    "POST api.pool_roll_out": command("keeper", "pool", fine=frozenset({409}), body={"template_id": "@template"}),  # one runs
    "POST api.rollout_halt": command("keeper", "rollout", body={}),
    "POST api.rollout_resume": command("keeper", "rollout", fine=frozenset({409}), body={}),  # it runs
    "POST api.rollout_roll_back": command("keeper", "rollout", body={}),
    "POST api.rollout_cancel": command("keeper", "rollout", body={}),
    "POST api.member_remake": command("keeper", "member", body={"template_id": "@template"}),
    "POST api.member_reset": command("keeper", "member", body={}),
    "POST api.member_repair": command("keeper", "member", fine=frozenset({409}), body={}),  # it is not broken
    "POST api.spareplan_create": command(body={"pool_id": "@pool", "calendar_id": "@calendar", "spares": 0}),
    "POST api.spareplan_remove": command("keeper", "spareplan", body={}),
    "POST api.member_assign": command("keeper", "member", fine=frozenset({409}), body=USER_BOB),  # the pool is not dedicated
    "POST api.member_unassign": command("keeper", "member", fine=frozenset({409}), body={}),
    "POST api.calendar_create": command(body={"name": "Nights", "windows": ["daily 22:00-06:00"]}),
    "POST api.calendar_edit": command(path="calendar", body={"windows": ["daily 22:00-06:00"]}),
    "POST api.calendar_remove": command(path="calendar", body={}),
    "POST api.member_remove": command("keeper", "member", body={}),
    "POST api.lease_reclaim": command("keeper", "lease", body={}),
    # VMs, templates, hosts, storage, clusters, tasks
    "POST api.vm_create": command(body={"name": "new", "template_id": "@template"}),
    "POST api.vm_start": command(path="own_vm", body={}),
    "POST api.vm_shutdown": command("keeper", "vm", body={}),
    "POST api.vm_stop": command("keeper", "vm", body={}),
    "POST api.vm_reboot": command("keeper", "vm", body={}),
    "POST api.vm_reset": command("keeper", "vm", body={}),
    "POST api.vm_suspend": command("keeper", "vm", body={}),
    "POST api.vm_resume": command("keeper", "vm", fine=frozenset({409}), body={}),
    "POST api.vm_start_fresh": command("keeper", "vm", fine=frozenset({409}), body={}),
    "POST api.vm_message": command("keeper", "vm", body={"text": "Save your work."}),
    "POST api.vm_migrate": command(path="own_vm", fine=frozenset({409}), body={}),  # it is down
    "POST api.cluster_migration_policy": command(path="cluster", body={"migrations_per_host": 3}),
    "POST api.vm_pause": command("keeper", "vm", body={}),
    "POST api.vm_unpause": command("keeper", "vm", fine=frozenset({409}), body={}),  # it runs
    "POST api.vm_run_once": command(path="own_vm", body={"video": "vga"}),
    "POST api.vm_edit": command(path="own_vm", body={"memory_mib": 512}),
    "POST api.vm_cancel_next_run": command(path="own_vm", fine=frozenset({409}), body={}),  # nothing waits
    "POST api.vm_run_action": command(path="vm", body={"customaction_id": "@customaction"}),
    "POST api.host_run_action": command(path="host", fine=frozenset({422}), body={"customaction_id": "@customaction"}),  # for VMs
    "POST api.customaction_create": command(body={"name": "Tidy", "hook": "tidy"}),
    "POST api.customaction_edit": command(path="customaction", body={"timeout_s": 5}),
    "POST api.customaction_remove": command(path="customaction", body={}),
    "POST api.vnic_create": command(body={"vm_id": "@own_vm", "bridge": "br0"}),
    "POST api.vnic_edit": command(path="vnic", body={"linked": False}),
    "POST api.vnic_plug": command(path="vnic", fine=frozenset({409}), body={}),  # it is
    "POST api.vnic_unplug": command(path="vnic", body={}),
    "POST api.vnic_remove": command(path="vnic", body={}),
    "POST api.disk_create": command(body={"name": "data", "domain_id": "@storagedomain", "capacity_mib": 1024}),
    "POST api.disk_attach": command(path="disk", fine=frozenset({409}), body={"vm_id": "@own_vm"}),  # another has it
    "POST api.disk_detach": command(path="disk", fine=frozenset({409}), body={}),  # its VM was made with it
    "POST api.disk_upload": command(body={"name": "brought", "domain_id": "@storagedomain", "format": "raw", "size_bytes": 512,
                                          "sha256": "0" * 64}),
    "POST api.disk_take_upload": command(path="disk", fine=frozenset({409}), body={}),  # there is none
    "GET api.disk_content": Case(path={"id": "@disk"}, fine=frozenset({409})),  # no certificate for hosts here
    "GET api.transfer_get": Case(path={"id": "@disk"}, fine=frozenset({404})),  # none is going on
    "PUT api.transfer_put": Case(path={"id": "@disk"}, fine=frozenset({404})),
    "POST api.disk_resize": command(path="disk", fine=frozenset({202, 409}), body={"capacity_mib": 1 << 20}),
    "POST api.disk_remove": command(path="disk", fine=frozenset({409}), body={}),
    "POST api.vm_lock_guest": command("keeper", "vm", body={}),
    "POST api.vm_log_out_guest": command("keeper", "vm", body={}),
    "POST api.vm_snapshot": command("keeper", "vm", body={"name": "Before lunch"}),
    "POST api.vm_go_back": command("keeper", "vm", fine=frozenset({409}), body={"snapshot_id": "@snapshot"}),
    "POST api.vm_remove_snapshot": command("keeper", "vm", body={"snapshot_id": "@snapshot"}),
    "POST api.vm_reset_disk": command(path="own_vm", fine=frozenset({202, 409}), body={}),
    "POST api.vm_remove": command(path="own_vm", body={}),
    "POST api.template_import": command(body={
        "name": "new", "cluster_id": "@cluster", "domain_id": "@storagedomain", "memory_mib": 256, "capacity_mib": 1024,
        "image_path": "/srv/x.qcow2"}),
    "POST api.template_remove": command(path="template", fine=frozenset({409}), body={}),  # a pool is made from it
    "POST api.host_create": Case(fine=frozenset({201}), body={"name": "beta", "cluster_id": "@cluster"}),
    "POST api.host_maintenance": command(path="host", body={}),
    "POST api.host_reinstall": Case(fine=frozenset({409}), path={"id": "@host"}, body={}),  # it is up
    "POST api.host_approve": command(path="host", fine=frozenset({409}), body={"cluster_id": "@cluster"}),
    "POST api.host_reject": command(path="host", fine=frozenset({409}), body={}),
    "POST api.cluster_set_alerts": command(path="cluster", body={"alert_cpu_percent": 80}),
    "POST api.host_install": command(fine=frozenset({422}), body={  # no password
        "name": "new", "cluster_id": "@cluster", "address": "10.0.0.9"}),
    "POST api.host_confirm_key": command(path="host", fine=frozenset({409}), body={"fingerprint": "SHA256:" + "A" * 43}),
    "POST api.host_upgrade": command(path="host", fine=frozenset({409}), body={}),  # there is no package
    "POST api.cluster_upgrade": command(path="cluster", fine=frozenset({409}), body={}),
    "POST api.cluster_cancel_upgrade": command(path="cluster", fine=frozenset({409}), body={}),
    "POST api.cluster_set_cpu": command(path="cluster", body={"cpu_model": ""}),
    "POST api.cluster_require_networks": command(path="cluster", body={"networks": ["lan"]}),
    "POST api.host_activate": command(path="host", fine=frozenset({409}), body={}),  # it is up
    # no other host is up that could reach its power agent
    **{f"POST api.host_{verb}": command(path="host", fine=frozenset({409}), body={})
       for verb in ("fence", "reboot", "power_on", "power_off", "test_power", "confirm_rebooted")},
    "POST api.host_dumping": command(path="host", body={}),
    "POST api.host_add_power_agent": command(path="host", body={
        "type": "simulated", "address": "10.0.0.9", "password": "let me in", "options": ["plug=2"]}),
    "POST api.poweragent_edit": command(path="poweragent", body={"order": 2}),
    "POST api.poweragent_remove": command(path="poweragent", body={}),
    "POST api.cluster_edit_fencing": command(path="cluster", body={"fencing_at_once": 2}),
    "POST api.vm_edit_availability": command(path="own_vm", body={"high_availability": True, "priority": 100}),
    "POST api.host_remove": command(path="host", fine=frozenset({409}), body={}),
    "POST api.storagedomain_import": command(body={"host_id": "@host", "path": "/srv/old", "name": "old"}),
    "POST api.storagedomain_create": command(body={"name": "new", "host_id": "@host", "path": "/srv/new", "type": "posixfs"}),
    "POST api.storagedomain_activate": command(path="storagedomain", fine=frozenset({409}), body={}),  # it is active
    "POST api.cluster_create": command(body={"name": "new", "data_center_id": "@datacenter"}),
    "POST api.datacenter_create": command(body={"name": "new"}),
    "POST api.cluster_edit": command(path="cluster", body={"description": "Fast ones"}),
    "POST api.cluster_set_policy": command(path="cluster", body={"scheduling_policy": "power_saving"}),
    "GET api.vm_placement": Case("keeper", path={"id": "@vm"}),
    "POST api.vm_pin": command(path="own_vm", body={"host_ids": []}),
    "POST api.affinitygroup_create": command(body={"name": "db", "cluster_id": "@cluster", "vms_rule": "positive"}),
    "POST api.affinitygroup_edit": command(path="affinitygroup", body={"vms_enforcing": True}),
    "POST api.affinitygroup_remove": command(path="affinitygroup", body={}),
    "POST api.affinitylabel_create": command(body={"name": "fast", "host_ids": []}),
    "POST api.affinitylabel_edit": command(path="affinitylabel", body={"host_ids": []}),
    "POST api.affinitylabel_remove": command(path="affinitylabel", body={}),
    "POST api.schedulingpolicy_create": command(body={"name": "calm", "weights": ["idle=2"]}),
    "POST api.schedulingpolicy_remove": command(path="schedulingpolicy", body={}),
    "POST api.cancel_task": command("alice", "task", body={}),
}
for _kind in COLLECTIONS.values():
    # a list is for everybody and shows what they may see: bob's are looked at below
    TABLE[f"GET api.{_kind.plural}_list"] = everybody()
    TABLE[f"GET api.{_kind.kind}_get"] = Case(path={"id": f"@{_kind.kind}"})

PAGES: dict[str, Case] = {
    "GET user.login": open_to_all(),
    "POST user.sign_in": open_to_all(frozenset({403}), form={"user": "alice", "password": "wrong"}),
    "POST user.sign_out": everybody(frozenset({303}), form={}, stranger=frozenset({401, 403})),
    "POST user.sign_out_everywhere": everybody(frozenset({303}), form={}, stranger=frozenset({401, 403})),
    "GET user.desktops": everybody(stranger=TO_SIGN_IN),
    "GET user.desktops_page": everybody(stranger=TO_SIGN_IN),
    "POST user.connect": send("alice", path=DESKTOP, wrong="root", no=frozenset({303, 403, 404})),
    "GET user.console": page("alice", path=DESKTOP, wrong="root"),
    "GET user.progress": page("alice", path=DESKTOP, wrong="root"),
    "GET user.lease_bar": page("alice", path=DESKTOP, wrong="root"),
    "POST user.act": send("alice", path={**DESKTOP, "verb": "extend"}, wrong="root", no=frozenset({303, 403, 404})),
    "POST user.viewer_file": send("alice", OK, path=DESKTOP, wrong="root", no=frozenset({303, 403, 404})),
    "GET user.screen": page("alice", frozenset({204, 404}), path={"vm_id": "@vm"}),
    "GET bookings.mine": everybody(stranger=TO_SIGN_IN),
    "GET bookings.ask": everybody(stranger=TO_SIGN_IN),
    "POST bookings.book": send("alice", form=BOOK_FORM),
    "GET bookings.one": page("alice", path=BOOKING),
    "POST bookings.change": send("alice", path=BOOKING, form=BOOK_FORM),
    "POST bookings.cancel": send("alice", path=BOOKING, no=frozenset({303, 404})),
    "GET bookings.calendar": page("alice", path=DESKTOP),
    "GET bookings.calendar_file": page("alice", path=DESKTOP),
    "GET bookings.booking_file": page("alice", path=BOOKING),
    "GET user.why": page("alice", path={"id": "@lease"}),
    "GET user.account": everybody(stranger=TO_SIGN_IN),
    "POST user.create_token": everybody(form={"token_name": "x", "may": "all", "days": "30"}, stranger=frozenset({401, 403})),
    "POST user.revoke_token": send("keeper", path={"id": "@token"}),
    "POST user.end_session": send("alice", path={"id": "@session"}),
    "POST user.change_password": everybody(frozenset({303, 422}), form={}, stranger=frozenset({401, 403})),
}
# pages and forms of the administration; what they show and do is asked in full by test_admin.py
ADMINISTRATION: dict[str, Case] = {
    "GET map.page": page(),
    "GET admin.dashboard": page("keeper"),
    "GET admin.table": page("keeper", path={"plural": "pools"}),
    "GET admin.detail": page("keeper", path={"plural": "pools", "id": "@pool"}),
    "GET admin.ask": page("keeper", path={"command": "pool.edit"}, query={"pool_id": "@pool"}),
    "GET admin.question": page("keeper", path={}, query={
        "plural": "leases", "id": "@lease", "command": "lease.reclaim", "word": "Take back"}),
    "POST admin.do": send("keeper", path={"command": "lease.reclaim"}, form={"lease_id": "@lease"}),
    "GET many.bar": page("keeper", path={"plural": "leases"}, query={"id": "@lease"}),
    "GET many.question": page("keeper", path={"plural": "leases"}, query={
        "id": "@lease", "command": "lease.reclaim", "word": "Take back"}),
    "POST many.do": send("keeper", path={"plural": "leases"}, form={
        "id": "@lease", "command": "lease.reclaim", "word": "Take back"}),
    "GET people.find": page("keeper"),
    "GET people.entitle": page("keeper", path=DESKTOP),
    "POST people.entitle": send("keeper", path=DESKTOP, form={"directory": "@directory", "who": "user:@bob"}),
    "POST people.disentitle": send("keeper", path={"id": "@pool", "permission_id": "@permission"}),
    "GET people.give_role": page(),
    "POST people.give_role": send(form={"on": "system:", "role": "auditor", "directory": "@directory", "who": "user:@bob"}),
    "GET people.add_host": page(),
    "GET people.reinstall_host": page(query={"host_id": "@host"}),
    "POST people.reinstall_host": send(fine=frozenset({409}), form={"host_id": "@host"}),  # it is up
    "POST people.add_host": send(fine=OK, form={"host_name": "beta", "cluster_id": "@cluster"}),
    "GET people.create_user": page(),
    "POST people.create_user": send(form={"user_name": "new", "password": "a good long password"}),
    "POST people.set_password": send(path={"id": "@user"}, form={"password": "a good long password"}),
    "GET people.add_directory": page(),
    "POST people.add_directory": send(fine=frozenset({422})),
    "POST people.test_directory": send(path={"id": "@directory"}),
    "GET access.add_device": page(),
    "POST access.add_device": send(fine=OK, form={"device_name": "Lab 1"}),
    "POST access.renew_device": send(fine=OK, path={"id": "@device"}),
    "GET access.test_rules": page("keeper"),
}
# at a thin client: alice's session was begun at Ward 3, root's was not, and is led to the prompt like a stranger
WARD = {DEVICE_COOKIE: "the token of Ward 3"}


def at_ward(fine: frozenset[int] = OK, **known: Any) -> Case:
    return Case("alice", fine, "root", TO_SIGN_IN, **{"stranger": TO_SIGN_IN, "cookies": WARD, **known})


def sent_at_ward(**known: Any) -> Case:
    return at_ward(frozenset({303}), form={}, stranger=frozenset({403}), **known)


KIOSK: dict[str, Case] = {
    "GET kiosk.enroll": open_to_all(),
    "POST kiosk.redeem": open_to_all(frozenset({403}), form={"code": "wrong"}),
    "GET kiosk.home": open_to_all(cookies=WARD),
    "GET kiosk.pulse": open_to_all(frozenset({204}), cookies=WARD),
    "POST kiosk.sign_in": open_to_all(frozenset({403}), cookies=WARD, form={"user": "alice", "password": "wrong"}),
    "GET kiosk.list_desktops": at_ward(),
    "GET kiosk.console": at_ward(path=DESKTOP),
    "GET kiosk.progress": at_ward(path=DESKTOP),
    "POST kiosk.connect": sent_at_ward(path=DESKTOP),
    "POST kiosk.give_back": sent_at_ward(path=DESKTOP),
    "POST kiosk.sign_out": sent_at_ward(),
}
TABLE |= PAGES | ADMINISTRATION | KIOSK

APP = create_app(Parts(Settings(), new_sessions("postgresql+psycopg2://"), Keyring(b"k" * 32), ToldClock(), assembly.COMMANDS))
ROUTES = sorted({
    f"{method} {rule.endpoint}" for rule in APP.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
})


@pytest.fixture(scope="module")
def shared(cluster: Cluster, pki: Pki) -> Iterator[Place]:
    name = cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    files = pki.issue("gateway", "gateway")
    yield Place(sessions, ToldClock(), ca_file=str(files.ca_file), hosts_ca_file=str(files.ca_file),
                tls_cert_file=str(files.cert_file))
    sessions.kw["bind"].dispose()
    cluster.drop(name)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """The place as it was made: what a route does is undone afterwards, its commits are savepoints."""
    kept = shared.parts.sessions
    with kept.kw["bind"].connect() as connection:
        whole = connection.begin()
        undone = sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        object.__setattr__(shared.parts, "sessions", undone)
        yield shared
        object.__setattr__(shared.parts, "sessions", kept)
        whole.rollback()


def test_the_table_has_every_route_and_no_other() -> None:
    assert sorted(TABLE) == ROUTES


def ask(place: Place, route: str, who: str | None) -> TestResponse:
    """The route as this person asks it."""
    case, method = TABLE[route], route.split()[0]
    ids = {**place.ids, **place.people}

    def real(value: Any) -> Any:
        return re.sub("@(\\w+)", lambda found: str(ids[found[1]]), value) if isinstance(value, str) else value

    with place.app.test_request_context(base_url="https://leasehold.test:8443"):
        path = place.app.url_for(route.split()[1], **{k: real(v) for k, v in case.path.items()}, _external=False)
    known: dict[str, Any] = {"query_string": {k: real(v) for k, v in case.query.items()}}
    if case.body is not None:
        known["json"] = {k: real(v) for k, v in case.body.items()}
    if case.form is not None:
        known["data"] = {k: real(v) for k, v in case.form.items()}
    asker = place.as_(who)
    for name, value in case.cookies.items():
        asker.client.set_cookie(name, value, domain="leasehold.test", secure=True, path="/")
    return asker.ask(method, path, headers=case.headers, **known)


def test_every_right_and_wrong_person_is_known() -> None:
    for route, case in TABLE.items():
        assert case.right or case.stranger != NOBODY or "session" in route, f"{route} would be tried by nobody"


@pytest.mark.parametrize("route", sorted(TABLE))
def test_a_stranger(place: Place, route: str) -> None:
    said = ask(place, route, None)
    assert said.status_code in TABLE[route].stranger, said.text[:300]
    said.close()
    if said.status_code == 303:
        assert said.headers["Location"].startswith(("/sign-in", "/kiosk"))


@pytest.mark.parametrize("route", [route for route, case in sorted(TABLE.items()) if case.wrong])
def test_the_wrong_user(place: Place, route: str) -> None:
    case, before = TABLE[route], counts(place)
    said = ask(place, route, case.wrong)
    assert said.status_code in case.no, said.text[:300]
    assert counts(place) == before, "a refusal changes nothing"


@pytest.mark.parametrize("route", [route for route, case in sorted(TABLE.items()) if case.right])
def test_the_right_user(place: Place, route: str) -> None:
    case = TABLE[route]
    said = ask(place, route, case.right)
    assert said.status_code in case.fine, said.text[:600]
    said.close()


@pytest.mark.parametrize("plural", sorted(COLLECTIONS))
def test_lists_show_nothing_to_who_has_nothing_and_all_to_who_may_see_all(place: Place, plural: str) -> None:
    own = {"users", "sessions"}  # a person is somebody, too
    bobs = place.as_("bob").get(f"/api/v1/{plural}").get_json()
    assert bobs["total"] == len(bobs["items"]) == (1 if plural in own else 0)
    if plural in own:
        assert {bobs["items"][0].get("user_id"), bobs["items"][0]["id"]} & {str(place.people["bob"])}
    ids = [item["id"] for item in place.as_("root").get(f"/api/v1/{plural}?max=500").get_json()["items"]]
    assert str(place.ids[next(k for k, kind in BY_KIND.items() if kind.plural == plural)]) in ids


def counts(place: Place) -> dict[str, int]:
    """How many rows there are of what a person can see or do."""
    tables = ("task", "permission", "user_account", "pool", "vm", "host", "lease", "event", "ticket", "resource_lock", "booking")
    with place.parts.sessions() as tx:
        return {name: tx.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0 for name in tables}
