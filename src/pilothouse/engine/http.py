"""Routes of runs of every kind (decisions.md, native routes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import answer, errors, json_lines
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database, WorkerPool, provided
from pilothouse.edge.web import Caller, Idem, allow, json_response
from pilothouse.edge.work import WORK_ERRORS
from pilothouse.engine import graph_store, list_store, store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.graph_json import encoded
from pilothouse.engine.jobs import names_job
from pilothouse.engine.logtext import LogQuery, run_logs
from pilothouse.engine.model import Run, Status
from pilothouse.engine.names import names_from_json
from pilothouse.engine.runs import require_run
from pilothouse.engine.service import Engine
from pilothouse.engine.views import run_summary, run_view
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.rest import runs as shown
from pilothouse.wire.rest.runs import CancelRun, RerunRun

Tail = Annotated[int | None, Query(ge=0, le=1_000_000, description="only the last so many lines")]
StepRunIds = Annotated[Sequence[str], Query(max_length=50, description="ids of attempts")]

JobNames = Annotated[Sequence[str], Query(max_length=50, description="names of jobs")]
StepNames = Annotated[Sequence[str], Query(max_length=50, description="names of steps")]

LARGE_GRAPH = 100_000
"""Characters of a graph from which on the view of its run is one of the few that are made at the same time."""

RunKind = Literal["pipeline", "workflow", "deployment", "cluster"]


def readable(conn: Connection, caller: Principal, run_id: str, action: str = "run.read") -> str:
    row = store.run_row(conn, run_id)
    if row is None or not caller.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    require(caller, action, row.project)
    return str(row.project)


def _permit(run_id: str, action: str) -> Callable[[Connection, Principal], str]:
    return lambda conn, by: readable(conn, by, run_id, action)


router = APIRouter(prefix="/api/v1/workflow-runs", tags=["runs"])

EngineService = Annotated[Engine, provided(Engine)]


@router.get("", dependencies=[allow("run.read")], summary="List runs", responses=answer(shown.RunList))
async def list_runs(
    caller: Caller,
    database: Database,
    paging: Paged,
    kind: RunKind | None = None,
    status: Status | None = None,
    pipeline: str | None = None,
    cluster: str | None = None,
) -> Response:
    """Runs of every kind, newest first, of the caller's projects."""
    given = {"kind": kind, "status": status, "pipeline_id": pipeline}
    filters = {name: value for name, value in given.items() if value}
    if cluster:
        filters.update(kind="cluster", name=cluster)
    projects = caller.among
    rows, total = await database.read(
        lambda conn: list_store.list_runs(
            conn, filters=filters, projects=projects, page=paging.page, limit=paging.limit
        )
    )
    return json_response(paginated("runs", [run_summary(row) for row in rows], paging, total))


@router.get(
    "/{run_id}",
    dependencies=[allow("run.read")],
    summary="Show a run",
    responses=answer(shown.Run) | errors("RUN_NOT_FOUND"),
)
async def get_run(
    run_id: str, caller: Caller, database: Database, job: JobNames = (), step: StepNames = ()
) -> Response:
    """A run with its jobs, steps and attempts; ``job`` and ``step``: only those with these names (repeatable).

    The answer has less than 4 MiB. Of a large run, outputs and long texts beyond 1 MiB, attempts besides each step's
    last one beyond 1000 (a quarter of both for more than 1000 steps), and steps for which there is no room are left
    out; steps say so with ``outputs_omitted`` and ``attempts_omitted`` (their number), jobs with ``steps_omitted``.
    Ask for a job or step alone to see them. Errors: ``RUN_NOT_FOUND``.
    """

    def read(conn: Connection) -> Response:
        readable(conn, caller, run_id)
        # Encoded here, in the thread: the event loop would be busy for long with a run of 5000 steps.
        return json_response(run_view(conn, require_run(conn, run_id), frozenset(job), frozenset(step)))

    def read_small(conn: Connection) -> Response | None:
        readable(conn, caller, run_id)
        return None if graph_store.size(conn, run_id) > LARGE_GRAPH else read(conn)

    small = await database.read(read_small)
    return small if small is not None else await database.read_much(read)


@router.get(
    "/{run_id}/logs",
    dependencies=[allow("run.read")],
    summary="A run's log so far",
    response_class=Response,
    responses=json_lines(shown.LogChunk, "compiling\nok\n", description="The log so far")
    | errors("RUN_NOT_FOUND"),
)
async def get_run_logs(
    run_id: str,
    caller: Caller,
    database: Database,
    job: str | None = None,
    step: str | None = None,
    step_run: StepRunIds = (),
    since: datetime | None = None,
    tail: Tail = None,
    format: Literal["text", "ndjson"] = "text",
) -> Response:
    """All lines so far, in order; filtered by ``job`` and ``step`` (names), ``step_run`` (ids of attempts,
    repeatable), ``since`` (when they were stored) and ``tail`` (the number of last lines).

    As plain text, or as one JSON object for each chunk of up to 200 lines: ``job``, ``step``,
    ``step_run_id``, ``attempt``, ``time`` (ms), ``first`` (number of the first line), ``lines``, ``stderr``
    (indices of lines of standard error); the last object holds the ``cursor`` to follow the run from, and
    its ``status``.
    """
    await database.read(lambda conn: readable(conn, caller, run_id))
    after = int(_utc(since).timestamp() * 1000) if since else 0
    query = LogQuery(job, step, tuple(step_run), after, tail, format == "ndjson")
    return run_logs(database, run_id, query)


@router.post(
    "/{run_id}/cancel",
    dependencies=[allow("run.control")],
    status_code=202,
    summary="Stop a run",
    responses=answer(shown.RunSummary, 202) | errors("RUN_NOT_FOUND", "INVALID_STATE_TRANSITION"),
)
async def cancel_run(
    run_id: str, idem: Idem, engine: EngineService, body: CancelRun | None = None
) -> Response:
    """Waiting steps are cancelled immediately, running steps are ended by their agents; then cleanup steps run.

    Cleanup is limited to ``PILOT_CLEANUP_GRACE``; ``force``, also in a later request, skips it. Errors:
    ``INVALID_STATE_TRANSITION``.
    """
    reason, force = (body.reason, body.force) if body else ("", False)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return run_summary(engine.cancel(tx, by, run_id, reason, force=force))

    return await idem(use_case, 202, permit=_permit(run_id, "run.control"))


@router.post(
    "/{run_id}/pause",
    dependencies=[allow("run.control")],
    summary="Pause a run",
    responses=answer(shown.RunSummary, example=shown.PAUSED)
    | errors("RUN_NOT_FOUND", "INVALID_STATE_TRANSITION"),
)
async def pause_run(run_id: str, idem: Idem, engine: EngineService) -> Response:
    """No step is started until the run is resumed; running steps continue, time limits of jobs are suspended.

    Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``.
    """

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return run_summary(engine.pause(tx, by, run_id))

    return await idem(use_case, 200, permit=_permit(run_id, "run.control"))


@router.post(
    "/{run_id}/resume",
    dependencies=[allow("run.control")],
    summary="Resume a run",
    responses=answer(shown.RunSummary) | errors("RUN_NOT_FOUND", "INVALID_STATE_TRANSITION"),
)
async def resume_run(run_id: str, idem: Idem, engine: EngineService) -> Response:
    """Resume a paused run. Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return run_summary(engine.resume(tx, by, run_id))

    return await idem(use_case, 200, permit=_permit(run_id, "run.control"))


@router.post(
    "/{run_id}/rerun",
    dependencies=[allow("run.trigger")],
    status_code=201,
    summary="Run again",
    responses=answer(shown.RunSummary, 201, example=shown.RERUN)
    | errors(
        "RUN_NOT_FOUND",
        "INVALID_STATE_TRANSITION",
        "SPEC_INVALID",
        "PIPELINE_NOT_FOUND",
        "PIPELINE_DISABLED",
        "BLOB_NOT_FOUND",
        "QUOTA_EXCEEDED",
        *WORK_ERRORS,
        "INPUT_TOO_COSTLY",
    ),
)
async def rerun_run(
    run_id: str,
    caller: Caller,
    idem: Idem,
    database: Database,
    engine: EngineService,
    pool: WorkerPool,
    body: RerunRun | None = None,
) -> Response:
    """Create a new run of the same definition; ``{"from":"failed"}`` keeps succeeded steps and their attempts,
    but approvals only where nothing after them runs again.

    Jobs that depend on a failed job run again. Errors: ``INVALID_STATE_TRANSITION``, ``SPEC_INVALID`` (a required
    secret was deleted), ``PIPELINE_DISABLED``, ``PIPELINE_NOT_FOUND``, ``QUOTA_EXCEEDED``.
    """
    from_failed = body is not None and body.start == "failed"

    def read(conn: Connection) -> tuple[Run, str]:
        readable(conn, caller, run_id, "run.trigger")
        run = require_run(conn, run_id)
        return run, encoded(run.graph)

    # The names take seconds for a large spec, so in a worker; a run's graph only grows while it is active.
    old, graph = await database.read(read)
    used = names_from_json(orjson.loads(await pool.run(names_job, graph.encode(), caller=caller.key)))
    rerun = partial(
        engine.rerun, run_id=run_id, from_failed=from_failed, names=used, stored=graph, loaded=old
    )

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return run_summary(rerun(tx, by=by))

    return await idem(use_case, 201, permit=_permit(run_id, "run.trigger"))


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
