"""Routes of the runs of a pipeline: trigger, list, show, stop."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from sqlalchemy import Connection, Row
from starlette.responses import Response

from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.edge.work import WORK_ERRORS
from pilothouse.engine import list_store
from pilothouse.engine.checkouts import RepositoryCommit
from pilothouse.engine.http import EngineService
from pilothouse.engine.problems import SpecError
from pilothouse.pipelines.http.large_bodies import SpecRoute
from pilothouse.pipelines.http.services import SpecService
from pilothouse.pipelines.model import Pipeline, RunStatus
from pilothouse.pipelines.rights import allowed, run_of
from pilothouse.pipelines.service import require_pipeline
from pilothouse.pipelines.specs import RunRequest
from pilothouse.pipelines.views import run_detail, run_status, status_words
from pilothouse.storage import Tx
from pilothouse.wire.rest import pipeline_runs as shown
from pilothouse.wire.rest.pipeline_runs import CheckoutRepository, StopRun, TriggerPipeline

StatusNumber = Annotated[int, Query(ge=0, le=6, description="a number of pipeline.v1.PipelineStatus, 0: any")]

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"], route_class=SpecRoute)

_CONTROL = errors("PIPELINE_NOT_FOUND", "RUN_NOT_FOUND", "INVALID_STATE_TRANSITION")


@router.post(
    "/{pipeline_id}/trigger",
    dependencies=[allow("run.trigger")],
    status_code=201,
    summary="Start a run",
    responses=enveloped(shown.Triggered, 201)
    | errors(
        "QUOTA_EXCEEDED",
        "PIPELINE_NOT_FOUND",
        "SPEC_NOT_FOUND",
        "SPEC_INVALID",
        "INPUT_TOO_COSTLY",
        "PIPELINE_DISABLED",
        "CONCURRENCY_INVALID",
        "IDEMPOTENCY_KEY_REUSED",
        "BLOB_NOT_FOUND",
        "REPOSITORY_UNAVAILABLE",
        *WORK_ERRORS,
    ),
)
async def trigger_pipeline(
    pipeline_id: str,
    caller: Caller,
    idem: Idem,
    specs: SpecService,
    body: TriggerPipeline | None = None,
) -> Response:
    """Without ``spec`` and ``checkout``, the run of a pipeline in a git repository is that of ``branch`` or
    ``commitSha``, in a work tree of the commit. ``SPEC_INVALID`` also reports secrets and variables that the run
    needs and that do not exist, and given variables that the spec does not use. The same request with the same
    ``requestId``, by the same user within a day, gives the same run; another request ``IDEMPOTENCY_KEY_REUSED``.
    Errors: these, ``SPEC_NOT_FOUND``, ``PIPELINE_DISABLED``, ``BLOB_NOT_FOUND``, ``REPOSITORY_UNAVAILABLE``,
    ``INPUT_TOO_COSTLY``, ``CONCURRENCY_INVALID``.
    """
    ready = await specs.ready(caller, pipeline_id, run_request(body or TriggerPipeline()))

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return {"runId": ready.start(tx, by)}

    try:
        permit = partial(allowed, pipeline_id=pipeline_id, action="run.trigger")
        answer = await idem(use_case, 201, envelope=True, permit=permit)
    except SpecError as refusal:
        ready.discard()
        raise await ready.located(refusal) from None
    except BaseException:
        ready.discard()
        raise
    ready.discard_unless_started()  # the answer is that of an earlier call
    return answer


def run_request(body: TriggerPipeline) -> RunRequest:
    """The run that a body asks for."""
    return RunRequest(
        variables=body.variables,
        spec=body.spec,
        file=body.fileName,
        request_id=body.requestId,
        checkout=body.checkout,
        branch=body.branch,
        commit_sha=body.commitSha,
        repositories=tuple(map(_commit_of, body.repositories)),
        dirty=body.dirty,
        tag=body.tag,
    )


def _commit_of(given: CheckoutRepository) -> RepositoryCommit:
    return RepositoryCommit(given.key, given.commit, given.depth, tuple(dict.fromkeys(given.packs)))


@router.get(
    "/{pipeline_id}/runs",
    dependencies=[allow("run.read")],
    summary="List a pipeline's runs",
    responses=enveloped_list(shown.PipelineRun) | errors("PIPELINE_NOT_FOUND"),
)
async def list_pipeline_runs(
    pipeline_id: str,
    caller: Caller,
    paging: ArcentraPaged,
    database: Database,
    status: StatusNumber = 0,
) -> Response:
    """Newest first; ``status`` is a pipeline.v1.PipelineStatus number. Variables of over 4 KiB are omitted."""

    def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
        pipeline = allowed(conn, caller, pipeline_id, "run.read")
        filters, paused = run_filters(status)
        rows, total = list_store.list_runs(
            conn,
            filters={**filters, "pipeline_id": pipeline_id},
            projects=None,
            page=paging.page,
            limit=paging.limit,
            paused=paused,
        )
        return details(conn, rows, pipeline), total

    views, total = await database.read(read)
    return envelope(listed(views, paging, total))


def details(conn: Connection, rows: list[Row[Any]], pipeline: Pipeline) -> list[dict[str, Any]]:
    """Runs of a pipeline in the contract's form."""
    counts = list_store.count_jobs(conn, rows)
    return [
        run_detail(
            row, pipeline, counts[row.id], None if row.variables is None else orjson.loads(row.variables)
        )
        for row in rows
    ]


def run_filters(number: int) -> tuple[dict[str, str], bool | None]:
    """The filters of ``list_runs`` for runs of this number, 0 for any, and whether they are paused.

    A paused run is one that runs (``engine.model.Run.paused_at``).
    """
    if not number:
        return {}, None
    paused = {RunStatus.PAUSED: True, RunStatus.RUNNING: False}.get(RunStatus(number))
    return {"status": "running" if number == RunStatus.PAUSED else status_words(number)[0]}, paused


@router.get(
    "/{pipeline_id}/runs/{run_id}",
    dependencies=[allow("run.read")],
    summary="Show a pipeline's run",
    responses=enveloped(shown.PipelineRun) | errors("PIPELINE_NOT_FOUND", "RUN_NOT_FOUND"),
)
async def get_pipeline_run(pipeline_id: str, run_id: str, caller: Caller, database: Database) -> Response:
    """Errors: ``RUN_NOT_FOUND``."""

    def read(conn: Connection) -> dict[str, Any]:
        row = run_of(conn, caller, pipeline_id, run_id, "run.read")
        [shown] = details(conn, [row], require_pipeline(conn, pipeline_id))
        return shown

    return envelope(await database.read(read))


@router.post(
    "/{pipeline_id}/runs/{run_id}/pause",
    dependencies=[allow("run.control")],
    summary="Pause a run",
    responses=enveloped(shown.RunState, example={**shown.RunState.example, "status": 6}) | _CONTROL,
)
async def pause_pipeline_run(pipeline_id: str, run_id: str, idem: Idem, engine: EngineService) -> Response:
    """Nothing more of it is started until it is resumed. Errors: ``RUN_NOT_FOUND``,
    ``INVALID_STATE_TRANSITION``.
    """

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        run = engine.pause(tx, by, run_id)
        return {"runId": run.id, "status": int(run_status(run))}

    permit = partial(run_of, pipeline_id=pipeline_id, run_id=run_id, action="run.control")
    return await idem(use_case, 200, envelope=True, permit=permit)


@router.post(
    "/{pipeline_id}/runs/{run_id}/resume",
    dependencies=[allow("run.control")],
    summary="Resume a run",
    responses=enveloped(shown.RunState) | _CONTROL,
)
async def resume_pipeline_run(pipeline_id: str, run_id: str, idem: Idem, engine: EngineService) -> Response:
    """A paused run goes on. Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        run = engine.resume(tx, by, run_id)
        return {"runId": run.id, "status": int(run_status(run))}

    permit = partial(run_of, pipeline_id=pipeline_id, run_id=run_id, action="run.control")
    return await idem(use_case, 200, envelope=True, permit=permit)


@router.post(
    "/{pipeline_id}/runs/{run_id}/stop",
    dependencies=[allow("run.control")],
    summary="Stop a run",
    responses=enveloped(shown.RunState) | _CONTROL,
)
async def stop_pipeline_run(
    pipeline_id: str,
    run_id: str,
    idem: Idem,
    engine: EngineService,
    body: StopRun | None = None,
) -> Response:
    """Cleanup steps and jobs still run, unless ``force``. Errors: ``RUN_NOT_FOUND``,
    ``INVALID_STATE_TRANSITION``.
    """
    reason, force = (body.reason, body.force) if body else ("", False)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        run = engine.cancel(tx, by, run_id, reason, force=force)
        return {"runId": run.id, "status": int(run_status(run))}

    permit = partial(run_of, pipeline_id=pipeline_id, run_id=run_id, action="run.control")
    return await idem(use_case, 200, envelope=True, permit=permit)
