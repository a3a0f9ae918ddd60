"""How long a client may take: for the head of a request, for its body, and to read an answer."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from asyncio.transports import Transport
from collections.abc import Callable
from typing import Literal, Protocol

HEAD_WAIT = 10.0
"""Seconds for a request line and headers, from the acceptance or the first byte."""

BODY_GRACE = 10.0
"""Seconds after which a body must have come at :data:`BODY_RATE`."""

BODY_RATE = 1024
"""Bytes per second, on average after the grace."""

BODY_SILENCE = 30.0
"""Seconds without a byte of the body."""

READER_SILENCE = 60.0
"""Seconds in which a client that is sent an answer takes nothing of it."""

CHECK = 5.0
"""Seconds between two looks at a body."""

What = Literal["head", "body", "reader"]


class _Flow(Protocol):
    read_paused: bool


class Deadlines:
    """The deadlines of one connection; ``late`` is called with what did not come in time. One timer for what is
    received, one for what is sent; a request that arrives at once needs none."""

    __slots__ = (
        "_deadline",
        "_flow",
        "_heard",
        "_late",
        "_left",
        "_loop",
        "_reader",
        "_timer",
        "_transport",
        "body_bytes",
    )

    def __init__(self, loop: AbstractEventLoop, transport: Transport, late: Callable[[What], None]) -> None:
        self._loop = loop
        self._transport = transport
        self._late = late
        self._timer: TimerHandle | None = None
        self._reader: TimerHandle | None = None
        self._flow: _Flow | None = None
        self._deadline = 0.0
        self._heard = (0, 0.0)
        self._left = 0
        #: Bytes of the current body so far.
        self.body_bytes = 0

    def cancel(self) -> None:
        """The connection ends, or somebody else looks after it."""
        self._stop()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def expect_head(self) -> None:
        """A head may have begun; what is expected already keeps its deadline."""
        if self._timer is None:
            self._timer = self._loop.call_later(HEAD_WAIT, self._head_is_late)

    def head_arrived(self) -> None:
        """The head is complete."""
        self._stop()

    def expect_body(self, flow: _Flow) -> None:
        """A body follows. Time in which the server itself does not read does not count."""
        now = self._loop.time()
        self._flow = flow
        self.body_bytes = 0
        self._deadline = now + BODY_GRACE
        self._heard = (0, now)
        self._timer = self._loop.call_later(BODY_GRACE, self._look_at_body)

    def body_arrived(self) -> None:
        """The request is complete."""
        self._stop()

    def expect_reader(self) -> None:
        """Something waits to be sent."""
        if self._reader is None and (left := self._transport.get_write_buffer_size()):
            self._left = left
            self._reader = self._loop.call_later(READER_SILENCE, self._look_at_reader)

    def _stop(self) -> None:
        self._flow = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        self._late("head")

    def _look_at_body(self) -> None:
        now, (bytes_before, heard) = self._loop.time(), self._heard
        assert self._flow is not None
        self._timer = None
        if self._flow.read_paused:
            self._deadline += CHECK
            self._heard = (self.body_bytes, now)
        elif self.body_bytes > bytes_before:
            self._heard = (self.body_bytes, heard := now)
        if not self._flow.read_paused and (
            self.body_bytes < (now - self._deadline) * BODY_RATE or now - heard >= BODY_SILENCE
        ):
            self._late("body")
            return
        self._timer = self._loop.call_later(CHECK, self._look_at_body)

    def _look_at_reader(self) -> None:
        self._reader = None
        left = self._transport.get_write_buffer_size()
        if left and left >= self._left:
            self._late("reader")
        else:
            self.expect_reader()
