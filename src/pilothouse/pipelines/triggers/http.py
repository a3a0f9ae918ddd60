"""``/api/v1/triggers``: the cron and event triggers of saved specs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Idem, allow, json_response
from pilothouse.edge.work import WORK_ERRORS
from pilothouse.pipelines.errors import TriggerNotFound
from pilothouse.pipelines.http.services import SpecService
from pilothouse.pipelines.store import pipeline
from pilothouse.pipelines.triggers import store
from pilothouse.pipelines.triggers.model import Fire, Trigger
from pilothouse.pipelines.triggers.service import Triggers, require_trigger
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.rest import triggers as shown
from pilothouse.wire.times import rfc3339_ms

router = APIRouter(prefix="/api/v1/triggers", tags=["triggers"])

TriggerService = Annotated[Triggers, provided(Triggers)]


@router.get(
    "", dependencies=[allow("pipeline.read")], summary="List triggers", responses=answer(shown.TriggerList)
)
async def list_triggers(
    caller: Caller,
    database: Database,
    paging: Paged,
    project: Annotated[str, Query(max_length=64, description="id of a project")] = "",
    pipeline: Annotated[str, Query(max_length=64, description="id of a pipeline")] = "",
) -> Response:
    """Cron and event triggers of the caller's projects, by pipeline."""
    projects = caller.among

    def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
        found, total = store.list_triggers(
            conn,
            projects=projects,
            project=project,
            pipeline=pipeline,
            page=paging.page,
            limit=paging.limit,
        )
        return [trigger_view(conn, one) for one in found], total

    views, total = await database.read(read)
    return json_response(paginated("triggers", views, paging, total))


@router.get(
    "/{trigger_id}",
    dependencies=[allow("pipeline.read")],
    summary="Show a trigger",
    responses=answer(shown.TriggerDetail) | errors("TRIGGER_NOT_FOUND"),
)
async def get_trigger(trigger_id: str, caller: Caller, database: Database) -> Response:
    """With its last fires, newest first. Errors: ``TRIGGER_NOT_FOUND``."""

    def read(conn: Connection) -> dict[str, Any]:
        return _detail(conn, _allowed(conn, caller, trigger_id, "pipeline.read"))

    return json_response(await database.read(read))


@router.post(
    "/{trigger_id}/enable",
    dependencies=[allow("pipeline.write")],
    summary="Enable a trigger",
    responses=answer(shown.TriggerDetail) | errors("TRIGGER_NOT_FOUND"),
)
async def enable_trigger(trigger_id: str, idem: Idem, triggers: TriggerService) -> Response:
    """From now on its runs have the caller's rights. Ticks and events before are not made up for. Requires
    ``run.trigger``, too. Errors: ``TRIGGER_NOT_FOUND``.
    """
    return await _switched(trigger_id, idem, triggers, enabled=True)


@router.post(
    "/{trigger_id}/disable",
    dependencies=[allow("pipeline.write")],
    summary="Disable a trigger",
    responses=answer(
        shown.TriggerDetail, example={**shown.TriggerDetail.example, "enabled": False, "next_at": None}
    )
    | errors("TRIGGER_NOT_FOUND"),
)
async def disable_trigger(trigger_id: str, idem: Idem, triggers: TriggerService) -> Response:
    """It stays disabled while the spec has it, also when the spec is saved again. Errors: ``TRIGGER_NOT_FOUND``."""
    return await _switched(trigger_id, idem, triggers, enabled=False)


async def _switched(trigger_id: str, idem: Idem, triggers: Triggers, *, enabled: bool) -> Response:
    def permit(conn: Connection, by: Principal) -> None:
        trigger = _allowed(conn, by, trigger_id, "pipeline.write")
        if enabled:
            require(by, "run.trigger", trigger.project)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return _detail(tx.conn, triggers.switch(tx, by, trigger_id, enabled=enabled))

    return await idem(use_case, 200, permit=permit)


@router.post(
    "/{trigger_id}/run",
    dependencies=[allow("run.trigger")],
    status_code=201,
    summary="Start a run as a trigger would",
    responses=answer(shown.TriggerStarted, 201)
    | errors(
        "TRIGGER_NOT_FOUND",
        "PIPELINE_DISABLED",
        "SPEC_NOT_FOUND",
        "SPEC_INVALID",
        "CONCURRENCY_INVALID",
        "QUOTA_EXCEEDED",
        "REPOSITORY_UNAVAILABLE",
        "INPUT_TOO_COSTLY",
        *WORK_ERRORS,
    ),
)
async def run_trigger(
    trigger_id: str,
    caller: Caller,
    idem: Idem,
    database: Database,
    triggers: TriggerService,
    specs: SpecService,
) -> Response:
    """Now, with its variables and the caller's rights; the trigger need not be enabled, and has not fired.

    Errors: ``TRIGGER_NOT_FOUND``, ``PIPELINE_DISABLED``, ``SPEC_INVALID``, ``QUOTA_EXCEEDED``,
    ``REPOSITORY_UNAVAILABLE``.
    """
    permit = partial(_allowed, trigger_id=trigger_id, action="run.trigger")
    trigger = await database.read(lambda conn: permit(conn, caller))
    ready = await specs.for_trigger(trigger.pipeline_id, caller)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return {"run_id": triggers.run_now(tx, by, trigger_id, ready).id}

    try:
        answered = await idem(use_case, 201, permit=permit)
    except BaseException:
        if ready is not None:
            ready.discard()
        raise
    if ready is not None:
        ready.discard_unless_started()
    return answered


def _allowed(conn: Connection, caller: Principal, trigger_id: str, action: str) -> Trigger:
    trigger = require_trigger(conn, trigger_id)
    if not caller.sees(entries.project_scope(trigger.project)):
        raise TriggerNotFound(trigger_id)
    require(caller, action, trigger.project)
    return trigger


def trigger_view(conn: Connection, trigger: Trigger) -> dict[str, Any]:
    """The JSON form of a trigger."""
    owner = pipeline(conn, trigger.pipeline_id)
    return {
        "id": trigger.id,
        "pipeline_id": trigger.pipeline_id,
        "pipeline": owner.name if owner else "",
        "project": trigger.project,
        "position": trigger.position,
        "name": trigger.name,
        "type": trigger.type,
        "options": trigger.options,
        "enabled": trigger.enabled,
        "pipeline_enabled": bool(owner and owner.enabled),
        "by": trigger.by,
        "created_at": rfc3339_ms(trigger.created_at),
        "next_at": _time(trigger.next_at),
        "last_at": _time(trigger.last_at),
        "last_run_id": trigger.last_run or None,
        "reason": trigger.reason,
        "fired": trigger.fired,
    }


def _detail(conn: Connection, trigger: Trigger) -> dict[str, Any]:
    fires = store.fires_of(conn, trigger.id)
    return {**trigger_view(conn, trigger), "fires": [_fire(one) for one in fires]}


def _fire(fire: Fire) -> dict[str, Any]:
    return {
        "number": fire.number,
        "at": rfc3339_ms(fire.at),
        "due_at": _time(fire.due_at),
        "cause": fire.cause or None,
        "run_id": fire.run_id or None,
        "reason": fire.reason,
    }


def _time(at: int) -> str | None:
    return rfc3339_ms(at) if at else None
