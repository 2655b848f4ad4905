"""A VM leaves this host: its migration watched, steered by the policy, cancelled, and found out about after a crash."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from typing import Literal
from uuid import UUID

from agent.moves import Far, Moves, far
from agent.peers import tunnel
from agent.virt import HypervisorDown
from hostapi.types import MigrationReport, MigrationSpec, Peer
from hostapi.verbs import HostRefused, Steering

LOOK_S = 0.3
TWICE, MUCH = 2.0, 5.0  # its memory was sent so often: the policy acts; it is of no use
OVER_S = 120.0  # an earlier agent's migration ends by itself when its streams do


class Leaving:
    """One VM's way out."""

    def __init__(
        self, moves: Moves, vm_id: UUID, migration: MigrationSpec, to: Peer, context: Callable[[], ssl.SSLContext],
        steering: Steering,
    ) -> None:  # fmt: skip
        self.moves, self.vm_id, self.migration, self.to = moves, vm_id, migration, to
        self._context, self._steering = context, steering
        self._refused: HostRefused | None = None
        self._helped: set[str | int] = set()

    def go(self) -> MigrationReport:
        """Move it. Asked again after the agent was killed, it first sees that the earlier attempt is over."""
        self._await_the_earlier()
        self._steering.check_cancelled()
        if self.moves.hypervisor.runs(self.vm_id) is False:
            raise _not_here(self.vm_id)
        began = time.monotonic()
        with tunnel(self.migration.migration_id, self.to, self._context) as folder:
            there = far(self.vm_id, folder)
            try:
                there.throw_away()
                self._move(folder, there)
                report = there.go_on()
            finally:
                there.close()
        return report or MigrationReport(int(1000 * (time.monotonic() - began)), 0, 0)

    def _move(self, folder: object, there: Far) -> None:
        thread = threading.Thread(target=self._in_thread, args=(folder,), name=f"migrate {self.vm_id}", daemon=True)
        thread.start()
        cancelled: HostRefused | None = None
        while True:
            thread.join(LOOK_S)
            if not thread.is_alive():
                break
            try:
                self._watch()
                if cancelled is None:
                    self._steering.check_cancelled()
            except HypervisorDown:
                continue
            except HostRefused as no:
                cancelled = no
                self.moves.steer(self.vm_id, "abort")
        if self._refused is None:
            return
        if self._refused.failure.code == "vm_not_running":
            raise self._refused
        there.throw_away()
        self.moves.go_on(self.vm_id)  # it may have been paused so that it converges
        raise cancelled or self._refused

    def _in_thread(self, folder: object) -> None:
        try:
            self.moves.move(self.vm_id, self.migration, folder)  # type: ignore[arg-type]
        except HypervisorDown:
            self._refused = self._after_a_restart()
        except HostRefused as no:
            self._refused = no

    def _after_a_restart(self) -> HostRefused | None:
        """libvirtd died meanwhile: when it is back, it says whether the VM is still here."""
        while True:
            try:
                if not self.moves.hypervisor.runs(self.vm_id):
                    return _not_here(self.vm_id)
                return HostRefused("migration_failed", "The VM could not be migrated: libvirtd of its host was restarted.")
            except HypervisorDown:
                time.sleep(LOOK_S)

    def _watch(self) -> None:
        """Tell how far it is, and do what the policy says of a VM that changes faster than it is sent."""
        seen = self.moves.progress(self.vm_id)
        if seen is None or not seen[1]:
            return
        self._help(self.migration.downtime_ms)
        sent, whole = seen
        self._steering.progress(min(99, 100 * sent // whole), f"{sent >> 20:,} of {whole >> 20:,} MiB")
        times, how = sent / whole, self.migration.converge
        if times >= TWICE and how in ("suspend", "post_copy"):
            self._help("suspend" if how == "suspend" else "post_copy")
        elif times >= (MUCH if how == "auto_converge" else TWICE) and how in ("none", "auto_converge"):
            sentence = "The VM's memory changes faster than it can be sent. Raise the bandwidth, or choose another policy."
            raise HostRefused("not_converging", sentence)

    def _help(self, how: Literal["suspend", "post_copy"] | int) -> None:
        if how not in self._helped:
            self._helped.add(how)
            self.moves.steer(self.vm_id, how)

    def _await_the_earlier(self) -> None:
        end = time.monotonic() + OVER_S
        while self.moves.hypervisor.runs(self.vm_id) and self.moves.progress(self.vm_id) is not None:
            self.moves.steer(self.vm_id, "abort")
            if time.monotonic() > end:
                raise HostRefused("migration_failed", "An earlier migration of the VM does not end; look at its host's libvirtd.")
            time.sleep(LOOK_S)
        self.moves.go_on(self.vm_id)


def _not_here(vm_id: UUID) -> HostRefused:
    return HostRefused("vm_not_running", "The VM does not run on this host (any more).", vm_id=str(vm_id))
