"""Rate limits (StreamSpace page, "Rate Limiting"): a bounded number of moving windows in memory.

The notation is that of the ``limits`` library, which is not used: its in-memory store scans all keys in a timer
thread and has no bound, and importing it costs more than the rest of the edge.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from pilothouse.access.errors import RateLimited
from pilothouse.access.model import Principal
from pilothouse.edge.network import rate_key
from pilothouse.storage import now_ms

OFF = "off"
DEFAULT = "default"
MAX_KEYS = 20_000

_RATE = re.compile(r"\s*(\d{1,9})\s*(?:/|per\s)\s*([1-9]\d{0,5})?\s*([a-z]+?)s?\s*", re.ASCII)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000, "year": 31_104_000}


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """Each ``<n>/<minute|hour|…>`` or ``off``."""

    login: str = "5/minute"
    sessions: str = "10/minute"
    default: str = "100/minute"


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """A route with its own rate limit instead of the default one.

    ``limit`` names the setting (``PILOT_RATELIMIT_<LIMIT>``). Counted per token, or per address where
    ``by_address``.
    """

    method: str
    path: str
    limit: str
    by_address: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """How one request was counted. ``reset`` and ``now`` in ms."""

    limit: int
    remaining: int
    reset: int
    now: int
    allowed: bool

    def headers(self) -> dict[str, str]:
        """The three headers of the page; the reset in Unix seconds."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(-(-self.reset // 1000)),
        }

    def check(self) -> None:
        """Raise :class:`RateLimited` if the limit is exceeded."""
        if not self.allowed:
            raise RateLimited(max(1, -(-(self.reset - self.now) // 1000)), self.headers())


class Window:
    """At most ``amount`` hits in any ``span`` ms per key; the least recently used keys are evicted first."""

    def __init__(self, amount: int, span: int, max_keys: int = MAX_KEYS) -> None:
        self.amount = amount
        self.span = span
        self._max_keys = max_keys
        self._hits: OrderedDict[str, deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hits)

    def hit(self, key: str, now: int) -> Count:
        """Count a hit; refused ones are not counted. ``reset`` is when the oldest hit leaves the window."""
        hits = self._hits.setdefault(key, deque())
        self._hits.move_to_end(key)
        if len(self._hits) > self._max_keys:
            self._hits.popitem(last=False)
        while hits and hits[0] <= now - self.span:
            hits.popleft()
        allowed = len(hits) < self.amount
        if allowed:
            hits.append(now)
        reset = (hits[0] if hits else now) + self.span
        return Count(self.amount, self.amount - len(hits), reset, now, allowed)


class RateLimits:
    """All limits of one server, shared by HTTP and gRPC. Lives on the event loop."""

    def __init__(self, settings: RateLimitSettings | None = None, clock: Callable[[], int] = now_ms) -> None:
        settings = settings or RateLimitSettings()
        self._clock = clock
        self._windows = {field.name: _window(getattr(settings, field.name)) for field in fields(settings)}
        self._login_username = _window(settings.login)

    def request(
        self, caller: Principal | None, address: str, limit: str = DEFAULT, *, by_address: bool = False
    ) -> Count | None:
        """Count a request or call under the limit of this name, by token or address; ``None``: not limited.

        Must not be called for agents, whose requests are not counted.
        """
        counted_by = None if by_address else caller
        return self._count(self._windows[limit], _counted_by(counted_by, address))

    def login_as(self, username: str) -> Count | None:
        """Count a login attempt with this name, from any address."""
        return self._count(self._login_username, username.casefold())

    def _count(self, window: Window | None, key: str) -> Count | None:
        return None if window is None else window.hit(key, self._clock())


def _counted_by(caller: Principal | None, address: str) -> str:
    return f"address/{rate_key(address)}" if caller is None else f"token/{caller.token_id}"


def _window(setting: str) -> Window | None:
    if setting.strip().lower() == OFF:
        return None
    amount, span = parse_rate(setting)
    return Window(amount, span * 1000)


def parse_rate(text: str) -> tuple[int, int]:
    """``5/minute``, ``10 per 2 hours``: how many, in how many seconds. Raises :class:`ValueError`."""
    found = _RATE.fullmatch(text.lower())
    if found is None or found[3] not in _SECONDS:
        raise ValueError(f"{text!r} is not a rate such as 100/minute")
    return int(found[1]), int(found[2] or 1) * _SECONDS[found[3]]
