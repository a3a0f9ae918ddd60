"""Entries as events of ``stream.v1`` (arcentra-wire.txt, decisions.md): which entries are events, and their types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.edge.module import PublicEvent
from pilothouse.engine import lookup, status_store
from pilothouse.engine.streams.arcentra import LIFECYCLES
from pilothouse.fleet import store as fleet_store
from pilothouse.journal import Cursor, Entry, Selection
from pilothouse.journal import store as journal_store
from pilothouse.journal.model import Sees
from pilothouse.server.watches import Watch, pipeline_scope
from pilothouse.wire import entries
from pilothouse.wire.stream.v1 import stream_pb2 as pb

PublicEvents = Mapping[str, PublicEvent]
"""Entry types that are public events, of all modules."""

MAX_TYPES = 100
"""Event types in one request."""

PIPELINE, JOB, STEP, AGENT = "pipeline", "job", "step", "agent"

NUMBERS: dict[tuple[str, str], pb.EventType.ValueType] = {
    (STEP, "queued"): pb.EVENT_TYPE_STEP_RUN_CREATED,
    (STEP, "started"): pb.EVENT_TYPE_STEP_RUN_STARTED,
    (STEP, "completed"): pb.EVENT_TYPE_STEP_RUN_COMPLETED,
    (STEP, "failed"): pb.EVENT_TYPE_STEP_RUN_FAILED,
    (STEP, "timeout"): pb.EVENT_TYPE_STEP_RUN_FAILED,
    (STEP, "cancelled"): pb.EVENT_TYPE_STEP_RUN_CANCELLED,
    (JOB, "started"): pb.EVENT_TYPE_JOB_STARTED,
    (JOB, "completed"): pb.EVENT_TYPE_JOB_COMPLETED,
    (JOB, "failed"): pb.EVENT_TYPE_JOB_FAILED,
    (JOB, "timeout"): pb.EVENT_TYPE_JOB_FAILED,
    (JOB, "cancelled"): pb.EVENT_TYPE_JOB_CANCELLED,
    (PIPELINE, "started"): pb.EVENT_TYPE_PIPELINE_STARTED,
    (PIPELINE, "completed"): pb.EVENT_TYPE_PIPELINE_COMPLETED,
    (PIPELINE, "failed"): pb.EVENT_TYPE_PIPELINE_FAILED,
    (PIPELINE, "timeout"): pb.EVENT_TYPE_PIPELINE_FAILED,
    (PIPELINE, "cancelled"): pb.EVENT_TYPE_PIPELINE_CANCELLED,
    (AGENT, "registered"): pb.EVENT_TYPE_AGENT_REGISTERED,
    (AGENT, "unregistered"): pb.EVENT_TYPE_AGENT_UNREGISTERED,
    (AGENT, "offline"): pb.EVENT_TYPE_AGENT_OFFLINE,
}
"""Events that have a number; all others are ``EVENT_TYPE_UNSPECIFIED`` with their ``type``."""

_ABOUT: Mapping[str, tuple[str, ...]] = {
    PIPELINE: ("pipeline_id", "run_id"),
    JOB: ("job_id",),
    STEP: ("step_run_id", "step_id"),
    AGENT: ("agent_id",),
}
_NAMED = {PIPELINE: "name", JOB: "job", STEP: "step", AGENT: "agent_id"}
_OURS = re.compile(
    r"arcentra\.(pipeline|job|step|agent)\.(created|queued|started|paused|resumed|completed|failed|cancelled|timeout"
    r"|skipped|registered|unregistered|online|offline|draining)"
)
"""Types that say what has happened to an object; an event of an agent does not have them, whatever it says."""
_PARTS_OF_RUNS = ("pipeline_id", "run_id", "job_id", "step_id", "step_run_id")
_METADATA_KEYS = (
    *("run_id", "pipeline_id", "name", "kind", "project", "job_id", "job", "step_id", "step", "step_run_id"),
    *("attempt", "status", "previous", "exit_code", "duration", "agent_id", "event_id", "by"),
)
"""Keys of an entry that go into ``metadata``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of an event, and its resource. ``ids``, ``name``: the keys of the body with its id and name."""

    resource: str
    type: str
    number: pb.EventType.ValueType
    ids: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, event: PublicEvent, type: str, number: pb.EventType.ValueType) -> Kind:
        """The type of an event of this object."""
        about = event.object
        return cls(about, type, number, _ABOUT.get(about, (event.id,)), _NAMED.get(about, event.name))


def kind_of(entry: Entry, events: PublicEvents) -> Kind | None:
    """The type of an entry's event; ``None`` for entries that are not events."""
    if entry.type == entries.AGENT_EVENT:
        resource = STEP if "step_run_id" in entry.body else AGENT
        said = entry.body["event_type"]
        type = entry.type if _OURS.fullmatch(said) else said
        return Kind.of(PublicEvent(resource), type, pb.EVENT_TYPE_UNSPECIFIED)
    known = events.get(entry.type)
    if known is None or (entry.type == entries.STEP_COMPLETED and "step_run_id" in entry.body):
        return None  # the completion of its last attempt is the event
    resource = known.object
    lifecycle = known.lifecycle or LIFECYCLES.get(entry.body["status"], "completed")
    number = NUMBERS.get((resource, lifecycle), pb.EVENT_TYPE_UNSPECIFIED)
    return Kind.of(known, f"arcentra.{resource}.{lifecycle}", number)


class SystemEvent:
    """Builds ``StreamEventsResponse`` messages. ``event_id`` is the entry's cursor, as on ``/api/v1/events``."""

    def __init__(self, epoch: str, events: PublicEvents) -> None:
        self._epoch = epoch
        self._events = events

    def __call__(self, entry: Entry) -> pb.StreamEventsResponse | None:
        """The entry as an event, if it is one."""
        kind = kind_of(entry, self._events)
        if kind is None:
            return None
        body = entry.body
        resource_id = next((body[key] for key in kind.ids if body.get(key)), "")
        return pb.StreamEventsResponse(
            event_id=Cursor(entry.offset).text(self._epoch),
            event_type=kind.number,
            timestamp=entry.at // 1000,
            resource_id=resource_id,
            resource_type=kind.resource,
            title=_title(kind, body),
            description=body.get("error") or body.get("reason") or "",
            metadata=_metadata(body),
            user_id=body.get("by_id", ""),
            type=kind.type,
        )


def _title(kind: Kind, body: dict[str, Any]) -> str:
    name = body.get(kind.name, "")
    what = kind.type.removeprefix(f"arcentra.{kind.resource}.")
    return f"{kind.resource.capitalize()} {name}: {what}"


def _metadata(body: dict[str, Any]) -> dict[str, str]:
    found = {key: str(body[key]) for key in _METADATA_KEYS if body.get(key) not in (None, "")}
    if "payload" in body:
        found["payload"] = orjson.dumps(body["payload"]).decode()
    return found


@dataclass(frozen=True, slots=True)
class Events(Selection):
    """Events of some types, about some resources; an empty field matches everything."""

    events: PublicEvents = field(default_factory=dict)
    numbers: frozenset[int] = frozenset()
    resource: str = ""
    ids: frozenset[str] = frozenset()

    def wants(self, entry: Entry) -> bool:
        """Whether the entry is selected: by its resource, or by the run, job or pipeline that this is a part of."""
        kind = kind_of(entry, self.events)
        if kind is None or (self.numbers and kind.number not in self.numbers):
            return False
        if self.resource not in ("", kind.resource):
            return False
        about = _PARTS_OF_RUNS if kind.resource in (PIPELINE, JOB, STEP) else kind.ids
        return not self.ids or any(entry.body.get(key) in self.ids for key in about)


def watch_events(
    conn: Connection, request: pb.StreamEventsRequest, sees: Sees, events: PublicEvents
) -> Watch:
    """The events that a request selects. Raises ``INVALID_PARAMETER``, and ``NOT_FOUND`` for unknown resources."""
    objects = _ABOUT.keys() | {event.object for event in events.values()}
    if request.resource_type and request.resource_type not in objects:
        raise Refusal.of("INVALID_PARAMETER", f"resource_type is one of {', '.join(sorted(objects))}")
    if len(request.event_types) > MAX_TYPES:
        raise Refusal.of("INVALID_PARAMETER", f"a call names at most {MAX_TYPES} event types")
    unknown = [number for number in request.event_types if number not in pb.EventType.values()]
    if unknown:
        raise Refusal.of("INVALID_PARAMETER", f"there is no event type {unknown[0]}")
    numbers = frozenset(request.event_types) - {pb.EVENT_TYPE_UNSPECIFIED}
    ids = frozenset(request.resource_ids)
    scopes, streams = set(), set()
    for id in sorted(ids):
        scope, stream = _resource(conn, id, objects - _ABOUT.keys())
        if scope is None or not sees(scope):
            raise Refusal.of("NOT_FOUND", f"No pipeline, run, job, step run or agent with ID '{id}' exists")
        scopes.add(scope)
        streams.add(stream)
    stream = streams.pop() if len(streams) == 1 else None
    return Watch(
        Events(stream, events=events, numbers=numbers, resource=request.resource_type, ids=ids),
        frozenset(scopes),
    )


def _resource(conn: Connection, id: str, objects: Set[str]) -> tuple[str | None, str | None]:
    """The scope of the resource with this id, and its stream, if all its entries are in one.

    ``objects``: further kinds of objects, whose streams are ``<object>/<id>``.
    """
    parts = lookup.find_step_runs(conn, [id]) or lookup.find_jobs(conn, [id])
    run_id = parts[0].run_id if parts else id
    run = status_store.find_runs(conn, [run_id]).get(run_id)
    if run is not None:
        return entries.project_scope(run.project), entries.run_stream(run.id)
    if fleet_store.agent(conn, id) is not None:
        return entries.FLEET_SCOPE, entries.agent_stream(id)
    for stream in (f"{object}/{id}" for object in sorted(objects)):
        if (scope := journal_store.scope_of(conn, stream)) is not None:
            return scope, stream
    return pipeline_scope(conn, id), None
