"""Pure: whose word counts on where a request comes from. A header is believed from proxies that the settings name, else not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]+)\](?::\d+)?|(?P<four>[0-9.]+):\d+")


@dataclass(frozen=True)
class Proxies:
    """The reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, text: str) -> Proxies:
        """From addresses and networks, by commas; stops the process with a sentence when one of them is neither."""
        networks = []
        for word in filter(None, (one.strip() for one in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError as no:
                raise SystemExit(f"trusted_proxies: {word} is no address and no network ({no}).") from None
        return cls(tuple(networks))

    def trusts(self, address: str) -> bool:
        """Whether this is one of them."""
        known = _read(address)
        return known is not None and any(known in network for network in self.networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """Where a request comes from: the peer, unless that is a proxy of ours; then, from the right, the first address
        that none of ours has. What stands left of it was written by whoever sent the request, and counts for nothing."""
        client = peer
        for word in reversed(forwarded_for.split(",")):
            if not self.trusts(client):
                break
            said = _read(word.strip())
            if said is None:
                break  # nothing, or nothing that is an address: the proxy's own is the last that is known
            client = str(said)
        return client


def _read(text: str) -> Address | None:
    """An address, with or without a port; IPv4 written as IPv6 is IPv4."""
    if with_port := _WITH_PORT.fullmatch(text):
        text = with_port["six"] or with_port["four"]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
