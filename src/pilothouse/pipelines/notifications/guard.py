"""Which addresses notifications may be sent to; pure, shared by the server and its workers.

What receivers are called is up to users, so the server must not become their way into its own network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: tuple[Network, ...] = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's service for virtual machines, in a public range
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("fec0::/10"),
)
_NAT64: tuple[ipaddress.IPv6Network, ...] = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
)


class Refused(Exception):
    """The address is not allowed; the text says which."""


@dataclass(frozen=True, slots=True)
class Guard:
    """``networks`` and ``hosts``: what is allowed besides public addresses."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, allowed: Iterable[str]) -> Guard:
        """``allowed``: networks (``10.0.0.0/8``), addresses and host names."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in allowed:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.add(normal_host(entry))
        return cls(tuple(networks), frozenset(hosts))

    def check(self, host: str, address: str) -> None:
        """Raises :class:`Refused` unless ``address``, to which ``host`` has been resolved, is allowed."""
        if normal_host(host) in self.hosts:
            return
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if any(parsed.version == network.version and parsed in network for network in self.networks):
            return
        if not all(_public(one) for one in _meant(parsed)):
            raise Refused(f"{address} is not a public address (PILOT_NOTIFY_ALLOW)")


def normal_host(host: str) -> str:
    """A host name as it is compared."""
    return host.strip("[]").rstrip(".").lower()


def _meant(address: Address) -> list[Address]:
    """The address, and the IPv4 address inside of it, if it stands for one."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found.extend(address.teredo)
        if any(address in network for network in _NAT64) or int(address) < 1 << 32:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def _public(address: Address) -> bool:
    special = any(address.version == network.version and address in network for network in _SPECIAL)
    return address.is_global and not address.is_multicast and not special
