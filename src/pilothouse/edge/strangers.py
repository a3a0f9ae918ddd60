"""What callers without a valid credential may cost over gRPC, by address: calls, messages in memory, look-ups."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from pilothouse.access.errors import RateLimited, Refusal
from pilothouse.edge.limits import RateLimits
from pilothouse.edge.network import rate_key

MAX_CALLS, MAX_CALLS_OF_ADDRESS = 4_000, 1_000
"""Calls whose caller is not known yet."""
MAX_STREAMS_OF_ADDRESS = 32
"""Streams that need no credential."""
MAX_READS, MAX_READS_OF_ADDRESS = 16, 4
"""Messages that are read at once before it is known who sends them; each may have 16 MiB."""
READ_WITHIN, WAIT_TO_READ = 2.0, 5.0
"""Seconds in which such a message has to arrive once it is read, and that it waits for that at most."""
MAX_WAITING = 16
"""Calls of an address above its limit that wait until their credentials are checked, one after the other."""
PAUSE = 0.05
"""Seconds from a failed check of these to the next."""
MAX_KNOWN = 20_000
RETRY_AFTER = 1


class Strangers:
    """Bounds of unknown callers; one instance in each server. Lives on the event loop.

    Failed calls count under the address's rate limit, like requests over HTTP. Once that is exceeded, credentials
    that were not valid here before are checked one at a time; when too many wait, the call is refused unchecked.
    So a flood costs no more than that, and neither agents nor users at the same address lose their access.
    """

    def __init__(self, limits: RateLimits, timer: Callable[[], float] = time.monotonic) -> None:
        """``timer``: seconds, monotonic."""
        self._limits = limits
        self._timer = timer
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._reads = asyncio.Semaphore(MAX_READS)
        self._reads_of: dict[str, _Turns] = {}
        self._turns_of: dict[str, _Turns] = {}
        self._until: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    @contextmanager
    def call(self, address: str) -> Iterator[None]:
        """A call whose caller is not known yet. Raises ``CALLER_QUEUE_FULL`` or ``SERVER_BUSY``."""
        if self._calls.total() >= MAX_CALLS:
            raise _later("SERVER_BUSY", "Too many calls wait for their authentication; try again shortly")
        with _counted(self._calls, rate_key(address), MAX_CALLS_OF_ADDRESS):
            yield

    @contextmanager
    def stream(self, address: str) -> Iterator[None]:
        """A stream that needs no credential. Raises ``CALLER_QUEUE_FULL``."""
        with _counted(self._streams, rate_key(address), MAX_STREAMS_OF_ADDRESS):
            yield

    @asynccontextmanager
    async def reading(self, address: str) -> AsyncIterator[None]:
        """A message is read. Raises ``REQUEST_TIMEOUT`` if it does not arrive, ``CALLER_QUEUE_FULL``."""
        reading = False
        try:
            async with asyncio.timeout(WAIT_TO_READ) as limit:
                async with _Turns.of(self._reads_of, rate_key(address), MAX_READS_OF_ADDRESS), self._reads:
                    limit.reschedule(asyncio.get_running_loop().time() + READ_WITHIN)
                    reading = True
                    yield
        except TimeoutError:
            if not reading:
                raise _later("CALLER_QUEUE_FULL", "Too many messages of this address are read") from None
            wanted = f"The message did not arrive within {READ_WITHIN:g} s"
            raise Refusal.of("REQUEST_TIMEOUT", wanted) from None

    @asynccontextmanager
    async def turn(self, address: str, credential: str = "") -> AsyncIterator[None]:
        """A credential is checked meanwhile; at once, unless the address is above its limit.

        Raises :class:`RateLimited` if too many wait.
        """
        key = rate_key(address)
        wait = self._until.get(key, 0) - self._timer()
        if wait <= 0:
            self._until.pop(key, None)
        if wait <= 0 or self.knows(credential):
            yield
            return
        turns = _Turns.of(self._turns_of, key, 1)
        if turns.waiting >= MAX_WAITING:
            raise RateLimited(math.ceil(wait))
        async with turns:
            try:
                yield
            except Refusal:
                await asyncio.sleep(PAUSE)
                raise

    def knows(self, credential: str) -> bool:
        """Whether the credential was valid before."""
        return bool(credential) and _digest(credential) in self._known

    def remember(self, credential: str) -> None:
        """The credential is valid."""
        digest = _digest(credential)
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def forget(self, credential: str) -> None:
        """The credential is not valid, or no longer."""
        self._known.pop(_digest(credential), None)

    def failed(self, address: str, refusal: Refusal) -> Refusal:
        """Count a failed call; the refusal to answer it with."""
        count = self._limits.request(None, address)
        if count is None or count.allowed:
            return refusal
        key = rate_key(address)
        self._until[key] = self._timer() + (count.reset - count.now) / 1000
        self._until.move_to_end(key)
        if len(self._until) > MAX_KNOWN:
            self._until.popitem(last=False)
        return RateLimited(max(1, math.ceil((count.reset - count.now) / 1000)), count.headers())


class _Turns:
    """At most ``slots`` at once, for one address; forgotten when nobody is left."""

    def __init__(self, home: dict[str, _Turns], key: str, slots: int) -> None:
        self._home, self._key = home, key
        self._free = asyncio.Semaphore(slots)
        self.waiting = 0

    @classmethod
    def of(cls, home: dict[str, _Turns], key: str, slots: int) -> _Turns:
        found = home.get(key)
        if found is None:
            found = home[key] = cls(home, key, slots)
        return found

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._free.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._free.release()
        self._leave()

    def _leave(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._home.pop(self._key, None)


@contextmanager
def _counted(counts: Counter[str], key: str, most: int) -> Iterator[None]:
    if counts[key] >= most:
        raise _later("CALLER_QUEUE_FULL", f"Too many calls at once from this address: at most {most}")
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _later(code: str, message: str) -> Refusal:
    return Refusal(message, code=code, headers={"Retry-After": str(RETRY_AFTER)})


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()
