"""The client's address behind proxies, and the origin check for browsers. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FORWARDING = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a request that came through a proxy."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class TrustedProxies:
    """The proxies (addresses or CIDR networks) whose ``X-Forwarded-*`` headers are trusted."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network.strip(), strict=False) for network in networks]

    def trusts(self, peer: str) -> bool:
        """Whether the peer of the connection is one of them."""
        address = _parse(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: str) -> str:
        """The client's address: the last hop of ``X-Forwarded-For`` that is not itself a trusted proxy.

        Hops further left can be forged by the client and are ignored.
        """
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
        client = peer
        while hops and self.trusts(client):
            hop = _parse(_without_port(hops.pop()))
            if hop is None:
                break
            client = str(hop)
        return client


def is_loopback(address: str) -> bool:
    """Whether this is an address of the machine itself."""
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def rate_key(address: str) -> str:
    """The key for counting requests: an IPv4 address, or the /64 of an IPv6 address, which is one host."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def normal_origin(origin: str) -> str | None:
    """``scheme://host:port`` with an explicit port; ``None`` if it is not a web origin (``null``)."""
    try:
        parts = urlsplit(origin.strip())
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.hostname is None or port is None:
        return None
    return f"{parts.scheme}://{parts.hostname}:{port}"


def is_own_origin(origin: str, host: str, allowed: frozenset[str]) -> bool:
    """Whether pages of ``origin`` may use the cookie: same host as ``Host``, or in ``allowed`` (normalized).

    The scheme is not compared, since it is unknown behind a proxy that terminates TLS.
    """
    normal = normal_origin(origin)
    if normal is None:
        return False
    scheme = normal.partition("://")[0]
    return normal in allowed or normal == normal_origin(f"{scheme}://{host}")


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
