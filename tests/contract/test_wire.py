"""The wire: what a step row holds becomes what a verb is called with, and an answer comes back typed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from hostapi.types import (
    BootSpec,
    ContentReport,
    Cpu,
    Definition,
    DiskSpec,
    DomainFound,
    FenceSpec,
    GuestReport,
    HookOutput,
    HostCpu,
    HostReport,
    MigrationReport,
    MigrationSpec,
    NicSpec,
    Peer,
    PowerKind,
    PowerOption,
    PowerReport,
    PowerSpec,
    Problem,
    Screen,
    Secret,
    StorageReport,
    TakenReport,
    TicketSpec,
    UploadSpec,
    VmEnd,
    VmReport,
    VmSpec,
    VolumeFound,
    VolumeSpec,
)
from hostapi.verbs import QUESTIONS, STEPS
from hostapi.wire import BadRequest, api_version, decode_args, decode_result, encode_args

DISK = DiskSpec(uuid4(), "/srv/a/volumes/x.qcow2", "raw", "scsi", True)
SPEC = VmSpec(
    uuid4(), "Büro 1 & <2>", 512, 2, "kvm", (DISK,), (NicSpec("52:54:00:00:00:01", "br0"),),
    BootSpec("/srv/k", "/srv/i", "quiet"), ("vnc",), "qxl",
)
CPU = Cpu("Haswell", "Intel", ("clwb",), ("hle",), ("avx", "clwb"))
VOLUME = VolumeSpec(uuid4(), "/srv/a", 64, "/srv/a/base.qcow2")
TICKET = TicketSpec(uuid4(), "spice", Secret("display:1"), 30, 1_700_000_000_123)
ARGS: dict[str, dict[str, Any]] = {
    "start_vm": {"spec": SPEC},
    "await_boot": {"vm_id": uuid4(), "timeout_s": 60},
    "shutdown_vm": {"vm_id": uuid4(), "timeout_s": 60},
    "stop_vm": {"vm_id": uuid4()},
    "set_ticket": {"vm_id": uuid4(), "ticket": TICKET},
    "attach_domain": {"path": "/srv/a"},
    "attach_shared_domain": {"path": "/srv/a", "domain_id": uuid4(), "first": True},
    "keep_definitions": {"domain_path": "/srv/a", "definitions": (Definition("vm", uuid4(), 3, "{}"),)},
    "read_domain": {"path": "/srv/a"},
    "create_volume": {"volume": VOLUME},
    "reset_volume": {"volume": VOLUME},
    "take_upload": {"upload": UploadSpec(uuid4(), "/srv/a", "iso", 10, "0" * 64, 20)},
    **dict.fromkeys(("part_size", "content"), {"domain_path": "/srv/a", "volume_id": uuid4()}),
    "write_part": {"domain_path": "/srv/a", "volume_id": uuid4(), "offset": 5, "data": bytes(range(256))},
    "read_content": {"domain_path": "/srv/a", "volume_id": uuid4(), "mark": "m", "offset": 5, "count": 7},
    "resize_volume": {"vm_id": None, "domain_path": "/srv/a", "volume_id": uuid4(), "capacity_mib": 32},
    "delete_volume": {"domain_path": "/srv/a", "volume_id": uuid4()},
    "certify": {"certificate": "PEM", "ca": "PEM"},
    "suspend_vm": {"vm_id": uuid4(), "path": "/srv/a/saved/x.save"},
    "restore_vm": {"spec": SPEC, "path": "/srv/a/saved/x.save"},
    "discard_saved": {"path": "/srv/a/saved/x.save"},
    "reboot_vm": {"vm_id": uuid4(), "timeout_s": 60},
    "prepare_migration": {"spec": SPEC, "migration_id": uuid4(), "source_id": uuid4()},
    "migrate_vm": {"vm_id": uuid4(), "migration": MigrationSpec(uuid4(), 100, 300, "none"), "to": Peer(uuid4(), "beta", 1)},
    "settle_migration": {"vm_id": uuid4(), "migration_id": uuid4()},
    "reset_vm": {"vm_id": uuid4()},
    "pause_vm": {"vm_id": uuid4()},
    "unpause_vm": {"vm_id": uuid4()},
    "run_hook": {"hook": "greet", "args": ("--all", "ö"), "facts": {"VM_NAME": "w1"}, "timeout_s": 5},
    "plug_nic": {"vm_id": uuid4(), "nic": NicSpec("02:4c:48:00:00:01", "br0", linked=False)},
    "update_nic": {"vm_id": uuid4(), "nic": NicSpec("02:4c:48:00:00:01", "br0")},
    "unplug_nic": {"vm_id": uuid4(), "mac": "02:4c:48:00:00:01", "timeout_s": 20},
    "plug_disk": {"vm_id": uuid4(), "disk": DISK},
    "unplug_disk": {"vm_id": uuid4(), "disk": DISK, "timeout_s": 20},
    "grow_vm": {"vm_id": uuid4(), "memory_mib": 512, "vcpus": 2},
    "guest_action": {"vm_id": uuid4(), "action": "message", "text": "Bis später"},
    "snapshot_volume": {"vm_id": uuid4(), "domain_path": "/srv/a", "volume_id": uuid4(), "snapshot_id": uuid4()},
    "revert_volume": {"domain_path": "/srv/a", "volume_id": uuid4(), "snapshot_id": uuid4()},
    "delete_snapshot": {"vm_id": uuid4(), "domain_path": "/srv/a", "volume_id": uuid4(), "snapshot_id": uuid4()},
    "fence": {"spec": FenceSpec("off", (PowerSpec("ipmilan", "bmc1", 623, "admin", None, True, {"cipher": "3"}),))},
    "upgrade_agent": {"version": "2.0", "sha256": "ab", "package": Secret("package:ab")},
    "host_cpu": {},
    "common_cpu": {"cpus": (CPU, Cpu("Nehalem"))},
    "power_kinds": {},
    "power_kind": {"name": "ipmilan"},
    "report": {},
    "listen": {"seen": 7, "wait_s": 10},
    "screens": {"vm_ids": (uuid4(), uuid4())},
}
VM = VmReport(uuid4(), "w1", "running", GuestReport("w1", "Debian", ("10.0.0.1",), ("alice",)), 512, 1.5)
STORAGE = StorageReport("/srv/a", False, 10, 0, "It is broken.")
RESULTS: dict[str, Any] = {
    "start_vm": VM,
    "await_boot": VM.guest,
    "shutdown_vm": None,
    "stop_vm": None,
    "set_ticket": None,
    "attach_domain": STORAGE,
    "attach_shared_domain": STORAGE,
    "keep_definitions": (3, 4),
    "read_domain": DomainFound(
        "/srv/a", uuid4(), (Definition("vm", uuid4(), 3, "{}"),), (VolumeFound(uuid4(), "/srv/a/x", 16, ("/b",), ("s",)),),
        (Problem("torn", "x.meta", "It is torn."),),
    ),
    "create_volume": "/srv/a/volumes/x.qcow2",
    "reset_volume": "/srv/a/volumes/x.qcow2",
    "resize_volume": None,
    "take_upload": TakenReport("/srv/a/volumes/x.qcow2", 5),
    **dict.fromkeys(("part_size", "write_part"), 77),
    "content": ContentReport(5, "m"),
    "read_content": bytes(range(256)),
    "delete_volume": None,
    "certify": None,
    **dict.fromkeys(("suspend_vm", "discard_saved", "reboot_vm", "reset_vm", "guest_action", "revert_volume", "delete_snapshot")),
    **dict.fromkeys(("pause_vm", "unpause_vm", "plug_nic", "update_nic", "unplug_nic", "plug_disk", "unplug_disk", "grow_vm")),
    "run_hook": HookOutput("hello\n", True),
    "restore_vm": VM,
    "prepare_migration": None,
    "migrate_vm": MigrationReport(1500, 80, 96),
    "settle_migration": VM,
    "snapshot_volume": True,
    "report": HostReport(
        "h", "b", "1", "q", "qemu", 4, 1024, 512, 0.5, (VM,), (STORAGE,), (VmEnd(uuid4(), "crashed"),), ("lan",)
    ),
    "listen": 8,
    "fence": PowerReport("off"),
    "upgrade_agent": None,
    "host_cpu": HostCpu(CPU, ("Haswell", "Nehalem")),
    "common_cpu": CPU,
    "power_kinds": ("ipmilan", "redfish"),
    "power_kind": PowerKind("ipmilan", "IPMI", (PowerOption("cipher", "integer", "3", "Which cipher"),)),
    "screens": (Screen(uuid4(), 480, 270, bytes(range(256))),),
}


def test_every_verb_is_covered() -> None:
    assert set(ARGS) == set(RESULTS) == {*STEPS, *QUESTIONS}


@pytest.mark.parametrize("verb", ARGS)
def test_arguments_survive_a_step_row(verb: str) -> None:
    row = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(ARGS[verb])))  # as JSONB stores it
    sent = msgspec.json.decode(msgspec.json.encode(encode_args(verb, row, lambda name: f"revealed {name}")))
    got = decode_args(verb, sent)
    hidden = {"ticket": None, "package": None}  # what a secret is in is not what it was: that was filled in
    assert {**got, **hidden} == {**ARGS[verb], **hidden} if verb in ("set_ticket", "upgrade_agent") else got == ARGS[verb]


@pytest.mark.parametrize("verb", RESULTS)
def test_results_come_back_typed(verb: str) -> None:
    row = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(RESULTS[verb])))
    assert decode_result(verb, row) == RESULTS[verb]


def test_a_secret_is_filled_in_at_the_wire_and_nowhere_else() -> None:
    row = msgspec.to_builtins(ARGS["set_ticket"])
    assert "revealed" not in str(row)
    got = decode_args("set_ticket", encode_args("set_ticket", row, lambda name: f"revealed {name}"))
    assert got["ticket"].password.value == "revealed display:1"
    assert "revealed" not in repr(got)
    package = encode_args("upgrade_agent", msgspec.to_builtins(ARGS["upgrade_agent"]), lambda name: f"revealed {name}")["package"]
    assert package == {"name": "package:ab", "value": "revealed package:ab"}
    assert row == msgspec.to_builtins(ARGS["set_ticket"])  # the row's own arguments are left alone


def test_a_name_and_a_value_elsewhere_are_no_secret() -> None:
    spec = msgspec.to_builtins(SPEC)
    sent = encode_args("start_vm", {"spec": spec}, lambda name: pytest.fail(f"{name} revealed"))
    assert sent["spec"]["name"] == SPEC.name


@pytest.mark.parametrize(("verb", "args"), [
    ("fly", {}), ("stop_vm", {}), ("stop_vm", {"vm_id": 5}), ("stop_vm", {"vm_id": str(uuid4()), "x": 1}),
    ("start_vm", {"spec": {"name": "w"}}), ("create_volume", {"volume": msgspec.to_builtins(VOLUME) | {"capacity_mib": "1"}}),
])
def test_what_does_not_fit_the_signature_is_refused(verb: str, args: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        encode_args(verb, args, str)


def test_the_version_is_the_same_in_every_process() -> None:
    code = "from hostapi.wire import api_version; print(api_version())"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == api_version()
