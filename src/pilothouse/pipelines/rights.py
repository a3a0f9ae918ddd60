"""Which pipelines and runs a caller may use; shared by routes and RPCs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.store import run_row
from pilothouse.pipelines.errors import PipelineNotFound
from pilothouse.pipelines.model import Pipeline
from pilothouse.pipelines.service import require_pipeline
from pilothouse.wire import entries


def allowed(conn: Connection, caller: Principal, pipeline_id: str, action: str) -> Pipeline:
    """The pipeline, if the caller may do ``action`` with it; ``PIPELINE_NOT_FOUND`` if they may not see it."""
    pipeline = require_pipeline(conn, pipeline_id)
    if not caller.sees(entries.project_scope(pipeline.project)):
        raise PipelineNotFound(pipeline_id)
    require(caller, action, pipeline.project)
    return pipeline


def run_of(conn: Connection, caller: Principal, pipeline_id: str, run_id: str, action: str) -> Row[Any]:
    """The row of a run of the pipeline, likewise; ``RUN_NOT_FOUND`` if it is none of its runs."""
    allowed(conn, caller, pipeline_id, action)
    row = run_row(conn, run_id)
    if row is None or row.pipeline_id != pipeline_id:
        raise RunNotFound(run_id)
    return row
