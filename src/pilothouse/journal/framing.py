"""Wire formats framed for a transport, so that shared bytes can be written to a socket unchanged; pure."""

from __future__ import annotations

from pilothouse.journal.model import Entry, Frame, WireFormat


class ChunkFramed:
    """A format's messages as chunks of an HTTP/1.1 body (SSE)."""

    def __init__(self, fmt: WireFormat) -> None:
        self.key = f"{fmt.key}/chunked"
        self._fmt = fmt

    def ends(self, entry: Entry) -> bool:
        """See :meth:`WireFormat.ends`."""
        return self._fmt.ends(entry)

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """Encode each message as one chunk."""
        return tuple(Frame(chunk(data), k) for data, k in self._fmt.encode(entry))


class WebSocketFramed:
    """A format's messages as unmasked text frames of a WebSocket."""

    def __init__(self, fmt: WireFormat) -> None:
        self.key = f"{fmt.key}/websocket"
        self._fmt = fmt

    def ends(self, entry: Entry) -> bool:
        """See :meth:`WireFormat.ends`."""
        return self._fmt.ends(entry)

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """Encode each message as one frame."""
        return tuple(Frame(text_frame(data), k) for data, k in self._fmt.encode(entry))


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def text_frame(data: bytes) -> bytes:
    """One unfragmented, unmasked text frame (RFC 6455, 5.2)."""
    size = len(data)
    if size < 126:
        return bytes((0x81, size)) + data
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data
