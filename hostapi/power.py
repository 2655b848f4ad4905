"""What manager and host agree on about power agents: which programs are none, and which options nobody may set."""

import re

# programs called fence_… that switch no power, or prove nothing
NO_POWER = frozenset({"ack_manual", "check", "dummy", "heuristics_ping", "kdump", "kdump_send", "legacy", "mpath", "na",
                      "sanlock", "sanlockd", "sbd", "scsi", "tool", "watchdog"})  # fmt: skip
TYPE = re.compile(r"[a-z0-9_]{1,40}")
# what has a field of its own, and what would run another program or read or write a file
_OURS = re.compile(r"action|ip(addr)?|ipport|username|login|password|passwd|debug|verbose(_level)?|version|help|quiet"
                   r"|.*(_path|_script|_file)|ssh_options")  # fmt: skip


def may_be_set(option: str) -> bool:
    """Whether an administrator may set this option of a power agent."""
    return not _OURS.fullmatch(option)
