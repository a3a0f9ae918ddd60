"""``/api/v1/ws``: the Arcentra log and status channels, several subscriptions on one socket.

Order on a log subscription: ``subscribed``, ``log_chunk``… (history), ``history_done``, then ``log`` a line.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection
from starlette.websockets import WebSocket, WebSocketDisconnect

from pilothouse.engine import store
from pilothouse.engine.model import Attempt
from pilothouse.engine.streams import STATUS_NUMBERS, Framing, StepLog, StepStatus, rfc3339
from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.identity.streaming import Stream, framed, socket_connection
from pilothouse.journal import CursorError, CursorExpired, Feed, Selection
from pilothouse.wire import entries

LOG, STATUS = "channel_log", "channel_status"
MAX_SUBSCRIPTIONS = 256
_PARAMS = ("pipelineId", "jobId", "stepRunId")


@dataclass(frozen=True, slots=True)
class Subject:
    """The attempt that a subscription is about."""

    run_id: str
    project: str
    params: dict[str, str]
    attempt: Attempt


class BadRequest(Exception):
    """A request that cannot be served; the connection lives."""


class Channels:
    """One client's socket."""

    def __init__(self, ws: WebSocket, identity: Identity, feed: Feed, caller: Principal) -> None:
        self._ws = ws
        self._identity = identity
        self._feed = feed
        self._caller = caller
        self._guard = identity.guard(caller)
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer requests until the client leaves or its token ends."""
        lost = asyncio.create_task(self._guard.ended())
        try:
            while True:
                receiving = asyncio.create_task(self._ws.receive())
                await asyncio.wait({receiving, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    receiving.cancel()
                    await self._ws.close(4401, "Token expired")
                    return
                message = receiving.result()
                if message["type"] == "websocket.disconnect":
                    return
                await self._request(message.get("text") or message.get("bytes") or "")
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            lost.cancel()
            self._guard.close()
            for task in self._running.values():
                task.cancel()

    async def _request(self, text: str | bytes) -> None:
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
                await self._unsubscribe(channel, params)
            else:
                raise BadRequest("action must be subscribe or unsubscribe")
        except BadRequest as error:
            await self._error(request if isinstance(request, dict) else {}, str(error))

    async def _subscribe(self, channel: str, params: dict[str, Any]) -> None:
        key = (channel, params["stepRunId"])
        known = self._running.get(key)
        if known is not None and not known.done():
            raise BadRequest("this channel is subscribed already")
        if len(self._running) >= MAX_SUBSCRIPTIONS:
            self._running = {k: task for k, task in self._running.items() if not task.done()}
            if len(self._running) >= MAX_SUBSCRIPTIONS:
                raise BadRequest(f"a connection holds at most {MAX_SUBSCRIPTIONS} subscriptions")
        subject = await self._find(params)
        follow = self._follow_log if channel == LOG else self._follow_status
        self._running[key] = asyncio.create_task(follow(subject, params.get("cursor")))

    async def _unsubscribe(self, channel: str, params: dict[str, Any]) -> None:
        task = self._running.pop((channel, params["stepRunId"]), None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._send(channel, "unsubscribed", params, None)

    async def _find(self, params: dict[str, Any]) -> Subject:
        subject = await self._identity.read(lambda conn: _find_subject(conn, params["stepRunId"]))
        if subject is None or not self._guard.sees(entries.project_scope(subject.project)):
            raise BadRequest(f"no step run with ID '{params['stepRunId']}' exists")
        if any(params[name] != subject.params[name] for name in _PARAMS):
            raise BadRequest("pipelineId and jobId are not those of this step run")
        return subject

    async def _open(self, subject: Subject, fmt: StepLog | StepStatus, cursor: str) -> Stream:
        selection = Selection(entries.run_stream(subject.run_id), subject=subject.attempt.id)
        scope = entries.project_scope(subject.project)
        return await Stream(self._identity, self._feed, self._caller, scope).open(
            selection, fmt, cursor=cursor
        )

    async def _follow_log(self, subject: Subject, asked: Any) -> None:
        framing = Framing("ws+cursor" if asked else "ws", self._feed.epoch)
        try:
            stream = await self._open(subject, StepLog(framing, batched=True), str(asked or "start"))
        except CursorError as error:
            await self._cursor_refused(LOG, subject, error)
            return
        try:
            await self._send(LOG, "subscribed", subject.params, None)
            history = stream.follow()
            while messages := await history.past():
                await self._send_each(messages)
            await self._send(LOG, "history_done", subject.params, None)
            stream.reader.fmt = framed(StepLog(framing, batched=False))
            await self._live(stream)
        finally:
            stream.close()

    async def _follow_status(self, subject: Subject, asked: Any) -> None:
        framing = Framing("ws+cursor" if asked else "ws", self._feed.epoch)
        try:
            # The place is taken before the snapshot is read: what happens in between is not missed.
            stream = await self._open(subject, StepStatus(framing), str(asked or "now"))
        except CursorError as error:
            await self._cursor_refused(STATUS, subject, error)
            return
        try:
            found = await self._identity.read(lambda conn: store.attempt(conn, subject.attempt.id))
            assert found is not None, "attempts are never deleted while their run is there"
            await self._send(STATUS, "status_snapshot", subject.params, snapshot(subject.params, found[1]))
            if not found[1].status.over or asked is not None:
                stream.reader.fmt = framed(stream.reader.fmt)
                await self._live(stream)
        finally:
            stream.close()

    async def _live(self, stream: Stream) -> None:
        """Let the feed write what comes, until the attempt is over or the stream is stopped."""
        if stream.reader.ended:
            return
        outlet = stream.hand_over(socket_connection(self._ws))
        outlet.pump()
        await asyncio.shield(outlet.done)
        if not stream.finished and not stream.unauthorized and not stream.forbidden:
            await self._ws.close(1001, "reconnect with your cursor")

    async def _cursor_refused(self, channel: str, subject: Subject, error: CursorError) -> None:
        expired = isinstance(error, CursorExpired)
        body = {
            "channel": channel,
            "type": "error",
            "params": subject.params,
            "data": None,
            "error": str(error),
        }
        body["code"] = "cursor_expired" if expired else "bad_request"
        await self._ws.send_text(orjson.dumps(body).decode())
        await self._ws.close(4410 if expired else 4400, str(error).encode()[:120].decode(errors="ignore"))

    async def _send_each(self, messages: list[bytes]) -> None:
        for message in messages:
            await self._ws.send_text(message.decode())

    async def _send(self, channel: str, type: str, params: dict[str, Any], data: Any) -> None:
        named = {name: params[name] for name in _PARAMS}
        body = {"channel": channel, "type": type, "params": named, "data": data}
        await self._ws.send_text(orjson.dumps(body).decode())

    async def _error(self, request: dict[str, Any], message: str) -> None:
        given = request.get("params")
        params = {name: given[name] for name in _PARAMS if name in given} if isinstance(given, dict) else {}
        channel = request.get("channel")
        body = {"channel": channel if isinstance(channel, str) else LOG, "type": "error", "params": params}
        await self._ws.send_text(orjson.dumps({**body, "data": None, "error": message}).decode())


def _find_subject(conn: Connection, step_run_id: str) -> Subject | None:
    found = store.attempt(conn, step_run_id)
    if found is None:
        return None
    run_id, attempt = found
    row, job_id = store.run_row(conn, run_id), store.job_of_step(conn, attempt.step_id)
    if row is None or job_id is None:
        return None
    params = {"pipelineId": row.pipeline_id or run_id, "jobId": job_id, "stepRunId": step_run_id}
    return Subject(run_id, row.project, params, attempt)


def snapshot(params: dict[str, str], attempt: Attempt) -> dict[str, Any]:
    """The present state of an attempt; ``duration`` in ms."""
    ended = attempt.finished_at
    return {
        "stepRunId": attempt.id,
        "pipelineId": params["pipelineId"],
        "jobId": params["jobId"],
        "status": STATUS_NUMBERS[attempt.status.value],
        "startTime": rfc3339(attempt.started_at) if attempt.started_at else None,
        "endTime": rfc3339(ended) if ended else None,
        "duration": ended - attempt.started_at if ended and attempt.started_at else 0,
    }
