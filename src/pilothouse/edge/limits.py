"""Rate limits (StreamSpace page, "Rate Limiting"): a bounded number of moving windows in memory.

The notation is that of the ``limits`` library, which is not used: its in-memory store scans all keys in a timer
thread and has no bound, and importing it costs more than the rest of the edge.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from pilothouse.access.errors import AuthError, RateLimited
from pilothouse.access.model import Principal
from pilothouse.edge.network import rate_key
from pilothouse.storage import now_ms

OFF = "off"
DEFAULT = "default"
CONSOLE = "console"
MAX_KEYS = 20_000
FAILURES = frozenset({401, 403, 404})
"""HTTP statuses of answers that count also where successful requests do not."""

_RATE = re.compile(r"\s*(\d{1,9})\s*(?:/|per\s)\s*([1-9]\d{0,5})?\s*([a-z]+?)s?\s*", re.ASCII)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000, "year": 31_104_000}


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """Each ``<n>/<minute|hour|…>`` or ``off``."""

    login: str = "5/minute"
    sessions: str = "10/minute"
    default: str = "100/minute"
    console: str = "1200/minute"


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

    def take_back(self, key: str, at: int) -> None:
        """Undo the hit that was counted for ``key`` at this time."""
        hits = self._hits.get(key)
        if hits is not None and at in hits:
            hits.remove(at)


class Attempt:
    """The attempt to log in that is made in its ``with`` block. It counts if it ends with an :class:`AuthError`.

    It is counted before, so that many at once are not more than one after the other.
    """

    __slots__ = ("_key", "_window", "count")

    def __init__(self, window: Window | None, key: str, now: int) -> None:
        self._window = window
        self._key = key
        #: How it was counted; ``None``: not limited.
        self.count = None if window is None else window.hit(key, now)

    def __enter__(self) -> None:
        """Raises :class:`RateLimited`."""
        if self.count is not None:
            self.count.check()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        wrong = kind is not None and issubclass(kind, AuthError)
        if self._window is not None and self.count is not None and not wrong:
            self._window.take_back(self._key, self.count.now)


class RateLimits:
    """All limits of one server, shared by HTTP and gRPC. Lives on the event loop."""

    def __init__(self, settings: RateLimitSettings | None = None, clock: Callable[[], int] = now_ms) -> None:
        settings = settings or RateLimitSettings()
        self._clock = clock
        self._settings = settings
        self._windows = {field.name: _window(getattr(settings, field.name)) for field in fields(settings)}
        self._login_username = _window(settings.login)

    def change(self, settings: RateLimitSettings) -> None:
        """Other limits from now on. Those that stay the same go on counting. Raises :class:`ValueError`."""
        for field in fields(settings):
            given = getattr(settings, field.name)
            if given != getattr(self._settings, field.name):
                self._windows[field.name] = _window(given)
                if field.name == "login":
                    self._login_username = _window(given)
        self._settings = settings

    def request(
        self, caller: Principal | None, address: str, limit: str = DEFAULT, *, by_address: bool = False
    ) -> Count | None:
        """Count a request or call under the limit of this name, by token or address; ``None``: not limited.

        A request without valid credentials has no caller. Must not be called for what agents do with valid ones,
        which is not counted.
        """
        counted_by = None if by_address else caller
        return self._count(self._windows[limit], _counted_by(counted_by, address))

    def failed(self, caller: Principal | None, address: str) -> None:
        """Count a refused request or call of a surface where only these count, with the other requests of this
        token, or of the address if there is no valid one.

        Raises :class:`RateLimited` if there were too many: then this is the answer, instead of the refusal.
        """
        count = self.request(caller, address)
        if count is not None:
            count.check()

    def login(self, username: str, known: str = "") -> Attempt:
        """Count an attempt to prove with a password to be this user.

        ``known``: the address, if this user has logged in from it before. Each known address has a window of its own;
        all others share one, so that whoever guesses from unknown addresses cannot keep the user out.
        """
        key = f"{rate_key(known) if known else ''} {username.casefold()}"
        return Attempt(self._login_username, key, self._clock())

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
