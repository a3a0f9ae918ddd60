"""A TCP proxy that behaves as bad networks do. Its faults can be changed while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from support.waiting import PATIENCE

T = TypeVar("T")
CHUNK = 16 << 10


@dataclass
class Faults:
    """What is wrong with the network just now.

    ``delay``: seconds each piece is held back. ``rate``: bytes per second and direction. ``hold``: nothing passes,
    but nothing is lost either: it comes when the hold ends, as after a partition of seconds. ``refuse``: new
    connections are reset.
    """

    delay: float = 0.0
    rate: float = 0.0
    hold: bool = False
    refuse: bool = False


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy. ``dead``: open on both sides, and silent for ever."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False
    left: int | None = None
    passing: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Runs on an event loop in its own thread, for use in any test."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self.faults = Faults()
        self.accepted = 0
        self.limit: int | None = None
        """Bytes after which each new connection breaks, counted over both directions."""
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def open(self) -> int:
        """How many connections pass through."""
        return len(self._pairs)

    # -- what a test does -------------------------------------------------------------------------------

    def set(self, **faults: object) -> None:
        """From now on the network is like this."""
        self.faults = Faults(**faults)  # type: ignore[arg-type]
        self._each(lambda pair: pair.passing.clear() if self.faults.hold else pair.passing.set())

    def lead_to(self, target: str) -> None:
        """New connections go to this address from now on, as when a load balancer has noticed."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self._each(_Pair.abort)

    def black_hole(self) -> None:
        """Every present connection stays open and is dead; new ones work."""
        self._each(lambda pair: setattr(pair, "dead", True))

    def half_close(self, side: str) -> None:
        """End the connections of one side (``client`` or ``server``) and leave the other in the dark."""

        def end(pair: _Pair) -> None:
            pair.dead = True
            getattr(pair, side).transport.abort()

        self._each(end)

    def close(self) -> None:
        """For teardown."""
        self._server.close()
        self.cut()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    # -- on the loop ------------------------------------------------------------------------------------

    def _each(self, act: Callable[[_Pair], object]) -> None:
        async def do() -> None:
            for pair in list(self._pairs):
                act(pair)

        self._do(do())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.faults.refuse:
            writer.transport.abort()
            return
        try:
            back, forth = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, forth, left=self.limit)
        if not self.faults.hold:
            pair.passing.set()
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pass(pair, reader, forth), self._pass(pair, back, writer))
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the proxy ends
        finally:
            self._pairs.discard(pair)
            if not pair.dead:
                pair.abort()

    async def _pass(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await pair.passing.wait()
            if pair.dead:
                await asyncio.Event().wait()  # until the loop ends
            if self.faults.delay:
                await asyncio.sleep(self.faults.delay)
            if self.faults.rate:
                await asyncio.sleep(len(data) / self.faults.rate)
            if pair.left is not None:
                data, pair.left = data[: pair.left], pair.left - len(data)
            writer.write(data)
            if pair.left is not None and pair.left <= 0:
                pair.abort()
                return
            await writer.drain()
        await pair.passing.wait()
        if not pair.dead and writer.can_write_eof():
            writer.write_eof()


@contextlib.contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """A proxy to ``HOST:PORT`` that is surely gone afterwards."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
