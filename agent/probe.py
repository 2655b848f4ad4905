"""Whether KVM really runs guests here: a device that opens proves nothing, a kernel that boots does."""

from __future__ import annotations

import os
import selectors
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agent.shell import ProgramFailed, kill, start

QEMU = "qemu-system-x86_64"
SECTOR_S, KERNEL_S = 10.0, 60.0
MARK = b"leasehold"
# What Linux says after its drivers are up: it goes on to the initrd, or finds no root file system at all.
BOOTED = (
    b"Run /init as init",
    b"Run /sbin/init",
    b"Freeing unused kernel",
    b"Unable to mount root fs",
    b"LAB-READY",
)
MACHINE = [
    "-display",
    "none",
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-serial",
    "stdio",
    "-monitor",
    "none",
]


@dataclass(frozen=True)
class Proof:
    """Whether KVM works, and why it is believed."""

    works: bool
    why: str


def kvm_works(kernel: Path | str | None = None, initrd: Path | str | None = None) -> Proof:
    """Boot a tiny sector under KVM, then this Linux kernel. Without a kernel the answer is no: the sector alone
    also runs where no Linux does."""
    if not os.path.exists("/dev/kvm"):
        return Proof(False, "This machine has no /dev/kvm.")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Proof(False, "/dev/kvm cannot be opened; run as root or as a member of the group kvm.")
    if (no := _sector()) is not None:
        return Proof(False, f"A boot sector did not run under KVM: {no}.")
    if kernel is None:
        return Proof(False, "A boot sector runs under KVM, but no kernel was given to prove that Linux does.")
    if (no := _linux(str(kernel), str(initrd) if initrd else None)) is not None:
        return Proof(False, f"KVM opens, but Linux does not boot under it: {no}.")
    return Proof(True, "Linux boots under KVM.")


def boot_sector(text: bytes) -> bytes:
    """512 bytes that write the text to the first serial port and halt (16-bit real mode)."""
    code = bytearray()
    code += b"\xfa"  # cli
    code += b"\xba\xf8\x03"  # mov dx, 0x3f8: the port's data register
    for letter in text:
        code += bytes((0xB0, letter, 0xEE))  # mov al, letter; out dx, al
    code += b"\xf4\xeb\xfd"  # hlt; again
    return bytes(code.ljust(510, b"\0")) + b"\x55\xaa"


def _sector() -> str | None:
    with tempfile.NamedTemporaryFile(prefix="leasehold-probe-") as disk:
        disk.write(boot_sector(MARK))
        disk.flush()
        return _boots(
            ["-m", "16", "-drive", f"file={disk.name},format=raw,if=ide,readonly=off"], (MARK,), SECTOR_S
        )


def _linux(kernel: str, initrd: str | None) -> str | None:
    argv = ["-m", "256", "-kernel", kernel, "-append", "console=ttyS0 panic=-1 mitigations=off"]
    return _boots([*argv, *(["-initrd", initrd] if initrd else [])], BOOTED, KERNEL_S)


def _boots(argv: list[str], marks: tuple[bytes, ...], seconds: float) -> str | None:
    """Start QEMU and wait for one of these texts on the serial port; None, or why it did not come."""
    try:
        qemu = start([QEMU, "-accel", "kvm", "-cpu", "host", *MACHINE, *argv])
    except ProgramFailed as no:
        return str(no)
    assert qemu.stdout is not None and qemu.stderr is not None
    said, end = bytearray(), time.monotonic() + seconds
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(qemu.stdout, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                if not selector.select(left):
                    break
                chunk = os.read(qemu.stdout.fileno(), 65536)
                if not chunk:
                    return (qemu.stderr.read().decode(errors="replace").strip() or "QEMU ended")[-300:]
                said += chunk
                if any(mark in said for mark in marks):
                    return None
        return f"nothing of it was heard within {seconds:.0f} seconds"
    finally:
        kill(qemu)
