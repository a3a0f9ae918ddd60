"""``/api/v1/ws``: the Arcentra log and status channels, several subscriptions on one socket.

Order on a log subscription: ``subscribed``, ``log_chunk``… (history), ``history_done``, then one ``log`` per line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.websockets import WebSocket

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.asyncapi import Channel
from pilothouse.edge.services import Database, JournalFeed
from pilothouse.edge.streaming import Message, MessageSocket, Stream, accepted, framed
from pilothouse.edge.web import websocket_principal
from pilothouse.engine.lookup import find_step_run
from pilothouse.engine.model import Attempt
from pilothouse.engine.sockets.closing import GOING_AWAY, close_reason, refuse
from pilothouse.engine.streams.arcentra import MESSAGES, STATUS_NUMBERS, StepLog, StepStatus
from pilothouse.engine.streams.framing import Framing
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.service import Identity
from pilothouse.journal import CursorError, CursorExpired, Feed, Selection, WireFormat
from pilothouse.journal.outlet import Outlet
from pilothouse.storage import Storage, now_ms
from pilothouse.wire import entries
from pilothouse.wire.rest.streams import ChannelRequest
from pilothouse.wire.times import rfc3339_ms

LOG, STATUS = "channel_log", "channel_status"
MAX_SUBSCRIPTIONS = 256
_PARAMS = ("pipelineId", "jobId", "stepRunId")

router = APIRouter(tags=["streams"])

CHANNELS = (
    Channel(
        "stepChannels",
        "/api/v1/ws",
        "ws",
        "Logs and statuses of attempts of steps, several subscriptions on one connection",
        "run.read",
        sends=MESSAGES,
        receives={"*": ChannelRequest},
        query={"token": "instead of a header or cookie"},
    ),
)
"""For ``/asyncapi.json``."""


@router.websocket("/api/v1/ws")
async def channels(ws: WebSocket, identity: IdentityService, database: Database, feed: JournalFeed) -> None:
    async with accepted(ws) as socket:
        try:
            caller = await websocket_principal(ws)
        except Refusal as error:
            refuse(socket, error, channel=LOG)
            return
        Subscriptions(socket, identity, database, feed, caller).begin()


@dataclass(frozen=True, slots=True)
class Subject:
    """The attempt that a subscription is about."""

    run_id: str
    project: str
    params: dict[str, str]
    attempt: Attempt


class BadRequest(Exception):
    """An invalid request; the connection stays open."""


class Subscriptions:
    """The requests and subscriptions of one socket, until the client disconnects or its token ends."""

    def __init__(
        self, socket: MessageSocket, identity: Identity, database: Storage, feed: Feed, caller: Principal
    ) -> None:
        self._socket = socket
        self._identity = identity
        self._database = database
        self._feed = feed
        self._caller = caller
        self._authorization = identity.authorize(caller)
        self._open: dict[tuple[str, str], Stream] = {}

    def begin(self) -> None:
        """Start to receive requests."""
        self._authorization.on_end(lambda: self._socket.close(4401, "Token expired"))
        self._socket.listen(self._request, self._lost)

    def _lost(self) -> None:
        self._authorization.close()
        for stream in list(self._open.values()):
            stream.close()

    async def _request(self, text: Message) -> None:
        await (
            self._socket.drain()
        )  # backpressure: a client must read answers before further requests are handled
        request: Any = None
        try:
            try:
                request = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise BadRequest("a request is one JSON object") from None
            if not isinstance(request, dict):
                raise BadRequest("a request is one JSON object")
            channel = request.get("channel")
            if channel not in (LOG, STATUS):
                raise BadRequest(f"channel must be {LOG} or {STATUS}")
            params = request.get("params")
            if not isinstance(params, dict) or not all(
                isinstance(params.get(k), str) and params[k] for k in _PARAMS
            ):
                raise BadRequest("pipelineId, jobId and stepRunId are required")
            action = request.get("action", "subscribe")
            if action == "subscribe":
                await self._subscribe(channel, params)
            elif action == "unsubscribe":
                self._unsubscribe(channel, params)
            else:
                raise BadRequest("action must be subscribe or unsubscribe")
        except BadRequest as error:
            self._error(request if isinstance(request, dict) else {}, str(error))

    async def _subscribe(self, channel: str, params: dict[str, Any]) -> None:
        key = (channel, params["stepRunId"])
        if key in self._open:
            raise BadRequest("this channel is subscribed already")
        if len(self._open) >= MAX_SUBSCRIPTIONS:
            raise BadRequest(f"a connection holds at most {MAX_SUBSCRIPTIONS} subscriptions")
        subject = await self._find(params)
        try:
            follow = self._follow_log if channel == LOG else self._follow_status
            await follow(key, subject, params.get("cursor"))
        except CursorError as error:
            self._cursor_refused(channel, params, error)

    def _unsubscribe(self, channel: str, params: dict[str, Any]) -> None:
        stream = self._open.pop((channel, params["stepRunId"]), None)
        if stream is not None:
            stream.close()
        self._send(channel, "unsubscribed", params, None)

    async def _find(self, params: dict[str, Any]) -> Subject:
        subject = await self._database.read(lambda conn: _find_subject(conn, params["stepRunId"]))
        if subject is None or not self._authorization.sees(entries.project_scope(subject.project)):
            raise BadRequest(f"no step run with ID '{params['stepRunId']}' exists")
        if any(params[name] != subject.params[name] for name in _PARAMS):
            raise BadRequest("pipelineId and jobId are not those of this step run")
        return subject

    async def _stream(self, subject: Subject, fmt: StepLog | StepStatus, cursor: str) -> Stream:
        selection = Selection(entries.run_stream(subject.run_id), subject=subject.attempt.id)
        scope = entries.project_scope(subject.project)
        return await Stream(self._identity, self._feed, self._caller, scope).open(
            selection, fmt, cursor=cursor
        )

    async def _follow_log(self, key: tuple[str, str], subject: Subject, asked: Any) -> None:
        framing = Framing("ws+cursor" if asked else "ws", self._feed.epoch)
        stream = await self._stream(subject, StepLog(framing, batched=True), str(asked or "start"))
        self._send(LOG, "subscribed", subject.params, None, stream if asked else None)
        live = framed(StepLog(framing, batched=False))

        def history_done() -> None:
            self._send(LOG, "history_done", subject.params, None, stream if asked else None)

        self._follow(key, subject.params, stream, live, history_done)

    async def _follow_status(self, key: tuple[str, str], subject: Subject, asked: Any) -> None:
        framing = Framing("ws+cursor" if asked else "ws", self._feed.epoch)
        # The cursor is taken before the snapshot is read, so no change in between is missed.
        stream = await self._stream(subject, StepStatus(framing), str(asked or "now"))
        try:
            found = await self._database.read(lambda conn: find_step_run(conn, subject.attempt.id))
        except BaseException:
            stream.close()
            raise
        assert found is not None, "step runs are never deleted while their run is there"
        shown = snapshot(subject.params, found.attempt, now_ms())
        self._send(STATUS, "status_snapshot", subject.params, shown, stream if asked else None)
        if found.attempt.status.over and asked is None:
            stream.close()
        else:
            self._follow(key, subject.params, stream)

    def _follow(
        self,
        key: tuple[str, str],
        params: dict[str, str],
        stream: Stream,
        live: WireFormat | None = None,
        on_live: Callable[[], None] | None = None,
    ) -> None:
        """Have the feed write entries until the attempt is over or the stream is stopped."""

        def ended(outlet: Outlet) -> None:
            unsubscribed = self._open.get(key) is not stream
            if not unsubscribed:
                del self._open[key]
            stream.close()
            if stream.finished:
                if outlet.on_live is not None:  # the stream ended within its history
                    outlet.on_live()
            elif outlet.expired is not None:
                self._cursor_refused(key[0], params, outlet.expired)
            elif stream.forbidden and not unsubscribed:
                self._error({"channel": key[0], "params": params}, "you may no longer see this step run")
            elif not (unsubscribed or stream.unauthorized):
                self._socket.close(GOING_AWAY, "reconnect with your cursor")

        self._open[key] = stream
        stream.reader.fmt = framed(stream.reader.fmt)
        outlet = stream.hand_over(self._socket, ended, live)
        outlet.on_live = on_live
        outlet.pump()

    def _cursor_refused(self, channel: str, params: dict[str, Any], error: CursorError) -> None:
        expired = isinstance(error, CursorExpired)
        body = {
            "channel": channel,
            "type": "error",
            "params": {name: params[name] for name in _PARAMS},
            "data": None,
            "error": str(error),
        }
        body["code"] = "cursor_expired" if expired else "bad_request"
        self._socket.say(orjson.dumps(body))
        self._socket.close(4410 if expired else 4400, close_reason(str(error)))

    def _send(
        self, channel: str, type: str, params: dict[str, Any], data: Any, at: Stream | None = None
    ) -> None:
        """Send a message. ``at``: include the cursor of this stream."""
        named = {name: params[name] for name in _PARAMS}
        body = {"channel": channel, "type": type, "params": named, "data": data}
        if at is not None:
            body["cursor"] = at.reader.position.text(self._feed.epoch)
        self._socket.say(orjson.dumps(body))

    def _error(self, request: dict[str, Any], message: str) -> None:
        given = request.get("params")
        params = {name: given[name] for name in _PARAMS if name in given} if isinstance(given, dict) else {}
        channel = request.get("channel")
        body = {"channel": channel if isinstance(channel, str) else LOG, "type": "error", "params": params}
        self._socket.say(orjson.dumps({**body, "data": None, "error": message}))


def _find_subject(conn: Connection, step_run_id: str) -> Subject | None:
    at = find_step_run(conn, step_run_id)
    if at is None:
        return None
    run = at.run
    params = {"pipelineId": run.pipeline_id or run.id, "jobId": at.job.id, "stepRunId": step_run_id}
    return Subject(run.id, run.project, params, at.attempt)


def snapshot(params: dict[str, str], attempt: Attempt, now: int) -> dict[str, Any]:
    """The current state of an attempt; ``duration`` in ms, until ``now`` while it runs."""
    ended = attempt.finished_at
    return {
        "stepRunId": attempt.id,
        "pipelineId": params["pipelineId"],
        "jobId": params["jobId"],
        "status": STATUS_NUMBERS[attempt.status.value],
        "startTime": rfc3339_ms(attempt.started_at) if attempt.started_at else None,
        "endTime": rfc3339_ms(ended) if ended else None,
        "duration": (ended or now) - attempt.started_at if attempt.started_at else 0,
    }
