"""The run stream (Stella page) over WebSocket and SSE."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.asyncapi import Channel
from pilothouse.edge.exchange import Exchange
from pilothouse.edge.openapi import content, errors
from pilothouse.edge.services import Database, JournalFeed, provided
from pilothouse.edge.streaming import (
    EventStream,
    Message,
    MessageSocket,
    Stream,
    accepted,
    framed,
    wanted_cursor,
)
from pilothouse.edge.web import Caller, allow, websocket_principal
from pilothouse.engine import store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.sockets.closing import GOING_AWAY, StreamRefusal, refuse
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import MESSAGES, RunMessages
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.service import Identity
from pilothouse.journal import Cursor, CursorError, Feed, Selection
from pilothouse.journal.feed import START
from pilothouse.journal.outlet import Outlet
from pilothouse.storage import Storage, now_ms
from pilothouse.wire import entries
from pilothouse.wire.rest import streams as messages
from pilothouse.wire.times import rfc3339_ms

AUTH_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """In seconds: silence before an SSE comment, heartbeat interval, and timeout for the answer to a heartbeat."""

    keepalive: float = 30
    heartbeat: float = 15
    pong_wait: float = 30


async def _open(
    database: Storage,
    identity: Identity,
    feed: Feed,
    caller: Principal,
    run_id: str,
    framing: str,
    cursor: str,
) -> Stream:
    scope = await _readable(database, caller, run_id)
    name = entries.run_stream(run_id)
    reopened = await feed.last_of_type(name, entries.RUN_REOPENED) or 0
    fmt = RunMessages(Framing(framing, feed.epoch), reopened)
    stream = await Stream(identity, feed, caller, scope).open(Selection(name), fmt, cursor=cursor)
    over = await feed.last_of_type(name, entries.RUN_COMPLETED)
    if over is not None and over > reopened and stream.reader.position > Cursor(over):
        stream.reader.ended = True  # the client already has the last message
    return stream


router = APIRouter(tags=["streams"])

Settings = Annotated[StreamSettings, provided(StreamSettings)]

_CURSOR = {"cursor": "a cursor, start (the default) or now"}
CHANNELS = (
    Channel(
        "runStream",
        "/api/v1/workflow-runs/{run_id}/stream",
        "ws",
        "Follow a run: what has happened so far, then what happens until it ends",
        "run.read",
        sends={**MESSAGES, "heartbeat": messages.Heartbeat, "error": messages.StreamError},
        receives={"auth": messages.Auth, "pong": messages.Pong},
        query={**_CURSOR, "token": "instead of a header or cookie"},
    ),
    Channel(
        "runEvents",
        "/api/v1/workflow-runs/{run_id}/stream",
        "sse",
        "The run stream as Server-Sent Events",
        "run.read",
        sends=MESSAGES,
        query=_CURSOR,
    ),
)
"""For ``/asyncapi.json``."""

_SSE_EXAMPLE = (
    "id: 5f2c9d1e.1042.0\nevent: step_started\n"
    'data: {"type":"step_started","nodeId":"compile","stepType":"shell","timestamp":"2026-01-10T14:23:45.000Z"}\n\n'
)


@router.get(
    "/api/v1/workflow-runs/{run_id}/stream",
    dependencies=[allow("run.read")],
    summary="Follow a run (SSE)",
    response_class=Response,
    responses=content(_SSE_EXAMPLE, media="text/event-stream", description="The messages of the run stream")
    | errors("RUN_NOT_FOUND", "CURSOR_INVALID", "CURSOR_EXPIRED"),
)
async def follow_run(
    run_id: str,
    request: Request,
    caller: Caller,
    feed: JournalFeed,
    settings: Settings,
    database: Database,
    identity: IdentityService,
    cursor: str | None = None,
) -> Response:
    """The run stream as Server-Sent Events: all events so far, then live events until the run completes.

    Each event's ``id`` is a cursor; to resume, send it as ``Last-Event-ID`` or ``?cursor=``.
    """
    place = wanted_cursor(cursor, request.headers.get("last-event-id"), START)
    return EventStream(
        await _open(database, identity, feed, caller, run_id, "sse", place), feed, settings.keepalive
    )


@router.websocket("/api/v1/workflow-runs/{run_id}/stream")
async def run_stream_ws(
    ws: WebSocket,
    run_id: str,
    identity: IdentityService,
    feed: JournalFeed,
    settings: Settings,
    database: Database,
) -> None:
    async with accepted(ws) as socket:
        try:
            caller = await _authenticate(ws, socket, identity)
            asked = ws.query_params.get("cursor")
            stream = await _open(
                database, identity, feed, caller, run_id, "ws+cursor" if asked else "ws", asked or START
            )
        except (StreamRefusal, Refusal, RunNotFound, CursorError) as error:
            refuse(socket, error)
            return
        RunSocket(socket, feed, stream, settings, cursors=bool(asked)).begin()


async def _readable(database: Storage, caller: Principal, run_id: str) -> str:
    """The scope of the run's entries, if the caller may read it."""
    row = await database.read(lambda conn: store.run_row(conn, run_id))
    if row is None or not caller.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    require(caller, "run.read", row.project)
    return entries.project_scope(row.project)


async def _authenticate(ws: WebSocket, socket: MessageSocket, identity: Identity) -> Principal:
    """Authenticate by query, header or cookie, or by the first message within 10 s."""
    try:
        return await websocket_principal(ws)
    except Refusal as error:
        if error.code != "AUTH_TOKEN_MISSING":
            raise
    try:
        async with asyncio.timeout(AUTH_WAIT):
            first = await socket.receive()
    except TimeoutError:
        raise StreamRefusal("unauthorized", "no token came within 10 s") from None
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        message = orjson.loads(first)
        if message.get("type") == "auth" and isinstance(message.get("token"), str):
            caller = await identity.authenticate(message["token"])
            Exchange.of(ws.scope).count(caller)
            return caller
    raise StreamRefusal("unauthorized", 'the first message must be {"type":"auth","token":…}')


class RunSocket:
    """One WebSocket on a run stream: the feed writes messages, this object sends heartbeats and receives pongs.

    Ends when the run completes, the client disconnects or does not answer, or the token ends.
    """

    __slots__ = (
        "_beat_at",
        "_cursors",
        "_feed",
        "_outlet",
        "_settings",
        "_silent",
        "_socket",
        "_stream",
        "_unanswered",
    )

    def __init__(
        self, socket: MessageSocket, feed: Feed, stream: Stream, settings: StreamSettings, *, cursors: bool
    ) -> None:
        self._cursors = cursors
        stream.reader.fmt = framed(stream.reader.fmt)
        self._socket = socket
        self._feed = feed
        self._stream = stream
        self._settings = settings
        self._outlet = stream.hand_over(socket, self._ended)
        self._beat_at = feed.clock() + settings.heartbeat
        #: Since when a sent heartbeat is unanswered; 0 while it is still in the write buffer.
        self._unanswered: float | None = None
        self._silent = False

    def begin(self) -> None:
        """Start writing and receiving."""
        self._feed.timers.schedule(self, self._beat_at)
        self._socket.listen(self._message_received)
        self._outlet.pump()

    def tick(self, now: float) -> None:
        """Called when a heartbeat or its answer is due."""
        if self._unanswered == 0 and self._socket.flushed:
            self._unanswered = now
        if self._unanswered and now - self._unanswered >= self._settings.pong_wait:
            self._silent = True
            self._stream.stop()
            return
        if now >= self._beat_at and self._socket.writable:
            beat = {"type": "heartbeat", "timestamp": rfc3339_ms(now_ms())}
            if self._cursors:
                beat["cursor"] = self._outlet.position.text(self._feed.epoch)
            self._socket.say(orjson.dumps(beat))
            self._beat_at = now + self._settings.heartbeat
            if self._unanswered is None:
                self._unanswered = 0
        self._feed.timers.schedule(self, self._next(now))

    def _next(self, now: float) -> float:
        if self._unanswered == 0:
            return now  # check again in the next round whether it was sent
        if self._unanswered is None:
            return self._beat_at
        return min(self._beat_at, self._unanswered + self._settings.pong_wait)

    def _message_received(self, message: Message) -> None:
        if _is_pong(message):
            self._unanswered = None

    def _ended(self, outlet: Outlet) -> None:
        """Close the socket with the reason. A client that has disconnected can resume with its cursor."""
        self._feed.timers.cancel(self)
        self._stream.close()
        stream, socket = self._stream, self._socket
        if stream.unauthorized:
            refuse(socket, StreamRefusal("unauthorized", "Token expired"))
        elif stream.forbidden:
            refuse(socket, StreamRefusal("forbidden", "You may no longer see this run"))
        elif self._silent:
            refuse(socket, StreamRefusal("no_pong", "no pong came in time"))
        elif outlet.expired is not None:
            refuse(socket, outlet.expired)
        elif stream.finished:
            socket.close(1000)
        else:
            socket.close(GOING_AWAY, "reconnect with your cursor")


def _is_pong(text: str | bytes) -> bool:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and message.get("type") == "pong"
