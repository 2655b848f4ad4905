"""Sentences about VMs outside of pools: which there are, where they start, where they are and why."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from backend.clusters.models import Cluster, CpuKind
from backend.db import get
from backend.errors import Refused
from backend.hosts.models import Host
from backend.placement.explain import outlook
from backend.placement.models import HostLoad
from backend.tasks.models import Task
from backend.tasks.submit import cancel
from backend.vms.models import Vm
from sim import commands, make
from sim.installation import LIVE
from sim.script import sentence
from sim.story import Story

_LIST = r"[\w.-]+(?:(?:, ?| and )[\w.-]+)*"


def named(words: str) -> list[str]:
    """w1, w2 and w5..w7 as single names."""
    return [name for word in re.split(r", ?| and ", words) for name in commands.numbered(word)]


@sentence(rf"(?P<names>{_LIST}) (?:is a VM|are VMs) of (?P<mib>\d+) MiB(?: with (?P<vcpus>\d+) processors?)?",
          "w1 is a VM of 1000 MiB", "w1..w5 are VMs of 1000 MiB with 2 processors")
def vms(story: Story, names: str, mib: str, vcpus: str | None = None) -> None:
    with story.place.tx() as tx:
        for name in named(names):
            make.a_vm(tx, name, memory_mib=int(mib), vcpus=int(vcpus or 1))


@sentence(rf"start (?P<names>{_LIST})", "start w1", "start w1..w5")
def start(story: Story, names: str) -> None:
    for name in named(names):
        try:
            with story.place.tx() as tx:
                commands.submit_as_admin(tx, story, "vm.start", {"vm_id": commands.require(tx, story, "vm", name)})
        except Refused as no:
            story.log.say(f"{name} does not start: {no.message}")


@sentence(r"explain (?P<name>[\w.-]+)", "explain w1")
def explain(story: Story, name: str) -> None:
    with story.place.tx() as tx:
        told = outlook(tx, get(tx, Vm, commands.require(tx, story, "vm", name)))
    story.log.say(f"{name}: {told.sentence} (policy {told.policy})")
    for host in told.hosts:
        if host.score is None:
            story.log.say(f"  {host.host}: {' '.join(host.reasons)}")
        else:
            parts = ", ".join(f"{part} {value:.2f}" for part, value in host.parts.items())
            story.log.say(f"  {host.host} scores {host.score:.2f}: {parts}")


@sentence(r"the task of (?P<name>[\w.-]+) is cancelled", "the task of w1 is cancelled")
def cancelled(story: Story, name: str) -> None:
    with story.place.tx() as tx:
        live = sa.select(Task).where(Task.object_id == commands.require(tx, story, "vm", name), Task.state.in_(LIVE))
        cancel(tx, tx.scalars(live).one(), story.clock.now())


@sentence(r"look at the hosts", "look at the hosts")
def hosts(story: Story) -> None:
    with story.place.tx() as tx:
        rows = sa.select(Host.id, Host.name, Host.state, Host.memory_mib, HostLoad.memory_mib).join(HostLoad)
        for id, name, state, mib, promised in tx.execute(rows.order_by(Host.name)):
            there = sa.select(Vm.name).where(Vm.host_id == id, Vm.state != "down").order_by(sa.func.length(Vm.name), Vm.name)
            vms = ", ".join(tx.scalars(there)) or "no VM"
            story.log.say(f"{name} is {state.replace('_', ' ')}: {vms}; {promised:,} of {mib:,} MiB promised")


@sentence(r"look at the processors", "look at the processors")
def processors(story: Story) -> None:
    with story.place.tx() as tx:
        given = aliased(CpuKind)
        rows = (
            sa.select(Host.name, Host.state, CpuKind.model, Host.why).join(CpuKind, CpuKind.id == Host.cpu_id).order_by(Host.name)
        )
        for name, model, chosen in tx.execute(
            sa.select(Cluster.name, given.model, Cluster.cpu_model).outerjoin(given, given.id == Cluster.cpu_id)
        ):
            how = "as chosen" if chosen else "automatically"
            story.log.say(f"cluster {name} gives its VMs the CPU {model or 'of their hosts'}, {how}")
        for name, state, model, why in tx.execute(rows):
            story.log.say(f"{name} has the CPU {model} and is {state.replace('_', ' ')}{': ' + why if why else ''}")
        for name, model in tx.execute(
            sa.select(Vm.name, CpuKind.model).join(CpuKind, CpuKind.id == Vm.cpu_id).where(Vm.state != "down").order_by(Vm.name)
        ):
            story.log.say(f"{name} runs with the CPU {model}")


@sentence(rf"(?P<name>[\w.-]+) has the networks? (?P<networks>{_LIST})",
          "alpha has the network lan", "alpha has the networks lan, dmz")
def networks(story: Story, name: str, networks: str) -> None:
    has = named(networks)
    story.place.sim.machines[name].host.networks = set(has)
    with story.place.tx() as tx:
        get(tx, Host, commands.require(tx, story, "host", name)).networks = has
