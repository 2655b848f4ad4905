"""Simulated hosts' side of an upgrade: another version, and the agent starts again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hostapi.types import Secret
from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.host import SimHost


class Upgrading:
    """The verb, for `SimHost`. `upgrade` is works, fails or vanishes: said to be done, and nothing comes of it."""

    agent_version, upgrade = "simulated", "works"

    def upgrade_agent(self, version: str, sha256: str, package: Secret, steering: Steering) -> None:
        """After the world's time for it the agent is another one."""
        me = cast("SimHost", self)
        if self.agent_version == version:
            return
        me._pause(me.world.upgrade_s, steering)
        if self.upgrade == "fails":
            sentence = f"Version {version} could not be installed: install failed (exit code 1). The agent runs on as it was."
            raise HostRefused("upgrade_failed", sentence)
        if self.upgrade == "works":
            self.agent_version = version
