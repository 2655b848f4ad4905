"""Builds the small guest: Debian's cloud kernel, busybox and the guest agent on a 4 MiB disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from standalone.trouble import Trouble

FILES = Path(__file__).parent / "guest"
KERNEL = "linux-image-cloud-amd64"
DRIVERS = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_balloon",
    "virtio-rng",
    "button",
    "evdev",
    "pvpanic-mmio",
)
# quiet and the rest save about a second of CPU when the processor is emulated
CMDLINE = (
    "console=ttyS0 console=tty1 quiet panic=5 mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog "
    "random.trust_cpu=on leasehold.name={name}"
)
MEMORY_MIB = 96
DISK_MIB = 64


@dataclass(frozen=True)
class GuestImage:
    """The three files of the guest; `disk` is the qcow2 that overlays are made on."""

    kernel: Path
    initrd: Path
    disk: Path


def build(folder: Path) -> GuestImage:
    """The guest's files in `folder`, made from Debian's packages; at once when they are there already."""
    image = image_in(folder)
    names = [path.name for path in (image.kernel, image.initrd, image.disk)]
    stamp = folder / "stamp"
    recipe = _recipe()
    if stamp.exists() and stamp.read_text() == recipe:
        return image
    cache = _cache()
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would download twice
        ready = cache / recipe
        if not ready.exists():
            with TemporaryDirectory(dir=cache) as work:
                made = Path(work) / "out"
                made.mkdir()
                _make(Path(work), made, cache)
                made.rename(ready)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(ready / name, folder / name)
    stamp.write_text(recipe)
    return image


def image_in(folder: Path) -> GuestImage:
    """The guest's files as `build` names them."""
    return GuestImage(folder / "vmlinuz", folder / "initrd.gz", folder / "root.qcow2")


def _cache() -> Path:
    """What several state folders and test runs share: downloads and finished images."""
    base = os.environ.get("LEASEHOLD_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "leasehold-guest"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _recipe() -> str:
    """Changes whenever this recipe does, so that an old image is not taken for a new one."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(FILES.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _run(*argv: str | Path, cwd: Path | None = None, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(a) for a in argv], cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise Trouble(f"The guest image could not be built: {Path(argv[0]).name}: {words[-1]}")
    return done.stdout


def _make(work: Path, out: Path, cache: Path) -> None:
    packages = work / "packages"
    try:
        files = _downloaded(cache)
    except Trouble:  # package lists that are missing, or older than what the mirror still has
        _run("apt-get", "update")
        files = _downloaded(cache)
    for file in files:
        _run("dpkg-deb", "-x", file, packages)
    shutil.copyfile(next(packages.glob("boot/vmlinuz-*")), out / "vmlinuz")
    _make_initrd(work / "initrd", packages, out / "initrd.gz")
    _make_disk(work / "root", packages, out / "root.qcow2")


def _downloaded(cache: Path) -> list[Path]:
    return [_package(name, cache) for name in (_real_kernel(), "qemu-guest-agent", "busybox-static")]


def _real_kernel() -> str:
    """The versioned package that the kernel's meta package asks for today."""
    found = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", KERNEL))
    if not found:
        raise Trouble(f"Debian's package {KERNEL} is not known here: see that /etc/apt names Debian 12's packages.")
    return found[1]


def _package(name: str, cache: Path) -> Path:
    """The .deb of this package, downloaded once, never installed."""
    if not (there := sorted(cache.glob(f"{name}_*.deb"))):
        # as root apt would drop to a user who may not write here, and warn about it
        _run("apt-get", "-o", "APT::Sandbox::User=root", "download", name, cwd=cache)
        there = sorted(cache.glob(f"{name}_*.deb"))
    return there[-1]


def _busybox(root: Path, packages: Path) -> None:
    """busybox and a link for each of its programs, in /bin and where scripts expect it, /sbin."""
    for folder in ("bin", "sbin", "usr/sbin", "etc", "lib", "proc", "sys", "dev", "run", "tmp", "root"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(packages / "bin/busybox", root / "bin/busybox")
    for program in _run(root / "bin/busybox", "--list").split():
        if program != "busybox" and not program.startswith(("dpkg", "rpm")):
            (root / "bin" / program).symlink_to("/bin/busybox")
            (root / "sbin" / program).symlink_to("/bin/busybox")


def _install(root: Path, name: str, place: str, mode: int = 0o755) -> None:
    target = root / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(FILES / name, target)
    target.chmod(mode)


def _make_initrd(root: Path, packages: Path, out: Path) -> None:
    _busybox(root, packages)
    _install(root, "init", "init")
    order: list[Path] = []
    for driver in DRIVERS:
        _with_dependencies(driver, packages / "lib/modules", order)
    for path in order:
        shutil.copy(path, root / "lib" / path.name)
    (root / "lib/order").write_text("".join(f"{path.name}\n" for path in order))
    names = "".join(f"./{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    archive = out.with_suffix("")
    with archive.open("wb") as file:
        subprocess.run(
            [root / "bin/busybox", "cpio", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root,
            input=names.encode(),
            stdout=file,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    _run("gzip", "-9", archive)


def _with_dependencies(name: str, modules: Path, order: list[Path]) -> None:
    """Append the module's file after those it needs; a module says what it needs in its own ELF text."""
    spellings = "[-_]".join(re.split("[-_]", name))
    path = next(modules.rglob(f"{spellings}.ko"))
    if path in order:
        return
    needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
    for needed in needs[1].decode().split(",") if needs else ():
        if needed:
            _with_dependencies(needed, modules, order)
    order.append(path)


def _make_disk(root: Path, packages: Path, out: Path) -> None:
    _busybox(root, packages)
    for name in ("rc", "dhcp", "banner", "desktop", "agent", "shutdown", "locked"):
        _install(root, name, f"sbin/{name}")
    for name, action in (("hook-message", "message"), ("hook-lock", "lock"), ("hook-log-out", "log_out")):
        _install(root, name, f"usr/share/leasehold/hooks/{action}")
    _install(root, "chpasswd", "usr/sbin/chpasswd")
    _install(root, "power-button", "etc/acpi/PWRF/00000080")
    for name in ("inittab", "profile", "os-release"):
        _install(root, name, f"etc/{name}", 0o644)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:Guest:/home/guest:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\nguest:x:1000:\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\nguest:*:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "var/log").symlink_to("/run")
    (root / "home/guest").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(root / "home/guest", 1000, 1000)
    agent = root / "usr/sbin/qemu-ga"
    shutil.copy(packages / "usr/sbin/qemu-ga", agent)
    for library in sorted(set(re.findall(r"/lib\S+", _run("ldd", agent)))):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    raw = out.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    # no journal: a stateless desktop has nothing to recover, and the disk stays small
    _run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root, raw)
    _run("qemu-img", "convert", "-O", "qcow2", "-c", raw, out)
    raw.unlink()


if __name__ == "__main__":
    print(build(Path(os.environ.get("STATE", "var/standalone")) / "guest"))
