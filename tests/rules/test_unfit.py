"""A host that lacks a network of its cluster is not operational, says why, and is up again as soon as it has it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from backend.hosts.rules import KnownHost, OtherVersion, changes
from hostapi.types import HostReport

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("state, has, event, why", [
    ("up", ("lan", "dmz"), None, ""),
    ("up", ("lan",), "unfit", "The network dmz is missing"),
    ("connecting", ("lan",), "unfit", "The network dmz is missing"),
    ("connecting", ("lan", "dmz"), "answered", ""),
    ("non_operational", (), None, "The networks dmz, lan are missing"),
    ("non_operational", ("dmz", "lan"), "answered", ""),
    ("maintenance", (), None, "The networks dmz, lan are missing"),
])  # fmt: skip
def test_unfit(state: str, has: tuple[str, ...], event: str | None, why: str) -> None:
    known = KnownHost(uuid4(), state, NOW, (), frozenset({"lan", "dmz"}))
    report = HostReport("alpha", "boot", "1", "qemu", "kvm", 8, 1024, 512, 0.1, networks=has)
    (change,) = changes(known, report, NOW)
    assert change.event == event
    assert change.sets["why"].startswith(why) and bool(why) == bool(change.sets["why"])


@pytest.mark.parametrize("state, event", [
    ("up", "unfit"), ("connecting", "unfit"), ("non_operational", None), ("maintenance", None),
])  # fmt: skip
def test_an_agent_of_another_version_lives(state: str, event: str | None) -> None:
    known = KnownHost(uuid4(), state, NOW, ())
    (change,) = changes(known, OtherVersion("Its agent speaks another host API."), NOW)
    assert (change.event, change.sets["silences"], change.sets["reported_at"]) == (event, 0, NOW)
    assert change.sets["why"] == "Its agent speaks another host API."
