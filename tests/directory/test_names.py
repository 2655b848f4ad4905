"""The forms in which people write who they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.directory.names import Login, full_name, read_login


@pytest.mark.parametrize(("text", "chosen", "login"), [
    ("alice", "", Login("alice")),
    (" Alice ", "", Login("alice")),
    ("alice", "Corp.Example", Login("alice", domain="corp.example")),
    ("Alice@Corp.Example", "", Login("alice", domain="corp.example")),
    ("alice@outside.example", "corp.example", Login("alice", domain="outside.example")),
    ("a@b@corp.example", "", Login("a@b", domain="corp.example")),
    ("CORP\\alice", "", Login("alice", netbios="corp")),
    ("CORP\\a@b", "other.example", Login("a@b", netbios="corp")),
    ("J\u00fcrgen", "", Login("j\u00fcrgen")),
    ("ali\x00ce\ud800", "", Login("ali\ufffdce\ufffd")),
    ("", "", Login("")),
])
def test_forms(text: str, chosen: str, login: Login) -> None:
    assert read_login(text, chosen) == login


@given(st.text(), st.text())
def test_whatever_is_typed_can_be_stored(text: str, chosen: str) -> None:
    login = read_login(text, chosen)
    for part in (login.account, login.domain, login.netbios):
        assert "\x00" not in part and len(part.encode()) < 5000


@given(st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True), st.sampled_from(["internal", "corp.example"]))
def test_a_full_name_signs_in(account: str, directory: str) -> None:
    login = read_login(full_name(account, directory))
    assert (login.account, login.domain or "internal") == (account, directory)
