"""May this desktop be reached from there, over what: a table of cases, first rule that fits decides."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.devices.rules import ALPHABET, new_code, read_code
from backend.errors import Invalid
from broker.access import Rule, Whence, judge, read_network, told

POOL, OTHER, LAB, WARD = (uuid4() for _ in range(4))
BOTH = ("vnc", "spice")


def rule(effect: Any, network: str = "", position: int = 1, **more: Any) -> Rule:
    return Rule(uuid4(), position, f"{effect}-{position}", effect, network=read_network(network), **more)


OFFICE = Whence("10.1.2.3")
HOME = Whence("203.0.113.9")
AT_LAB = Whence("10.1.2.3", LAB, "Lab 1")
AT_WARD = Whence("203.0.113.9", WARD, "Ward 3", ("spice",))


@pytest.mark.parametrize(
    "rules, whence, protocols",
    [
        ([], HOME, BOTH),  # what no rule speaks of is allowed
        ([rule("deny")], OFFICE, ()),
        ([rule("allow", "10.1.0.0/16"), rule("deny", position=2)], OFFICE, BOTH),
        ([rule("allow", "10.1.0.0/16"), rule("deny", position=2)], HOME, ()),
        ([rule("deny", position=2), rule("allow", "10.1.0.0/16", position=1)], OFFICE, BOTH),  # the place counts, not the order
        ([rule("allow", "10.1.0.0/16", position=2), rule("deny", position=1)], OFFICE, ()),
        ([rule("deny", "10.1.2.3")], OFFICE, ()),  # a single address
        ([rule("deny", "10.1.2.3")], Whence("10.1.2.4"), BOTH),
        ([rule("deny", "10.1.0.0/16")], Whence("::ffff:10.1.2.3"), ()),  # IPv4 in IPv6's clothes
        ([rule("deny", "2001:db8::/32")], Whence("2001:db8:1::7"), ()),
        ([rule("deny", "2001:db8::/32")], OFFICE, BOTH),  # another family is another network
        ([rule("allow", "10.0.0.0/8"), rule("deny", position=2)], Whence(""), ()),  # nobody knows from where: no network fits
        ([rule("deny", pool_id=OTHER)], OFFICE, BOTH),
        ([rule("deny", pool_id=POOL)], OFFICE, ()),
        ([rule("allow", enrolled=True), rule("deny", position=2)], OFFICE, ()),
        ([rule("allow", enrolled=True), rule("deny", position=2)], AT_LAB, BOTH),
        ([rule("allow", device_id=LAB), rule("deny", position=2)], AT_LAB, BOTH),
        ([rule("allow", device_id=LAB), rule("deny", position=2)], AT_WARD, ()),
        ([rule("allow", "10.1.0.0/16", enrolled=True), rule("deny", position=2)], AT_WARD, ()),  # all that is named must fit
        ([rule("allow", protocols=("spice",))], OFFICE, ("spice",)),
        ([rule("deny", protocols=("vnc",))], OFFICE, ("spice",)),
        ([rule("deny", protocols=("vnc",)), rule("deny", position=2, protocols=("spice",))], OFFICE, ()),
        ([rule("deny", protocols=("vnc",)), rule("allow", position=2)], OFFICE, ("spice",)),  # what is denied stays denied
        ([], AT_WARD, ("spice",)),  # the device's own protocols
        ([rule("allow", protocols=("vnc",))], AT_WARD, ()),  # nothing is left that the device can show
    ],
)
def test_the_first_rule_that_fits_decides(rules: list[Rule], whence: Whence, protocols: tuple[str, ...]) -> None:
    said = judge(rules, name="Desktops", pool_id=POOL, offered=BOTH, whence=whence)
    assert said.protocols == protocols
    assert said.allowed == bool(protocols) and bool(said.sentence) == (not protocols)


def test_the_sentence_is_the_rules_own_or_a_plain_one() -> None:
    mine = judge([rule("deny", sentence="Only in the ward.")], name="D", pool_id=POOL, offered=BOTH, whence=HOME)
    assert (mine.sentence, mine.rule) == ("Only in the ward.", "deny-1")
    assert "D cannot be reached from here" in judge([rule("deny")], name="D", pool_id=POOL, offered=BOTH, whence=HOME).sentence
    device = judge([rule("allow", protocols=("vnc",))], name="D", pool_id=None, offered=BOTH, whence=AT_WARD)
    assert device.sentence == "Ward 3 shows desktops over SPICE alone, and here D offers VNC."


def test_what_is_told_says_of_every_rule_what_came_of_it() -> None:
    rules = [rule("deny", "192.0.2.0/24"), rule("allow", position=2, protocols=("spice",)), rule("deny", position=3)]
    said = told(judge(rules, name="D", pool_id=POOL, offered=BOTH, whence=AT_LAB), AT_LAB)
    assert said["from"] == "10.1.2.3 at Lab 1" and said["allowed"] and said["protocols"] == ["spice"]
    assert [(x["rule"], x["said"]) for x in said["looked"]] == [
        ("deny-1", "is about 192.0.2.0/24"),
        ("allow-2", "allows it over SPICE"),
    ]


@pytest.mark.parametrize("text", ["nonsense", "10.1.2.3/40", "10.1/16", "2001:db8::/200", "10.0.0.0/8; DROP"])
def test_a_network_that_is_none_is_told_how_to_write_it(text: str) -> None:
    with pytest.raises(Invalid) as no:
        read_network(text)
    assert "10.1.0.0/16" in str(no.value) and no.value.facts["fields"] == ["network"]


def test_a_network_may_be_written_by_any_of_its_addresses() -> None:
    assert str(read_network(" 10.1.2.3/16 ")) == "10.1.0.0/16" and read_network("  ") is None


rules_of = st.lists(
    st.builds(
        Rule,
        id=st.uuids(),
        position=st.integers(1, 5),
        name=st.just("r"),
        effect=st.sampled_from(("allow", "deny")),
        pool_id=st.sampled_from((None, POOL, OTHER)),
        network=st.sampled_from((None, read_network("10.1.0.0/16"), read_network("0.0.0.0/0"))),
        device_id=st.sampled_from((None, LAB)),
        enrolled=st.booleans(),
        protocols=st.sampled_from(((), ("vnc",), ("spice",), BOTH)),
    ),
    max_size=6,
)


@given(rules_of, st.sampled_from((OFFICE, HOME, AT_LAB, AT_WARD)))
def test_nothing_is_allowed_that_was_not_offered_and_a_last_deny_is_a_wall(rules: list[Rule], whence: Whence) -> None:
    said = judge(rules, name="D", pool_id=POOL, offered=BOTH, whence=whence)
    assert set(said.protocols) <= set(BOTH)
    wall = Rule(UUID(int=0), 9, "wall", "deny")
    walled = judge([*rules, wall], name="D", pool_id=POOL, offered=BOTH, whence=whence)
    assert set(walled.protocols) <= set(said.protocols)
    if not any(r.effect == "allow" for r in rules):
        assert not walled.allowed


def test_codes_are_read_however_they_are_typed() -> None:
    code = new_code()
    assert len(read_code(code)) == 16 and set(read_code(code)) <= set(ALPHABET) and new_code() != code
    assert read_code(f" {code.lower().replace('-', ' ')} ") == read_code(code)
    assert read_code("o0iL-1l") == "001111"
