"""Debian's fence agents, driven by our agent, against a real IPMI device in software that switches a process."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.power import PowerAgents
from hostapi.types import FenceSpec, PowerSpec, Secret
from hostapi.verbs import HostRefused
from tests.bmc import PASSWORD, USER, Bmc


class Patient:
    """A steering that nobody cancels."""

    def progress(self, per_cent: int, message: str = "") -> None: ...
    def check_cancelled(self) -> None: ...


POWER = PowerAgents("alpha")


def fence(action: Any, *agents: PowerSpec, power: PowerAgents = POWER) -> str:
    return power.fence(FenceSpec(action, agents, timeout_s=90), Patient()).power


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bmc, Path]]:
    folder = tmp_path_factory.mktemp("bmc")
    pid = folder / "pid"
    one = Bmc(
        folder,
        f"kill -0 $(cat {pid} 2>/dev/null) 2>/dev/null",
        f"{{ setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! > {pid}; }}",
        f"kill -9 $(cat {pid})",
    )
    yield one, pid
    one.stop()
    if pid.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def spec(bmc: Bmc, **changes: Any) -> PowerSpec:
    return replace(PowerSpec("ipmilan", bmc.address, bmc.port, USER, Secret("x", PASSWORD), True, {"cipher": "3"}), **changes)


def test_a_machine_is_switched_on_and_off(bmc: tuple[Bmc, Path]) -> None:
    device, pid = bmc
    assert fence("status", spec(device)) == "off"
    assert fence("on", spec(device)) == "on" and _lives(pid)
    assert fence("status", spec(device)) == "on"
    assert fence("off", spec(device)) == "off" and not _lives(pid)
    assert fence("off", spec(device)) == "off"  # asked twice


def test_a_wrong_password_is_said_and_not_told(bmc: tuple[Bmc, Path]) -> None:
    with pytest.raises(HostRefused) as no:
        fence("status", spec(bmc[0], password=Secret("x", "wrong secret")))
    assert no.value.failure.code == "not_fenced" and "wrong secret" not in no.value.failure.message
    assert f"ipmilan at {bmc[0].address} failed" in no.value.failure.message


def test_the_kinds_are_those_of_the_programs() -> None:
    kinds = POWER.kinds()
    assert {"ipmilan", "redfish", "apc_snmp"} <= set(kinds) and "dummy" not in kinds and "scsi" not in kinds
    kind = POWER.kind("ipmilan")
    names = {option.name for option in kind.options}
    assert kind.about == "Fence agent for IPMI" and {"cipher", "lanplus"} <= names
    assert not names & {"action", "password", "ipmitool_path", "password_script"}


@pytest.mark.parametrize("type", ["../bin/sh", "ipmilan ", "", "nothing", "dummy", "ack_manual"])
def test_nothing_else_is_ever_run(type: str) -> None:
    with pytest.raises(HostRefused) as no:
        fence("off", PowerSpec(type, "127.0.0.1"))
    assert no.value.failure.code == "no_power_program" and "install Debian's package fence-agents" in no.value.failure.message


@pytest.mark.parametrize("options", [{"ipmitool_path": "/bin/sh"}, {"colour": "red"}, {"cipher": "3\naction=on"}])
def test_options_that_are_none(options: dict[str, str]) -> None:
    with pytest.raises(HostRefused) as no:
        fence("off", PowerSpec("ipmilan", "127.0.0.1", options=options))
    assert no.value.failure.code == "bad_option"


def test_a_program_that_others_could_write_is_none(tmp_path: Path) -> None:
    program = tmp_path / "fence_mine"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o755)
    assert PowerAgents("alpha", tmp_path).kinds() == ("mine",)
    program.chmod(0o755 | stat.S_IWOTH)
    assert PowerAgents("alpha", tmp_path).kinds() == ()


def test_all_supplies_must_be_off(tmp_path: Path) -> None:
    """Two devices of one number; one of them is told “off” and says that it is on."""
    for name, code in (("obeys", 2), ("does_not", 0)):
        (tmp_path / f"fence_{name}").write_text(
            "#!/bin/sh\n[ \"$1\" = -o ] && { echo '<resource-agent shortdesc=\"x\"><parameters/></resource-agent>'; exit 0; }\n"
            f"case $(cat) in *action=status*) exit {code};; esac\nexit 0\n"
        )
        (tmp_path / f"fence_{name}").chmod(0o755)
    power = PowerAgents("alpha", tmp_path)
    assert fence("off", PowerSpec("obeys", "a"), power=power) == "off"
    with pytest.raises(HostRefused, match="says that it did not"):
        power.fence(FenceSpec("off", (PowerSpec("obeys", "a"), PowerSpec("does_not", "b")), timeout_s=1), Patient())
    assert fence("status", PowerSpec("obeys", "a"), PowerSpec("does_not", "b"), power=power) == "on"


def _lives(pid: Path) -> bool:
    status = Path(f"/proc/{pid.read_text().strip()}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
