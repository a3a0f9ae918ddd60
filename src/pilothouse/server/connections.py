"""How many HTTP connections may be open, and be opened in some seconds: in total, and from one address."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable

from pilothouse.access.errors import Refusal
from pilothouse.edge.limits import Window
from pilothouse.edge.network import TrustedProxies, is_loopback, rate_key

MOST = 65_536
"""The default is never higher, however many files the process may open."""

LOCAL = 16
"""Connections that only callers on this machine get, so that its owner can look when all others are taken."""

RETRY_AFTER = "5"

SPAN = 10_000
"""Milliseconds in which new connections and abandoned ones are counted."""

NEW = 1_000
"""Connections that an address may open within :data:`SPAN`, or as many as it may have open."""

ABANDONED = 100
"""Connections that an address may end before it has an answer; then it gets no new ones for up to :data:`SPAN`."""


class Connections:
    """The open connections of one server, from their acceptance until their socket is closed, whoever holds it.

    Loopback addresses and trusted proxies, which speak for many, are only bounded by the total. Addresses that end
    connections before they have an answer get no new ones for a while; trusted proxies are exempt.
    """

    def __init__(
        self,
        total: int,
        per_address: int,
        proxies: TrustedProxies,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.per_address = per_address
        self._proxies = proxies
        self._by_address: Counter[str] = Counter()
        self._open = 0
        self._clock = clock
        self._new = Window(max(NEW, per_address), SPAN)
        self._abandoned = Window(ABANDONED, SPAN)
        self._barred: dict[str, int] = {}  # addresses that have abandoned too many, until when

    def __len__(self) -> int:
        return self._open

    def enter(self, address: str) -> Callable[[], None] | Refusal:
        """Count a connection of this address; call what is returned once it is closed. A refusal, if there are too
        many: ``TOO_MANY_CONNECTIONS`` of this address, ``SERVER_BUSY`` in total."""
        local = is_loopback(address)
        if self._open >= (self.total if local else self.total - min(LOCAL, self.total // 4)):
            return _later("SERVER_BUSY", "All connections of this server are in use; try again shortly")
        now = self._now()
        if self._barred and self._barred.get(rate_key(address), 0) > now:
            return _later(
                "TOO_MANY_CONNECTIONS",
                f"More than {ABANDONED} connections were ended before they had an answer; try again later",
            )
        key = "" if local or self._proxies.trusts(address) else rate_key(address)
        if key and self._by_address[key] >= self.per_address:
            return _later(
                "TOO_MANY_CONNECTIONS",
                f"{self.per_address} connections from {key} are open; close some, or try again later",
            )
        if key and not self._new.hit(key, now).allowed:
            return _later("TOO_MANY_CONNECTIONS", f"Too many new connections from {key}; try again later")
        self._open += 1
        self._by_address[key] += 1
        return lambda: self._leave(key)

    def abandoned(self, address: str) -> None:
        """Count a connection that its client has ended before it had the answer to a request."""
        if self._proxies.trusts(address):
            return
        now, key = self._now(), rate_key(address)
        count = self._abandoned.hit(key, now)
        if not count.remaining:
            self._barred = {name: until for name, until in self._barred.items() if until > now}
            self._barred[key] = count.reset

    def _now(self) -> int:
        return round(self._clock() * 1000)

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
