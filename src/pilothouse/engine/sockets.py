"""The run stream (Stella page) and the Arcentra channels: WebSockets that also listen, and their SSE form."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from pilothouse.engine import store
from pilothouse.engine.channels import Channels
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.streams import Framing, RunMessages, rfc3339
from pilothouse.identity.errors import ApiError, require
from pilothouse.identity.model import Principal
from pilothouse.identity.openapi import example
from pilothouse.identity.service import Identity
from pilothouse.identity.streaming import EventStream, Stream, framed, socket_connection, wanted_cursor
from pilothouse.identity.web import Caller, allow, websocket_principal
from pilothouse.journal import Cursor, CursorError, CursorExpired, Feed, Selection
from pilothouse.journal.feed import START
from pilothouse.journal.framing import text_frame
from pilothouse.storage import now_ms
from pilothouse.wire import entries

GOING_AWAY = 1001
CLOSE_CODES = {
    "bad_request": 4400,
    "unauthorized": 4401,
    "forbidden": 4403,
    "not_found": 4404,
    "no_pong": 4408,
    "cursor_expired": 4410,
}
AUTH_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Seconds: silence before an SSE comment, between heartbeats, and a client's time to answer one."""

    keepalive: float = 30
    heartbeat: float = 15
    pong_wait: float = 30


class Refusal(Exception):
    """A stream that cannot be: told as an ``error`` message, then by its close code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def router(identity: Identity, feed: Feed, settings: StreamSettings) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["streams"])

    async def opened(caller: Principal, run_id: str, framing: str, cursor: str) -> Stream:
        scope = await _readable(identity, caller, run_id)
        name, fmt = entries.run_stream(run_id), RunMessages(Framing(framing, feed.epoch))
        stream = await Stream(identity, feed, caller, scope).open(Selection(name), fmt, cursor=cursor)
        over = await feed.last_of_type(name, entries.RUN_COMPLETED)
        if over is not None and stream.reader.position > Cursor(over):
            stream.reader.ended = True  # the reader has had the last message already
        return stream

    @routes.get(
        "/api/v1/workflow-runs/{run_id}/stream",
        dependencies=[allow("run.read")],
        summary="Follow a run (SSE)",
        response_class=Response,
        responses=example(_SSE_EXAMPLE, media="text/event-stream"),
    )
    async def run_stream_sse(
        run_id: str, request: Request, caller: Caller, cursor: str | None = None
    ) -> Response:
        """The run stream as Server-Sent Events: what has happened so far, then live, until the run completes.

        Each event's ``id`` is a cursor; come back with it as ``Last-Event-ID`` or ``?cursor=``.
        """
        place = wanted_cursor(cursor, request.headers.get("last-event-id"), START)
        return EventStream(await opened(caller, run_id, "sse", place), feed, settings.keepalive)

    @routes.websocket("/api/v1/workflow-runs/{run_id}/stream")
    async def run_stream_ws(ws: WebSocket, run_id: str) -> None:
        await ws.accept()
        try:
            caller = await _authenticate(ws, identity)
            asked = ws.query_params.get("cursor")
            stream = await opened(caller, run_id, "ws+cursor" if asked else "ws", asked or START)
        except WebSocketDisconnect:
            return
        except (Refusal, ApiError, RunNotFound, CursorError) as error:
            await refuse(ws, error)
            return
        await RunSocket(ws, feed, stream, settings).serve()

    @routes.websocket("/api/v1/ws")
    async def channels(ws: WebSocket) -> None:
        await ws.accept()
        try:
            caller = await websocket_principal(ws, identity)
        except ApiError as error:
            await refuse(ws, error)
            return
        await Channels(ws, identity, feed, caller).serve()

    return routes


async def _readable(identity: Identity, caller: Principal, run_id: str) -> str:
    """The scope of the run's entries, for those who may read it."""
    row = await identity.read(lambda conn: store.run_row(conn, run_id))
    if row is None or not caller.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    require(caller, "run.read", row.project)
    return entries.project_scope(row.project)


async def _authenticate(ws: WebSocket, identity: Identity) -> Principal:
    """Token by query, header or cookie, or as the first message within 10 s."""
    try:
        return await websocket_principal(ws, identity)
    except ApiError as error:
        if error.code != "AUTH_TOKEN_MISSING":
            raise
    try:
        async with asyncio.timeout(AUTH_WAIT):
            first = await ws.receive_text()
    except (TimeoutError, KeyError):
        raise Refusal("unauthorized", "no token came within 10 s") from None
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        message = orjson.loads(first)
        if message.get("type") == "auth" and isinstance(message.get("token"), str):
            return await identity.authenticate(message["token"])
    raise Refusal("unauthorized", 'the first message must be {"type":"auth","token":…}')


async def refuse(ws: WebSocket, error: Exception) -> None:
    """Say why, then close with the code for it."""
    code, message = _refusal(error)
    body = {"type": "error", "code": code, "message": message, "timestamp": rfc3339(now_ms())}
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await ws.send_text(orjson.dumps(body).decode())
        await ws.close(CLOSE_CODES[code], close_reason(message))


def close_reason(text: str) -> str:
    """A close frame has room for 123 bytes of reason."""
    return text.encode()[:120].decode(errors="ignore")


def _refusal(error: Exception) -> tuple[str, str]:
    match error:
        case Refusal():
            return error.code, str(error)
        case RunNotFound():
            return "not_found", str(error)
        case CursorExpired():
            return "cursor_expired", str(error)
        case CursorError():
            return "bad_request", str(error)
        case ApiError(status=403):
            return "forbidden", error.message
        case ApiError():
            return "unauthorized", error.message
        case _:
            raise error


class RunSocket:
    """One WebSocket on a run stream: the feed writes the messages, this the heartbeats, and it hears the pongs."""

    def __init__(self, ws: WebSocket, feed: Feed, stream: Stream, settings: StreamSettings) -> None:
        self._ws = ws
        self._feed = feed
        self._stream = stream
        self._settings = settings
        self._connection = socket_connection(ws)
        self._beat_at = feed.clock() + settings.heartbeat
        #: Since when a heartbeat that has left our buffer is unanswered; 0 while it is still in there.
        self._unanswered: float | None = None
        self._silent = False

    async def serve(self) -> None:
        """Until the run completes, the client leaves or falls silent, or the token ends."""
        self._stream.reader.fmt = framed(self._stream.reader.fmt)
        outlet = self._stream.hand_over(self._connection)
        outlet.done.add_done_callback(lambda _: self._connection.interrupt())
        self._feed.on_tick(self, self._tick)
        try:
            outlet.pump()
            await self._listen()
            await self._say_goodbye(outlet.expired)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client has left; its cursor brings it back
        finally:
            self._feed.off_tick(self)
            self._stream.close()

    def _tick(self, now: float) -> None:
        if self._unanswered == 0 and self._connection.flushed:
            self._unanswered = now
        if self._unanswered and now - self._unanswered >= self._settings.pong_wait:
            self._silent = True
            self._stream.stop()
        elif now >= self._beat_at and self._connection.writable:
            beat = f'{{"type":"heartbeat","timestamp":"{rfc3339(now_ms())}"}}'
            self._connection.write(text_frame(beat.encode()))
            self._beat_at = now + self._settings.heartbeat
            if self._unanswered is None:
                self._unanswered = 0

    async def _listen(self) -> None:
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            if _is_pong(message.get("text") or message.get("bytes") or ""):
                self._unanswered = None

    async def _say_goodbye(self, expired: CursorExpired | None) -> None:
        if self._stream.unauthorized:
            await refuse(self._ws, Refusal("unauthorized", "Token expired"))
        elif self._stream.forbidden:
            await refuse(self._ws, Refusal("forbidden", "You may no longer see this run"))
        elif self._silent:
            await refuse(self._ws, Refusal("no_pong", "no pong came in time"))
        elif expired is not None:
            await refuse(self._ws, expired)
        elif self._stream.finished:
            await self._ws.close(1000)
        else:
            await self._ws.close(GOING_AWAY, "reconnect with your cursor")


def _is_pong(text: str | bytes) -> bool:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and message.get("type") == "pong"


_SSE_EXAMPLE = (
    "id: 5f2c9d1e.1042.0\nevent: step_started\n"
    'data: {"type":"step_started","nodeId":"compile","stepType":"shell","timestamp":"2026-01-10T14:23:45.000Z"}\n\n'
)
