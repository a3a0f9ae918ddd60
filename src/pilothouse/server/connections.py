"""How many HTTP connections may be open: in total, and from one address."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable

from pilothouse.access.errors import Refusal
from pilothouse.edge.network import TrustedProxies, is_loopback, rate_key

MOST = 65_536
"""The default is never higher, however many files the process may open."""

LOCAL = 16
"""Connections that only callers on this machine get, so that its owner can look when all others are taken."""

RETRY_AFTER = "5"


class Connections:
    """The open connections of one server, from their acceptance until their socket is closed, whoever holds it.

    Loopback addresses and trusted proxies, which speak for many, are only bounded by the total.
    """

    def __init__(self, total: int, per_address: int, proxies: TrustedProxies) -> None:
        self.total = total
        self.per_address = per_address
        self._proxies = proxies
        self._by_address: Counter[str] = Counter()
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def enter(self, address: str) -> Callable[[], None] | Refusal:
        """Count a connection of this address; call what is returned once it is closed. A refusal, if there are too
        many: ``TOO_MANY_CONNECTIONS`` of this address, ``SERVER_BUSY`` in total."""
        local = is_loopback(address)
        if self._open >= (self.total if local else self.total - min(LOCAL, self.total // 4)):
            return _later("SERVER_BUSY", "All connections of this server are in use; try again shortly")
        key = "" if local or self._proxies.trusts(address) else rate_key(address)
        if key and self._by_address[key] >= self.per_address:
            return _later(
                "TOO_MANY_CONNECTIONS",
                f"{self.per_address} connections from {key} are open; close some, or try again later",
            )
        self._open += 1
        self._by_address[key] += 1
        return lambda: self._leave(key)

    def _leave(self, key: str) -> None:
        self._open -= 1
        self._by_address[key] -= 1
        if not self._by_address[key]:
            del self._by_address[key]


def default_total() -> int:
    """Three quarters of the files that this process may open; the rest is for the database, agents and uploads."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MOST
    return max(64, min(MOST, files * 3 // 4))


def default_per_address(total: int) -> int:
    """A quarter of all, at most 1024: an office behind one address has room, and does not take all."""
    return max(16, min(1024, total // 4))


def _later(code: str, message: str) -> Refusal:
    return Refusal(message, code=code, headers={"Retry-After": RETRY_AFTER})
