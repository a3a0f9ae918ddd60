"""``GET /api/v1/events``: the entries that the caller may see, as CloudEvents over SSE (decisions.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from pilothouse.access.errors import Refusal
from pilothouse.edge.asyncapi import Channel
from pilothouse.edge.openapi import content, errors
from pilothouse.edge.services import JournalFeed, provided
from pilothouse.edge.streaming import EventStream, Stream, wanted_cursor
from pilothouse.edge.web import Caller, allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.journal import Cursor, Entry, Frame, Selection
from pilothouse.journal.feed import NOW, START
from pilothouse.wire.rest.streams import CloudEvent
from pilothouse.wire.times import rfc3339_ms


class CloudEvents:
    """One event per entry, CloudEvents 1.0 structured JSON; of a log chunk, only the lines after the cursor."""

    key = "cloudevents/sse"

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch

    def ends(self, entry: Entry) -> bool:
        """False: the journal has no last entry."""
        return False

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The entry as ``id``, ``event`` and ``data``; ``id`` is the cursor after it."""
        after = Cursor(entry.offset + 1).text(self._epoch)
        place = Cursor(entry.offset, entry.base).text(self._epoch)
        event = {
            "specversion": "1.0",
            "id": place,
            "source": f"/{entry.stream}",
            "type": entry.type,
            "subject": entry.subject or None,
            "time": rfc3339_ms(entry.at),
            "datacontenttype": "application/json",
            "data": orjson.Fragment(entry.data),
        }
        if not entry.subject:
            del event["subject"]
        data = orjson.dumps(event)
        frame = b"id: %b\nevent: %b\ndata: %b\n\n" % (after.encode(), entry.type.encode(), data)
        return (Frame(frame, 1),)


@dataclass(frozen=True, slots=True)
class EventStreams:
    """``keepalive``: seconds without an event before a comment is sent; ``kinds``: by kind of stream, the error code
    for one that does not exist."""

    keepalive: float
    kinds: Mapping[str, str]
    format: CloudEvents


Streams = Annotated[EventStreams, provided(EventStreams)]

CHANNELS = (
    Channel(
        "journal",
        "/api/v1/events",
        "sse",
        "Follow the journal: every entry that the caller may see, as CloudEvents",
        "events.read",
        sends={"*": CloudEvent},
        query={
            "stream": "one stream: run/<id>, agent/<id>, …",
            "type": "entry types, with wildcards: step.*",
            "cursor": "a cursor, start or now",
        },
    ),
)
"""For ``/asyncapi.json``."""

_EXAMPLE = f"id: 5f2c9d1e.1042.0\nevent: step.started\ndata: {orjson.dumps(CloudEvent.example).decode()}\n\n"


async def follow_events(
    request: Request,
    caller: Caller,
    identity: IdentityService,
    feed: JournalFeed,
    streams: Streams,
    stream: Annotated[str | None, Query(max_length=200, description="run/<id>, agent/<id>, …")] = None,
    type: Annotated[str | None, Query(max_length=100, description="with wildcards: step.*")] = None,
    cursor: Annotated[str | None, Query(max_length=64, description="a cursor, start or now")] = None,
) -> Response:
    """An unlimited stream of Server-Sent Events. Begins at the start of ``stream``, or without one now, unless a
    cursor is given.

    To resume without a gap, send the last ``id`` as ``Last-Event-ID`` or ``?cursor=``. Errors:
    ``RUN_NOT_FOUND`` (or ``AGENT_NOT_FOUND``, …), ``INVALID_PARAMETER``, ``CURSOR_INVALID``, ``CURSOR_EXPIRED``.
    """
    default = START if stream else NOW
    place = wanted_cursor(cursor, request.headers.get("last-event-id"), default)
    scope = None
    if stream:
        code = _not_found(stream, streams.kinds)
        scope = await feed.scope_of(stream)
        if scope is None or not caller.sees(scope):
            raise Refusal.of(code, f"There is no stream '{stream}'")
    opened = await Stream(identity, feed, caller, scope).open(
        Selection(stream, type), streams.format, cursor=place
    )
    return EventStream(opened, feed, streams.keepalive)


def routes(kinds: Mapping[str, str]) -> APIRouter:
    """The route, for these kinds of streams (:class:`EventStreams`)."""
    router = APIRouter(tags=["streams"])
    router.get(
        "/api/v1/events",
        dependencies=[allow("events.read")],
        summary="Follow the journal",
        response_class=Response,
        responses=content(_EXAMPLE, media="text/event-stream", description="CloudEvents")
        | errors(*sorted(set(kinds.values())), "CURSOR_INVALID", "CURSOR_EXPIRED"),
    )(follow_events)
    return router


def _not_found(stream: str, kinds: Mapping[str, str]) -> str:
    """The error code for a stream that does not exist. Raises ``INVALID_PARAMETER`` for an unknown kind."""
    kind, _, name = stream.partition("/")
    if kind not in kinds or not name:
        known = ", ".join(f"{kind}/<id>" for kind in sorted(kinds))
        raise Refusal.of("INVALID_PARAMETER", f"stream: it is one of {known}", field="stream")
    return kinds[kind]
