"""The thin subclass of uvicorn's WebSocket protocol: a stop tells clients to reconnect (close code 1001)."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

GOING_AWAY = 1001


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own would say 1012 at a stop; decisions.md wants 1001."""

    def shutdown(self) -> None:
        """Called once for every open connection when the server stops."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.conn.send_close(GOING_AWAY, "reconnect")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
