"""Active Directory's numbers and words, without a domain."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.directory import ad
from backend.directory.ldap import login_filter, search_filter
from backend.directory.names import Login

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.mark.parametrize(("message", "code"), [
    ("80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 52e, v2580\x00", "wrong_credentials"),
    ("80090308: LdapErr: DSID-0C0903D9, comment: AcceptSecurityContext error, data 525, v2580", "wrong_credentials"),
    ("… comment: AcceptSecurityContext error, data 530, v1db1", "not_now"),
    ("… comment: AcceptSecurityContext error, data 531, v1db1", "not_from_here"),
    ("… comment: AcceptSecurityContext error, data 532, v1db1", "password_expired"),
    ("… comment: AcceptSecurityContext error, data 533, v1db1", "account_disabled"),
    ("… comment: AcceptSecurityContext error, data 701, v1db1", "account_expired"),
    ("… comment: AcceptSecurityContext error, data 773, v1db1", "must_change_password"),
    ("… comment: AcceptSecurityContext error, DATA 775, v1db1", "account_locked"),
    ("… data 568, v1db1", "wrong_credentials"),
    ("", "wrong_credentials"),
])
def test_sub_codes(message: str, code: str) -> None:
    told = ad.refusal(ad.subcode(message))
    assert told.code == code and told.message.endswith(".") and told.status == 401


def test_a_sid_as_text() -> None:
    raw = bytes.fromhex("010500000000000515000000a065cf7e784b9b5fe77c8770091c0100")
    assert ad.sid(raw) == "S-1-5-21-2127521184-1604012920-1887927527-72713"


@given(st.integers(0, 2**48 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=15))
def test_sids_go_both_ways(authority: int, parts: list[int]) -> None:
    text = "-".join(map(str, ["S", 1, authority, *parts]))
    assert ad.sid(ad.sid_bytes(text)) == text


def entry(**attributes: str) -> dict[str, list[bytes]]:
    return {"objectSid": [ad.sid_bytes("S-1-5-21-1-2-3-4")], **{k: [v.encode()] for k, v in attributes.items()}}


def test_a_upn_goes_before_an_account_that_reads_the_same() -> None:
    owner = entry(sAMAccountName="kim1", userPrincipalName="Kim2@corp.example")
    other = entry(sAMAccountName="kim2", userPrincipalName="kim3@corp.example")
    login = Login("kim2", domain="corp.example")
    assert ad.choose(login, [other, owner]) is owner and ad.choose(login, [other]) is other
    assert ad.choose(Login("kim2", netbios="corp"), [other]) is other
    assert ad.choose(login, [other, entry(sAMAccountName="x")]) is None and ad.choose(login, []) is None


@pytest.mark.parametrize(("attributes", "code"), [
    ({"userAccountControl": "512", "accountExpires": "0"}, None),
    ({"userAccountControl": "512", "accountExpires": "9223372036854775807"}, None),
    ({"userAccountControl": "66050"}, "account_disabled"),
    ({"userAccountControl": "512", "accountExpires": "134169120000000000"}, "account_expired"),  # 2026-03-01
    ({"userAccountControl": "512", "accountExpires": "134170848000000000"}, None),  # 2026-03-03
    ({}, None),
])
def test_standing(attributes: dict[str, str], code: str | None) -> None:
    told = ad.person(entry(sAMAccountName="A", **attributes), [], NOW).refusal
    assert (told and told.code) == code


def test_a_persons_names() -> None:
    assert ad.person(entry(sAMAccountName="Alice"), []).display_name == "alice"
    assert ad.person(entry(sAMAccountName="alice", givenName="Alice", sn="Adler"), []).display_name == "Alice Adler"
    assert ad.person(entry(sAMAccountName="alice", displayName="Dr. A", sn="Adler"), []).display_name == "Dr. A"


@given(st.text(min_size=1))
def test_no_text_adds_to_a_filter(text: str) -> None:
    """As many parentheses and stars as for a plain word, whatever is typed."""
    def shape(made: str) -> tuple[int, int, int]:
        return made.count("("), made.count(")"), made.count("*")

    for kind in ("user", "group"):
        assert shape(search_filter(kind, text)) == shape(search_filter(kind, "x"))
    for domain in ("corp.example", "outside.example"):
        assert shape(login_filter(Login(text, domain=domain), "corp.example")) == shape(
            login_filter(Login("x", domain=domain), "corp.example"))
