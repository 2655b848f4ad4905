"""Pure: the stages of an installation over SSH, and what a fingerprint of an SSH key looks like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from backend.errors import Invalid

STAGES = ("connect", "look", "copy", "install", "enroll")
CONFIRM_WITHIN = timedelta(hours=1)
PASSING = ("unreachable", "connection_lost", "no_answer")  # a host may be away for a moment after it was there
PATIENCE = timedelta(minutes=10)
_FOLDER = re.compile(r"(/[A-Za-z0-9._-]+)+")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def stage_of(name: str) -> int:
    """How many stages are done when this one is."""
    return STAGES.index(name) + 1


def require_fingerprint(text: str) -> None:
    """`Invalid` unless it is a fingerprint as `ssh-keygen -l` prints it."""
    if not _FINGERPRINT.fullmatch(text):
        like = "“ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub”"
        sentence = f"A fingerprint is SHA256: and 43 characters, as {like} prints it on the host."
        raise Invalid("bad_fingerprint", sentence, fields=["fingerprint"])


def require_folders(paths: Iterable[str]) -> None:
    """`Invalid` unless each is an absolute path that a shell takes as one word."""
    for path in paths:
        if not _FOLDER.fullmatch(path):
            sentence = f"“{path}” is no absolute path of letters, digits and . _ - / such as /srv/leasehold."
            raise Invalid("bad_folder", sentence, fields=["storage_roots"])


def gives_up(code: str, done: int, silent_for: timedelta) -> bool:
    """Whether a failure ends the installation: what passes is waited for once the host has been reached."""
    return code not in PASSING or done == 0 or silent_for > PATIENCE
