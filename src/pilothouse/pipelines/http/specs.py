"""Routes of pipelines' specs: checked, saved, shown."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.pipelines import examples, store
from pilothouse.pipelines.bodies import (
    SaveSpec,
    ValidateSpec,
)
from pilothouse.pipelines.compiled import compile_source, read_spec
from pilothouse.pipelines.errors import SpecMissing
from pilothouse.pipelines.http.services import PipelineService, allowed
from pilothouse.pipelines.model import SAVE_DIRECT
from pilothouse.storage import Tx

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"])


@router.post(
    "/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec",
    responses=examples.VALID,
)
async def validate_text(body: ValidateSpec) -> Response:
    """Without a pipeline. Errors: ``SPEC_INVALID`` with ``details.problems``."""
    return await asyncio.to_thread(_validated, body)


@router.get(
    "/{pipeline_id}/spec",
    dependencies=[allow("pipeline.read")],
    summary="Show a pipeline's spec",
    responses=examples.SPEC,
)
async def get_spec(pipeline_id: str, caller: Caller, database: Database) -> Response:
    """The spec in force: as an object, and its source text. Errors: ``SPEC_NOT_FOUND``."""

    def read(conn: Connection) -> dict[str, Any]:
        pipeline = allowed(conn, caller, pipeline_id, "pipeline.read")
        saved = store.newest_spec(conn, pipeline_id)
        if saved is None:
            raise SpecMissing(f"pipeline '{pipeline.name}' has no spec yet")
        return {
            "spec": orjson.loads(saved.spec or compile_source(saved.text).spec),
            "text": saved.text,
            "format": int(saved.format),
            "headCommitSha": saved.head,
            "branch": pipeline.default_branch,
            "pipelineFilePath": pipeline.file_path,
        }

    return envelope(await database.read(read))


@router.post(
    "/{pipeline_id}/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec for a pipeline",
    responses=examples.VALID,
)
async def validate(pipeline_id: str, body: ValidateSpec, caller: Caller, database: Database) -> Response:
    """Errors: ``SPEC_INVALID`` with ``details.problems``: message, line, column, expected, path."""
    await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.read"))
    return await asyncio.to_thread(_validated, body)


@router.post(
    "/{pipeline_id}/spec/save",
    dependencies=[allow("pipeline.write")],
    summary="Save a pipeline's spec",
    responses=examples.SAVED,
)
async def save(
    pipeline_id: str,
    body: SaveSpec,
    caller: Caller,
    idem: Idem,
    database: Database,
    pipelines: PipelineService,
) -> Response:
    """Checked, then in force. Errors: ``SPEC_INVALID``, ``SPEC_CONFLICT``."""

    # Reading a large spec takes long: beside the event loop, and the transaction.
    file = await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write").file_path)
    compiled = await asyncio.to_thread(compile_source, body.spec, file)

    def use_case(tx: Tx) -> dict[str, Any]:
        pipeline = allowed(tx.conn, caller, pipeline_id, "pipeline.write")
        saved = pipelines.save_spec(
            tx,
            caller,
            pipeline_id,
            compiled,
            expected_head=body.expectedHeadCommitSha,
            message=body.commitMessage,
        )
        return {
            "commitSha": saved.head,
            "branch": pipeline.default_branch,
            "saveMode": SAVE_DIRECT,
            "prUrl": "",
            "prBranch": "",
        }

    return await idem(use_case, 200, envelope=True)


def _validated(body: ValidateSpec) -> Response:
    parsed = read_spec(body.spec, body.fileName)
    described = [warning.describe(body.fileName or "<spec>") for warning in parsed.warnings]
    details = [warning.as_json() for warning in parsed.warnings]
    return envelope({"jobsCount": len(parsed.spec.jobs), "warnings": described, "warningDetails": details})
