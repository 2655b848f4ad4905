"""Viewer files compared with golden ones; `pytest tests/broker/test_viewer.py --rewrite` renews them."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from broker.viewer import Face, novnc, spice_web, subject_line, vv

GOLDEN = Path(__file__).parents[1] / "golden"
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
FACE = Face("desktops.example:8444", CA, subject_line([("O", "Leasehold"), ("OU", "web"), ("CN", "desktops.example")]))
LOCAL = Face("localhost:8444", CA, FACE.subject)
FILES = {
    "viewer-local": vv(LOCAL, name="ticket-0123", password="pass-word_43", title="desktops-1"),
    "viewer": vv(FACE, name="ticket-0123", password="pass-word_43", title="desktops-1"),
    "viewer-full-screen": vv(FACE, name="ticket-0123", password="pass-word_43", title="desktops-1", full_screen=True),
    "viewer-hostile": vv(
        Face("desktops.example", CA, subject_line([("O", "Good, Better \\ Best")])), name="ticket-0123", password="x",
        title=" evil\n[virt-viewer]\nhost=198.51.100.7\t\x00\x1b"),
}


@pytest.mark.parametrize("name", FILES)
def test_viewer_file_is_as_expected(name: str, request: pytest.FixtureRequest) -> None:
    golden = GOLDEN / f"{name}.vv"
    if request.config.getoption("--rewrite") or not golden.exists():
        golden.write_text(FILES[name])
    assert FILES[name] == golden.read_text()


def test_nothing_in_a_name_becomes_a_line() -> None:
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(FILES["viewer-hostile"])
    assert parser.sections() == ["virt-viewer"]
    assert parser["virt-viewer"]["host"] == "ticket-0123"
    assert parser["virt-viewer"]["tls-port"] == "443"


def test_pages_get_no_secret_in_an_address() -> None:
    told = novnc("desktops.example:8444", "the-token")
    assert spice_web("x:1", "the-token") == {
        "type": "spice", "url": "wss://x:1/console/spice", "protocols": ["binary", "leasehold.the-token"]}
    assert told == {"type": "novnc", "url": "wss://desktops.example:8444/console", "protocols": ["binary", "leasehold.the-token"]}
