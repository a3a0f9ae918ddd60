"""Triggers of pipelines (native routes)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pilothouse.wire.rest.base import Answer, Count, Id, Pagination, Time


class Fire(Answer):
    """One time that a trigger has fired. ``due_at``: the tick; ``cause``: the run whose event it was; ``run_id``:
    the run that it started, none for this ``reason``."""

    number: Count
    at: Time
    due_at: Time | None
    cause: Id | None
    run_id: Id | None
    reason: str

    example: ClassVar[Any] = {
        "number": 12,
        "at": "2026-01-10T03:00:00.310Z",
        "due_at": "2026-01-10T03:00:00.000Z",
        "cause": None,
        "run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "reason": "",
    }


class Trigger(Answer):
    """A cron or event trigger of a saved spec. ``by``: the user whose rights its runs have; ``options`` as in the
    spec; ``reason``: why it started no run the last time."""

    id: Id
    pipeline_id: Id
    pipeline: str
    project: Id
    position: Count
    name: str
    type: Literal["cron", "event"]
    options: dict[str, Any]
    enabled: bool
    pipeline_enabled: bool
    by: str
    created_at: Time
    next_at: Time | None
    last_at: Time | None
    last_run_id: Id | None
    reason: str
    fired: Count

    example: ClassVar[Any] = {
        "id": "019a7b1e-7100-7a00-8a51-0c4b8f1f2a10",
        "pipeline_id": "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10",
        "pipeline": "hello",
        "project": "019a7b1e-0000-7000-8000-000000000001",
        "position": 0,
        "name": "nightly",
        "type": "cron",
        "options": {"schedule": "0 3 * * *", "timezone": "Europe/Berlin"},
        "enabled": True,
        "pipeline_enabled": True,
        "by": "alice",
        "created_at": "2026-01-01T12:00:00.000Z",
        "next_at": "2026-01-11T02:00:00.000Z",
        "last_at": "2026-01-10T02:00:00.310Z",
        "last_run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "reason": "",
        "fired": 12,
    }


class TriggerDetail(Trigger):
    """A trigger with its last fires, newest first (at most 20)."""

    fires: list[Fire]

    example: ClassVar[Any] = {**Trigger.example, "fires": [Fire.example]}


class TriggerList(Answer):
    """A page of triggers, by pipeline and in the order of its spec."""

    triggers: list[Trigger]
    pagination: Pagination

    example: ClassVar[Any] = {"triggers": [Trigger.example], "pagination": Pagination.example}


class TriggerStarted(Answer):
    """The id of the run that was started."""

    run_id: Id

    example: ClassVar[Any] = {"run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"}
