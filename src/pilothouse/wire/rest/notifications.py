"""Deliveries of the notifications of pipelines (Arcentra envelope, camelCase)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds


class NotificationDelivery(Answer):
    """One notification to one receiver. ``target``: where it goes, without keys and paths; ``job`` empty: about the
    run; ``responseCode``, ``reason`` and ``response`` (at most 1 KiB): of the last attempt."""

    deliveryId: Id
    runId: Id
    event: Literal["run.succeeded", "run.failed", "job.succeeded", "job.failed"]
    job: str
    plugin: Literal["webhook", "email", "chat"]
    target: str
    status: Literal["waiting", "delivered", "failed"]
    attempts: Count
    createdAt: Seconds
    lastAttemptAt: Seconds
    nextAttemptAt: Seconds
    endedAt: Seconds
    responseCode: Count
    reason: str
    response: str

    example: ClassVar[Any] = {
        "deliveryId": "019a7b1e-7400-7a00-8a51-0c4b8f1f2a10",
        "runId": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "event": "run.failed",
        "job": "",
        "plugin": "webhook",
        "target": "https://hooks.example.org",
        "status": "failed",
        "attempts": 10,
        "createdAt": 1768046400,
        "lastAttemptAt": 1768055025,
        "nextAttemptAt": 0,
        "endedAt": 1768055025,
        "responseCode": 500,
        "reason": "the receiver answered 500",
        "response": "",
    }
