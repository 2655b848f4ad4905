"""Sentences about the versions of hosts' agents."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.hosts.models import AgentPackage, Host
from sim.script import sentence
from sim.story import Story


@sentence(r"the package of agents is version (?P<version>\S+)", "the package of agents is version 2.0")
def package(story: Story, version: str) -> None:
    values = {"version": version, "sha256": "0" * 64}
    with story.place.tx() as tx:
        row = pg.insert(AgentPackage).values(one=True, **values)
        tx.execute(row.on_conflict_do_update(index_elements=["one"], set_=values))


@sentence(r"look at the agents", "look at the agents")
def agents(story: Story) -> None:
    with story.place.tx() as tx:
        for name, version, state in tx.execute(sa.select(Host.name, Host.agent_version, Host.state).order_by(Host.name)):
            story.log.say(f"{name} is {state.replace('_', ' ')} with agent {version}")
