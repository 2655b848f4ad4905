"""Whose word counts on where a request comes from."""

from __future__ import annotations

import pytest

from backend.proxies import Proxies

OURS = Proxies.of("192.0.2.10, 10.1.0.0/24,fd00::/64")
CASES = {
    "no proxy: the header is the client's own": ("203.0.113.5", "1.2.3.4", "203.0.113.5"),
    "one proxy": ("192.0.2.10", "203.0.113.5", "203.0.113.5"),
    "a forged beginning": ("192.0.2.10", "10.1.0.7, 1.2.3.4, 203.0.113.5", "203.0.113.5"),
    "two proxies": ("192.0.2.10", "1.2.3.4, 203.0.113.5, 10.1.0.7", "203.0.113.5"),
    "everybody is ours": ("192.0.2.10", "10.1.0.8, 10.1.0.7", "10.1.0.8"),
    "no header": ("192.0.2.10", "", "192.0.2.10"),
    "nonsense": ("192.0.2.10", "203.0.113.5, unknown", "192.0.2.10"),
    "nonsense before a proxy": ("192.0.2.10", "<script>, 10.1.0.7", "10.1.0.7"),
    "a port": ("192.0.2.10", "203.0.113.5:51234", "203.0.113.5"),
    "IPv6 with a port": ("fd00::1", "[2001:db8::5]:443", "2001:db8::5"),
    "IPv4 written as IPv6": ("::ffff:192.0.2.10", "::ffff:203.0.113.5", "203.0.113.5"),
    "no address at all": ("", "203.0.113.5", ""),
}


@pytest.mark.parametrize("peer, header, client", CASES.values(), ids=CASES)
def test_the_client_is_the_first_from_the_right_that_is_none_of_ours(peer: str, header: str, client: str) -> None:
    assert OURS.client(peer, header) == client


def test_without_a_setting_nobody_is_believed() -> None:
    assert Proxies.of("").client("127.0.0.1", "203.0.113.5") == "127.0.0.1"


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33"])
def test_a_wrong_setting_is_said_at_the_start(text: str) -> None:
    with pytest.raises(SystemExit, match="trusted_proxies"):
        Proxies.of(text)
