"""A WebSocket that its endpoint has taken over: the feed writes to it, a listener gets the client's messages."""

from __future__ import annotations

import asyncio
import logging
from asyncio.transports import Transport
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from pilothouse.edge.streaming import Message, OnMessage, SocketClosed
from pilothouse.journal.framing import text_frame
from pilothouse.journal.turns import Turns
from pilothouse.server.feed_socket import FeedSocket

log = structlog.get_logger("sockets")
_QUIET = logging.getLogger("pilothouse.websockets")

GOING_AWAY, BAD_TEXT, INTERNAL = 1001, 1007, 1011

LINGER = 1.0
"""Seconds that a client on TLS has to read the close frame of a failed connection."""

SLICE = 2 << 10
"""Bytes of input that are parsed at once: frames can be tiny, and other connections must not wait."""


class MessageSocket(FeedSocket):
    """A WebSocket. Frames are parsed and bounded by websockets' sans-I/O protocol, a slice of data at a time.

    The listener gets one message at a time. While it handles one (it returned a coroutine), or while there is no
    listener, nothing more is read from the transport. All sockets share a part of each iteration of the event loop.
    """

    __slots__ = (
        "_conn",
        "_drained",
        "_listener",
        "_messages",
        "_on_lost",
        "_opcode",
        "_part",
        "_pending",
        "_pong",
        "_queued",
        "_turns",
        "_waiter",
        "_work",
    )

    def __init__(self, transport: Transport, connections: set[Any], max_size: int, turns: Turns) -> None:
        """After the opening handshake; ``max_size``: bytes of a message; ``turns``: for the input of all."""
        # A new protocol object, since that of the handshake refers to the request.
        self._conn = _Protocol(SERVER, max_size=max_size, logger=_QUIET)
        self._listener: OnMessage | None = None
        self._on_lost: Callable[[], None] | None = None
        self._waiter: asyncio.Future[Message] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._opcode = Opcode.TEXT
        self._part = bytearray()
        self._messages: list[Message] = []
        self._pending = b""
        self._pong = b""
        self._work: asyncio.Handle | asyncio.Task[None] | None = None
        self._turns = turns
        self._queued = False
        super().__init__(transport, connections)
        self._regulate()

    @property
    def over(self) -> bool:
        """Whether a close frame was sent, or the connection is closing."""
        return self._conn.state is not OPEN or self._transport.is_closing()

    # -- for endpoints ----------------------------------------------------------------------------------

    def listen(self, listener: OnMessage | None, on_lost: Callable[[], None] | None = None) -> None:
        """Call this listener with every message; the next one is delivered when the coroutine it returned is done.

        ``on_lost``: called once the connection is gone.
        """
        self._listener, self._on_lost = listener, on_lost
        self._regulate()

    async def receive(self) -> Message:
        """Wait for one message, before :meth:`listen`. Raises :class:`SocketClosed`."""
        if self.over:
            raise SocketClosed
        self._waiter = asyncio.get_running_loop().create_future()
        self.listen(self._first)
        try:
            return await self._waiter
        finally:
            self._waiter = None
            self.listen(None)

    async def drain(self) -> None:
        """Wait until the write buffer has drained. Raises :class:`SocketClosed`."""
        if self.over:
            raise SocketClosed
        if not self.writable:
            self._drained = self._drained or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def say(self, text: bytes) -> None:
        """Send one text message (UTF-8); never waits. Does nothing once the closing handshake has begun."""
        if not self.over:
            self.write(text_frame(text))

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; does nothing if it has begun already."""
        if self.over:
            return
        self._conn.send_close(code, reason)
        self.write(b"".join(self._conn.data_to_send()))
        self._messages.clear()
        self._stop_outlets()
        self._expect_end()
        self._regulate()

    # -- called by the transport and the server ---------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._conn.eof_sent:
            return  # input is ignored after the end was sent
        self._pending += data
        if self._work is None and not self._queued:
            self._advance()

    def resume_writing(self) -> None:
        """Called by the transport: it has drained."""
        if self._pong and not self.over:
            self.write(self._pong)
        self._pong = b""
        super().resume_writing()
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._listener = None
        self._pending, self._messages = b"", []
        for waiting in (self._waiter, self._drained):
            if waiting is not None and not waiting.done():
                waiting.set_exception(SocketClosed())
        super().connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()
            self._on_lost = None

    def shutdown(self) -> None:
        """Called when the server stops: tells the client to reconnect, and does not wait for it."""
        self.close(GOING_AWAY, "reconnect")
        self._transport.close()

    # -- input ------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Parse a slice of the input; the rest follows in a later iteration of the event loop, in turn."""
        self._work = None
        self._queued = bool(self._messages or self._pending) and self._turns.over
        if self._queued:
            self._turns.add(self._advance)
            self._transport.pause_reading()
            return
        if not self._messages and self._pending:
            piece, self._pending = self._pending[:SLICE], self._pending[SLICE:]
            listening = not self.over  # after our own close frame, messages are ignored
            self._conn.receive_data(piece)
            frames = self._conn.events_received()
            if listening:
                self._take(frames)
            self._answer(self._conn.data_to_send())
        while self._messages and self._listener is not None and self._work is None:
            work = self._listener(self._messages.pop(0))
            if work is not None:
                self._work = asyncio.get_running_loop().create_task(self._carry_out(work))
        self._regulate()

    async def _carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SocketClosed:
            pass
        except Exception:
            log.exception("socket.message_failed")
            self.close(INTERNAL, "internal error")
        finally:
            self._work = None
            self._regulate()

    def _regulate(self) -> None:
        """Resume reading if all input has been handled; otherwise schedule the rest."""
        if self._queued or self._transport.is_closing():
            return
        held = bool(self._messages) and self._listener is None
        if self._work is None and not held and not self._messages and not self._pending:
            self._transport.resume_reading()
            return
        self._transport.pause_reading()
        if self._work is None and not held:
            self._work = asyncio.get_running_loop().call_soon(self._advance)

    def _take(self, frames: list[Any]) -> None:
        """Assemble frames into messages."""
        for frame in frames:
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            if frame.opcode is not Opcode.CONT:
                self._opcode = frame.opcode
            self._part += frame.data
            if frame.fin and not self._complete():
                return

    def _complete(self) -> bool:
        """Queue a complete message; False if its text is not UTF-8."""
        data, self._part = bytes(self._part), bytearray()
        try:
            self._messages.append(data.decode() if self._opcode is Opcode.TEXT else data)
        except UnicodeDecodeError:
            if self._conn.state is OPEN:
                self._conn.fail(BAD_TEXT, "text is UTF-8")
            return False
        return True

    def _first(self, message: Message) -> None:
        self.listen(None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(message)

    def _answer(self, answers: list[bytes]) -> None:
        """Write the protocol's answers (pongs, close frames); an empty one means: end the connection.

        A client that does not read only gets the latest pong (RFC 6455, 5.5.3).
        """
        for answer in answers:
            if not answer:
                self._hang_up()
            elif self.writable or self.over:
                self.write(answer)
            else:
                self._pong = answer

    def _hang_up(self) -> None:
        """End the connection. A client that is still sending must be able to read the close frame before a reset."""
        self._stop_outlets()
        self._expect_end()
        self._pending = b""
        if self._conn.close_rcvd is not None:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS connections cannot be half-closed
            asyncio.get_running_loop().call_later(LINGER, self._transport.close)


class _Protocol(Protocol):
    """Accepts a close frame between the frames of a fragmented message (RFC 6455, 5.4)."""

    def recv_frame(self, frame: Frame) -> None:
        """Called by the parser."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
