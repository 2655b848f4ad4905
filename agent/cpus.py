"""Which processor this host can give to VMs, and what several have in common, as libvirt computes it."""

from __future__ import annotations

import hashlib
import logging
import threading
import time

import libvirt
import msgspec

from agent.cpuxml import cpu_of, cpu_xml, host_model, usable_models
from agent.virt import Hypervisor, said
from hostapi.types import Cpu, HostCpu
from hostapi.verbs import HostRefused

log = logging.getLogger("cpus")
ARCH, MACHINE = "x86_64", "q35"  # as `domxml` has them
AGAIN_S, RETRY_S = 600.0, 30.0  # a newer QEMU or microcode may come while the agent runs
PROBE_S = 120.0  # libvirt tries all of its QEMUs when it was just installed
UNSUPPORTED = ("unsupported", "This hypervisor does not tell which processors it can give to VMs.")


class Cpus:
    """`digest` is cheap and waits for nothing: it is read anew in a thread of its own."""

    def __init__(self, hypervisor: Hypervisor, virt_type: str) -> None:
        self.hypervisor, self.virt_type = hypervisor, virt_type
        self._digest, self._due, self._lock = "", 0.0, threading.Lock()

    def digest(self) -> str:
        """A digest of what `host_cpu` answers; nothing while it is not known."""
        with self._lock:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + AGAIN_S
                threading.Thread(target=self._look, name="cpus", daemon=True).start()
            return self._digest

    def host_cpu(self) -> HostCpu:
        """The processor that this host can give to VMs."""

        def read(connection: libvirt.virConnect) -> HostCpu:
            try:
                capabilities = connection.getDomainCapabilities(None, ARCH, MACHINE, self.virt_type)
            except libvirt.libvirtError as no:
                if no.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                    raise HostRefused(*UNSUPPORTED) from no
                raise
            if not (own := host_model(capabilities)):
                raise HostRefused(*UNSUPPORTED)
            return HostCpu(self._common(connection, [own]), usable_models(capabilities))

        return self.hypervisor.call("asking for its processor", read, PROBE_S, lane="moves")

    def common_cpu(self, cpus: tuple[Cpu, ...]) -> Cpu:
        """The most that all of these have."""
        wanted = [cpu_xml(cpu) for cpu in cpus]
        return self.hypervisor.call(
            "comparing processors", lambda connection: self._common(connection, wanted), PROBE_S, lane="moves"
        )

    def _common(self, connection: libvirt.virConnect, cpus: list[str]) -> Cpu:
        def baseline(flags: int) -> str:
            # what keeps a VM from being migrated is left out
            flags |= libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
            answer: str = connection.baselineHypervisorCPU(None, ARCH, MACHINE, self.virt_type, cpus, flags)
            return answer

        try:
            return cpu_of(baseline(0), baseline(libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES))
        except libvirt.libvirtError as no:
            if no.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                raise HostRefused(*UNSUPPORTED) from no
            if no.get_error_domain() == libvirt.VIR_FROM_CPU or no.get_error_code() in (
                libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_CPU_INCOMPATIBLE,
            ):  # fmt: skip
                raise HostRefused("no_common_cpu", f"These processors have nothing in common: {said(no)}") from no
            raise

    def _look(self) -> None:
        try:
            known = self.host_cpu()
            self._digest = hashlib.sha256(msgspec.json.encode(known)).hexdigest()[:16]
        except HostRefused as no:
            log.info("the processor is not known: %s", no)
            if no.failure.code != UNSUPPORTED[0]:
                with self._lock:
                    self._due = time.monotonic() + RETRY_S
