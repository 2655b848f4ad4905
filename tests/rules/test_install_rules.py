"""What an installation over SSH is given, and when it is given up."""

from datetime import timedelta

import pytest

from backend.errors import Invalid
from backend.hosts.install_rules import PATIENCE, gives_up, require_fingerprint, require_folders


def test_fingerprints() -> None:
    require_fingerprint("SHA256:" + "aB3+/" * 8 + "abc")
    for wrong in ("", "SHA256:short", "MD5:" + "a" * 43, "SHA256:" + "a" * 44, "SHA256:" + "a" * 43 + "\n"):
        with pytest.raises(Invalid, match="ssh-keygen"):
            require_fingerprint(wrong)


def test_folders() -> None:
    require_folders(("/srv/leasehold", "/a"))
    for wrong in ("srv", "/srv/a b", "/srv/$(id)", "/srv/'", "/", ""):
        with pytest.raises(Invalid, match="absolute"):
            require_folders((wrong,))


def test_what_passes_is_waited_for_once_the_host_was_there() -> None:
    assert gives_up("unreachable", 0, timedelta(0)) and gives_up("not_let_in", 3, timedelta(0))
    assert not gives_up("connection_lost", 3, PATIENCE) and gives_up("connection_lost", 3, PATIENCE + timedelta(seconds=1))
