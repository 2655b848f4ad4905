"""Names every room of rows, every command and every loop of every package once."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from backend import changes, events
from backend.actions import models as action_rows
from backend.ca import Authority
from backend.calendars import models as calendar_rows
from backend.clock import Clock
from backend.clusters import models as cluster_rows
from backend.clusters.loop import ClusterCpus
from backend.devices import models as device_rows
from backend.directory import models as directory_rows
from backend.ha import models as ha_rows
from backend.ha.kinds import PowerKinds
from backend.ha.loop import HighAvailability, SoftFence, no_soft_fence
from backend.hosts import models as host_rows
from backend.hosts.certificates import Enroll, Renew
from backend.hosts.evacuation import Evacuate
from backend.hosts.history import HostHistory
from backend.hosts.loop import Monitor, Screens
from backend.hosts.packages import Packages
from backend.hosts.upgrading import RollUpgrades
from backend.hosts.watching import Watch
from backend.loops import Loop
from backend.placement import models as placement_rows
from backend.secrets import Keyring
from backend.storage import models as storage_rows
from backend.storage.keeping import KeepDefinitions
from backend.storage.loop import Reach
from backend.tasks import models as task_rows
from backend.vms import models as vm_rows
from broker import models as broker_rows
from pools import models as pool_rows

ROWS = (
    changes, events, action_rows, calendar_rows, cluster_rows, device_rows, directory_rows, ha_rows, host_rows, placement_rows,
    storage_rows, task_rows, vm_rows, broker_rows, pool_rows,
)  # fmt: skip

ROOMS_OF_COMMANDS = (
    "backend.actions.commands",
    "backend.calendars.commands",
    "backend.clusters.commands",
    "backend.clusters.cpu_commands",
    "backend.clusters.migration_commands",
    "backend.ha.commands",
    "backend.ha.fence",
    "backend.clusters.network_commands",
    "backend.hosts.alert_commands",
    "backend.hosts.upgrade_commands",
    "backend.hosts.commands",
    "backend.hosts.joining",
    "backend.hosts.install_commands",
    "backend.placement.commands.affinity",
    "backend.placement.commands.policies",
    "backend.storage.commands.domains",
    "backend.storage.commands.importing",
    "backend.vms.commands.power",
    "backend.vms.commands.pause",
    "backend.vms.commands.once",
    "backend.vms.commands.edit",
    "backend.vms.commands.vnics",
    "backend.vms.commands.disks",
    "backend.vms.commands.disk_sizes",
    "backend.vms.commands.uploads",
    "backend.vms.commands.suspend",
    "backend.vms.commands.migrate",
    "backend.vms.commands.reboot",
    "backend.vms.commands.guest",
    "backend.vms.commands.snapshots",
    "backend.vms.commands.define",
    "backend.vms.commands.templates",
    "backend.directory.commands.directories",
    "backend.directory.commands.people",
    "backend.directory.commands.permissions",
    "backend.devices.commands",
    "pools.commands",
    "pools.member_commands",
    "pools.booking_commands",
    "pools.spare_commands",
    "broker.access_commands",
    "pools.remake",
    "pools.rollout_commands",
    "broker.tickets",
)


def _commands() -> dict[str, type]:
    """Every command class by its wire name; two of one name is a mistake."""
    found: dict[str, type] = {}
    for room in ROOMS_OF_COMMANDS:
        if find_spec(room) is None:
            continue  # building site: room not there yet
        for thing in vars(import_module(room)).values():
            if (
                isinstance(thing, type)
                and thing.__module__ == room
                and isinstance(name := vars(thing).get("name"), str)
                and "permission" in vars(thing)
            ):
                if name in found:
                    raise ValueError(f"{name} is the name of two commands.")
                found[name] = thing
    return found


COMMANDS = _commands()


def loops(
    doors: Callable[[UUID, str, int], Any], clock: Clock, keyring: Keyring, authority: Authority,
    earlier: Callable[[UUID, str, int], Any] | None = None, *, quiet_s: float = 60.0, soft: SoftFence = no_soft_fence,
    packages: Packages | None = None, installer: Loop | None = None,
) -> list[Loop]:
    """Every loop of the manager. `doors` answers how a host is reached, `earlier` how one is that enrolled when hosts
    had no CA of their own. `authority` is the hosts' CA. For `quiet_s` after the start no host is fenced; `soft` restarts
    a host's agent from outside; `packages` is what agents are upgraded with, `installer` installs hosts over SSH."""
    from backend.directory.loop import RefreshDirectory
    from backend.history import Forget
    from backend.placement.loop import Balance, CheckLoads
    from backend.placement.sleeping import SavePower
    from backend.vms.stalls import StallsLoop
    from backend.vms.uploads import ForgetUploads
    from broker import consoles, decisions
    from broker.loop import TicketsLoop
    from pools import leaving
    from pools.booking_loop import BookingLoop
    from pools.loop import LeaseLoop
    from pools.quiet_loop import QuietLoop
    from pools.rollouts import RolloutLoop
    from pools.room import lacking
    from pools.spare_loop import SpareLoop

    return [
        Monitor(doors, clock),
        Watch(doors, clock),
        HighAvailability(clock, quiet_s, soft=soft),
        PowerKinds(doors),
        ClusterCpus(doors),
        HostHistory(clock),
        RollUpgrades(clock),
        *([packages] if packages else []),
        *([installer] if installer else []),
        Reach(doors, clock),
        KeepDefinitions(doors),
        ForgetUploads(clock),
        Evacuate(clock, leaving.free),
        leaving.LeaveLoop(clock),
        Enroll(authority, clock),
        Renew(authority, doors, clock, earlier=earlier),
        Screens(doors, clock),
        StallsLoop(clock),
        Forget(clock),
        Balance(clock),
        SavePower(clock, lacking),
        CheckLoads(),
        LeaseLoop(clock, decisions.served),
        SpareLoop(clock),
        RolloutLoop(clock),
        BookingLoop(clock),
        QuietLoop(clock, consoles.watched),
        TicketsLoop(clock),
        RefreshDirectory(clock, keyring),
    ]
