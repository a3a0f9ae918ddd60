"""The route of a run's tests."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, allow, json_response
from pilothouse.engine.http import readable
from pilothouse.engine.reports.views import tests_view
from pilothouse.engine.runs import require_run
from pilothouse.wire.rest import tests as shown

router = APIRouter(prefix="/api/v1/workflow-runs", tags=["runs"])


@router.get(
    "/{run_id}/tests",
    dependencies=[allow("run.read")],
    summary="Show a run's tests",
    responses=answer(shown.RunTests) | errors("RUN_NOT_FOUND"),
)
async def get_run_tests(run_id: str, caller: Caller, database: Database) -> Response:
    """Counts, failing and flaky tests, and what has changed since the last run of the same pipeline and branch."""

    def read(conn: Connection) -> Response:
        readable(conn, caller, run_id)
        return json_response(tests_view(conn, require_run(conn, run_id)))

    return await database.read_much(read)
