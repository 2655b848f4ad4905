"""Pure: what a custom action may be."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backend.errors import Invalid

TARGETS = ("vm", "host")
HOOK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MOST_ARGS, LONGEST_ARG = 20, 200


def require_action(name: str, target: str, hook: str, args: Sequence[str], timeout_s: int) -> None:
    """`Invalid` unless it can be so."""
    if not 1 <= len(name.strip()) <= 60 or not name.isprintable():
        raise Invalid("bad_name", "A custom action's name has between 1 and 60 characters.", fields=["action_name"])
    if target not in TARGETS:
        raise Invalid("bad_target", "A custom action is for a vm or for a host.", fields=["target"])
    if not HOOK.fullmatch(hook):
        raise Invalid("bad_hook", "Name a file in the hosts' folders of hooks, without its path: letters, digits, dots, dashes "
                      "and underscores.", fields=["hook"])  # fmt: skip
    if len(args) > MOST_ARGS or any(not 1 <= len(arg) <= LONGEST_ARG or not arg.isprintable() for arg in args):
        sentence = f"Up to {MOST_ARGS} arguments of up to {LONGEST_ARG} characters that can be printed."
        raise Invalid("bad_args", sentence, fields=["args"])
    if not 1 <= timeout_s <= 3600:
        raise Invalid("bad_timeout", "A hook may take between 1 and 3,600 seconds.", fields=["timeout_s"])
