"""The run stream (Stella page) and the Arcentra channels: WebSockets that also listen, and their SSE form."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from pilothouse.engine import store
from pilothouse.engine.channels import Channels
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.streams import Framing, RunMessages, rfc3339
from pilothouse.identity.errors import ApiError
from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.identity.streaming import Stream, sse_response, wanted_cursor
from pilothouse.identity.web import Caller, allow, websocket_principal
from pilothouse.journal import Cursor, CursorError, CursorExpired, Feed, Selection
from pilothouse.journal.feed import START
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

    @routes.get(
        "/api/v1/workflow-runs/{run_id}/stream",
        dependencies=[allow("run.read")],
        summary="Follow a run (SSE)",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"example": _SSE_EXAMPLE}}}},
    )
    async def run_stream_sse(
        run_id: str, request: Request, caller: Caller, cursor: str | None = None
    ) -> Response:
        """The run stream as Server-Sent Events: what has happened so far, then live, until the run completes.

        Each event's ``id`` is a cursor; come back with it as ``Last-Event-ID`` or ``?cursor=``.
        """
        await _readable(identity, caller, run_id)
        place = wanted_cursor(cursor, request.headers.get("last-event-id"), START)
        stream = await _open(identity, feed, caller, run_id, RunMessages(Framing("sse", feed.epoch)), place)
        return sse_response(stream, settings.keepalive)

    @routes.websocket("/api/v1/workflow-runs/{run_id}/stream")
    async def run_stream_ws(ws: WebSocket, run_id: str) -> None:
        await ws.accept()
        try:
            caller = await _authenticate(ws, identity)
            await _readable(identity, caller, run_id)
            asked = ws.query_params.get("cursor")
            fmt = RunMessages(Framing("ws+cursor" if asked else "ws", feed.epoch))
            stream = await _open(identity, feed, caller, run_id, fmt, asked or START)
        except WebSocketDisconnect:
            return
        except (Refusal, ApiError, RunNotFound, CursorError) as error:
            await refuse(ws, error)
            return
        await RunSocket(ws, stream, settings).serve()

    @routes.websocket("/api/v1/ws")
    async def channels(ws: WebSocket) -> None:
        try:
            caller = await websocket_principal(ws, identity)
        except ApiError as error:
            await ws.accept()
            await refuse(ws, error)
            return
        await ws.accept()
        await Channels(ws, identity, feed, caller).serve()

    return routes


async def _open(
    identity: Identity, feed: Feed, caller: Principal, run_id: str, fmt: RunMessages, cursor: str
) -> Stream:
    name = entries.run_stream(run_id)
    stream = await Stream(identity, feed, caller).open(Selection(name), fmt, cursor=cursor)
    over = await feed.last_of_type(name, entries.RUN_COMPLETED)
    if over is not None and stream.subscription.reader.position > Cursor(over):
        stream.subscription.reader.ended = True  # the reader has had the last message already
    return stream


async def _readable(identity: Identity, caller: Principal, run_id: str) -> None:
    row = await identity.read(lambda conn: store.run_row(conn, run_id))
    if row is None or not caller.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    if not caller.may("run.read", row.project):
        raise ApiError.of("AUTH_INSUFFICIENT_PERMISSIONS", f"{caller.name} may not read runs of this project")


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
        await ws.close(CLOSE_CODES[code], message[:100])


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
    """One WebSocket on a run stream: messages out, heartbeats out, pongs in."""

    def __init__(self, ws: WebSocket, stream: Stream, settings: StreamSettings) -> None:
        self._ws = ws
        self._stream = stream
        self._settings = settings
        self._unanswered: float | None = None

    async def serve(self) -> None:
        """Until the run completes, the client leaves or falls silent, or the token ends."""
        listening = asyncio.create_task(self._listen())
        try:
            await self._send_all()
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client has left; its cursor brings it back
        finally:
            listening.cancel()
            self._stream.close()

    async def _send_all(self) -> None:
        clock = asyncio.get_running_loop().time
        beat_at = clock() + self._settings.heartbeat
        while True:
            messages = await self._stream.next(max(0.0, beat_at - clock()))
            if messages == []:
                await self._finish()
                return
            for message in messages or ():
                await self._ws.send_text(message.decode())
            if clock() >= beat_at:
                if self._unanswered is not None and clock() - self._unanswered >= self._settings.pong_wait:
                    await refuse(self._ws, Refusal("no_pong", "no pong came"))
                    return
                await self._ws.send_text(f'{{"type":"heartbeat","timestamp":"{rfc3339(now_ms())}"}}')
                self._unanswered = self._unanswered or clock()
                beat_at = clock() + self._settings.heartbeat

    async def _finish(self) -> None:
        if self._stream.unauthorized:
            await refuse(self._ws, Refusal("unauthorized", "Token expired"))
        elif self._stream.finished:
            await self._ws.close(1000)
        else:
            await self._ws.close(GOING_AWAY, "reconnect with your cursor")

    async def _listen(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message: dict[str, Any] = dict(await self._ws.receive())
                if message["type"] == "websocket.disconnect":
                    break
                if _is_pong(message.get("text") or message.get("bytes") or ""):
                    self._unanswered = None
        self._stream.subscription.stop()


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
