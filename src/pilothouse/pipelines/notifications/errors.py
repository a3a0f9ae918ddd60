"""Refusals of notifications."""

from __future__ import annotations

from pilothouse.pipelines.errors import PipelineError


class NotificationNotFound(PipelineError):
    """The pipeline has no such delivery."""

    code = "NOTIFICATION_NOT_FOUND"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"No delivery of a notification with id '{delivery_id}' exists")


class StillWaiting(PipelineError):
    """The delivery has not ended."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self) -> None:
        super().__init__("the notification is still being delivered")
