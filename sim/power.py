"""Simulated power agents: a device beside each machine, which switches it as long as nothing is wrong with the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostapi.types import FenceSpec, PowerKind, PowerOption, PowerReport, PowerSpec
from hostapi.verbs import HostRefused

if TYPE_CHECKING:
    from sim.world import World

KIND = PowerKind("simulated", "Switches a simulated machine.", (PowerOption("plug", about="Which of its supplies."),))
PASSWORD = "let me in"


@dataclass
class SimBmc:
    """A power agent at the address `bmc-` and the machine's name; several addresses are `bmc2-…`: more supplies."""

    silent: bool = False
    stuck: bool = False  # accepts what it is told and does not do it
    deaf_for_on: bool = False
    supply_on: bool = True
    asked: int = 0


def fence(world: World, spec: FenceSpec) -> PowerReport:
    """What the power agents of this group say after they were asked; the machine is off when none of its supplies is on."""
    told = [_one(world, spec, agent) for agent in spec.agents]
    off, on = all(not one for one in told), any(told)
    if (spec.action == "off" and not off) or (spec.action == "on" and not all(told)):
        raise HostRefused("not_fenced", f"The power agent at {spec.agents[0].address} did not do it.")
    return PowerReport("on" if on else "off")


def _one(world: World, spec: FenceSpec, agent: PowerSpec) -> bool:
    """Whether this supply is on, afterwards."""
    bmc = world.bmc(agent.address)
    machine = world.machines.get(agent.address.partition("-")[2])
    bmc.asked += 1
    if agent.type != KIND.name:
        raise HostRefused("no_power_program", f"There is no fence_{agent.type} here: install Debian's package fence-agents.")
    if bmc.silent or machine is None:
        raise HostRefused("not_fenced", f"The power agent at {agent.address} does not answer.")
    if agent.password is None or agent.password.value != PASSWORD:
        raise HostRefused("not_fenced", f"The power agent at {agent.address} does not accept this password.")
    with world.lock:
        if spec.action == "off" and not bmc.stuck:
            bmc.supply_on = False
            if machine.powered and not any(other.supply_on for other in world.supplies_of(machine.host.name)):
                machine.power_off()
        if spec.action == "on" and not bmc.deaf_for_on:
            bmc.supply_on = True
            if not machine.powered and not machine.broken:
                machine.power_on()
        return bmc.supply_on and (machine.powered or spec.action == "on")
