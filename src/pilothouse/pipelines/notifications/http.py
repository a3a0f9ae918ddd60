"""``/api/v1/pipelines/{id}/notifications``: what became of a pipeline's notifications."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.pipelines.notifications import store
from pilothouse.pipelines.notifications.model import Delivery
from pilothouse.pipelines.notifications.service import Notifications, require_delivery
from pilothouse.pipelines.rights import allowed
from pilothouse.storage import Tx
from pilothouse.wire.rest import notifications as shown

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"])

NotificationService = Annotated[Notifications, provided(Notifications)]


@router.get(
    "/{pipeline_id}/notifications",
    dependencies=[allow("pipeline.read")],
    summary="List the deliveries of a pipeline's notifications",
    responses=enveloped_list(shown.NotificationDelivery) | errors("PIPELINE_NOT_FOUND"),
)
async def list_notifications(
    pipeline_id: str,
    caller: Caller,
    paging: ArcentraPaged,
    database: Database,
    run: Annotated[str, Query(alias="runId", max_length=64, description="only of this run")] = "",
) -> Response:
    """Newest first; the last 200 are kept, and all that wait. Errors: ``PIPELINE_NOT_FOUND``."""

    def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
        allowed(conn, caller, pipeline_id, "pipeline.read")
        found, total = store.deliveries_of(conn, pipeline_id, paging.page, paging.limit, run)
        return [delivery_view(one) for one in found], total

    views, total = await database.read(read)
    return envelope(listed(views, paging, total))


@router.post(
    "/{pipeline_id}/notifications/{delivery_id}/redeliver",
    dependencies=[allow("pipeline.write")],
    summary="Deliver a notification again",
    responses=enveloped(
        shown.NotificationDelivery,
        example={
            **shown.NotificationDelivery.example,
            "status": "waiting",
            "attempts": 0,
            "nextAttemptAt": 1768055026,
            "endedAt": 0,
            "responseCode": 0,
            "reason": "",
        },
    )
    | errors("PIPELINE_NOT_FOUND", "NOTIFICATION_NOT_FOUND", "INVALID_STATE_TRANSITION"),
)
async def redeliver_notification(
    pipeline_id: str, delivery_id: str, idem: Idem, notifications: NotificationService
) -> Response:
    """With the same id and document, from the first attempt on. Errors: ``NOTIFICATION_NOT_FOUND``,
    ``INVALID_STATE_TRANSITION`` while it is still being delivered.
    """

    def permit(conn: Connection, by: Principal) -> None:
        allowed(conn, by, pipeline_id, "pipeline.write")
        require_delivery(conn, pipeline_id, delivery_id)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return delivery_view(notifications.redeliver(tx, by, pipeline_id, delivery_id))

    return await idem(use_case, 200, envelope=True, permit=permit)


def delivery_view(one: Delivery) -> dict[str, Any]:
    """The JSON form of a delivery; times in seconds."""
    return {
        "deliveryId": one.id,
        "runId": one.run_id,
        "event": one.event,
        "job": one.job,
        "plugin": one.plugin,
        "target": one.target,
        "status": one.status.value,
        "attempts": one.attempts,
        "createdAt": one.created_at // 1000,
        "lastAttemptAt": one.last_at // 1000,
        "nextAttemptAt": one.next_at // 1000,
        "endedAt": one.ended_at // 1000,
        "responseCode": one.code,
        "reason": one.reason,
        "response": one.response,
    }
