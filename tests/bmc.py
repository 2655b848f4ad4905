"""A real IPMI device in software (Debian's ipmi_sim) whose chassis switches something of the test's."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

USER, PASSWORD = "admin", "open-sesame-42"  # no more than 16 bytes
CONFIG = """name "bmc"
set_working_mc 0x20
  startlan 1
    addr {address} {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{chassis} 0x20"
  user 1 true  ""      "test"     user  10 none md2 md5 straight
  user 2 true  "{user}" "{password}" admin 10 none md2 md5 straight
"""
EMULATOR = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""
CHASSIS = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in get|set) break;; *) shift;; esac; done
case "$1 $2 $3" in
 "get power "*) if {is_on}; then echo power:1; else echo power:0; fi;;
 "set power 1") {is_on} || {switch_on};;
 "set power 0") ! {is_on} || {switch_off};;
 "set reset 1") {switch_off}; {switch_on};;
 "get boot "*) echo boot:none;;
esac
exit 0
"""


class Bmc:
    """An IPMI device. The three given are shell commands: whether what it switches is on, and how it is switched."""

    def __init__(self, folder: Path, is_on: str, switch_on: str, switch_off: str, address: str = "127.0.0.1") -> None:
        self.address, self.port = address, _free_port(address)
        folder.mkdir(parents=True, exist_ok=True)
        chassis = folder / "chassis"
        chassis.write_text(CHASSIS.format(is_on=is_on, switch_on=switch_on, switch_off=switch_off))
        chassis.chmod(0o755)
        (folder / "lan.conf").write_text(
            CONFIG.format(address=address, port=self.port, chassis=chassis, user=USER, password=PASSWORD)
        )
        (folder / "emu").write_text(EMULATOR)
        (folder / "state").mkdir(exist_ok=True)
        command = ["ipmi_sim", "-c", folder / "lan.conf", "-f", folder / "emu", "-s", folder / "state", "-n", "-d"]
        self._log = (folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        end = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < end and self._process.poll() is None, (folder / "log").read_text()

    def stop(self) -> None:
        """It has no power any more itself."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _answers(self) -> bool:
        """An ASF ping is answered by every IPMI device."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            door.settimeout(0.5)
            try:
                door.sendto(bytes.fromhex("0600ff06000011be80000000"), (self.address, self.port))
                return bool(door.recv(100))
            except OSError:
                return False


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((address, 0))
        return int(one.getsockname()[1])
