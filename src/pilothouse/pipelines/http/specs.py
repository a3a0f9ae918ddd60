"""Routes of pipelines' specs: check, save, show."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.model import Principal
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.pipelines import examples, store
from pilothouse.pipelines.bodies import (
    SaveSpec,
    ValidateSpec,
)
from pilothouse.pipelines.compiler import SpecCompiler
from pilothouse.pipelines.errors import SpecMissing
from pilothouse.pipelines.http.services import Compiler, PipelineService, allowed
from pilothouse.pipelines.model import SAVE_DIRECT, Pipeline, SavedSpec
from pilothouse.storage import Tx

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"])


@router.post(
    "/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec",
    responses=examples.VALID,
)
async def validate_text(body: ValidateSpec, caller: Caller, compiler: Compiler) -> Response:
    """Without a pipeline. Errors: ``SPEC_INVALID`` with ``details.problems``, ``INPUT_TOO_COSTLY``."""
    return await _validated(compiler, caller, body)


@router.get(
    "/{pipeline_id}/spec",
    dependencies=[allow("pipeline.read")],
    summary="Show a pipeline's spec",
    responses=examples.SPEC,
)
async def get_spec(pipeline_id: str, caller: Caller, database: Database, compiler: Compiler) -> Response:
    """The current spec, as an object and as its source text. Errors: ``SPEC_NOT_FOUND``."""

    def read(conn: Connection) -> tuple[Pipeline, SavedSpec]:
        pipeline = allowed(conn, caller, pipeline_id, "pipeline.read")
        saved = store.newest_spec(conn, pipeline_id)
        if saved is None:
            raise SpecMissing(f"pipeline '{pipeline.name}' has no spec yet")
        return pipeline, saved

    pipeline, saved = await database.read(read)
    # A spec that an older release has saved is stored as text only.
    spec = saved.spec or (await compiler.compile(caller, saved.text)).spec
    shown = {
        "spec": orjson.Fragment(spec),
        "text": saved.text,
        "format": int(saved.format),
        "headCommitSha": saved.head,
        "branch": pipeline.default_branch,
        "pipelineFilePath": pipeline.file_path,
    }
    return envelope(shown)


@router.post(
    "/{pipeline_id}/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec for a pipeline",
    responses=examples.VALID,
)
async def validate(
    pipeline_id: str, body: ValidateSpec, caller: Caller, database: Database, compiler: Compiler
) -> Response:
    """Errors: ``SPEC_INVALID`` with ``details.problems`` (message, line, column, expected, path),
    ``INPUT_TOO_COSTLY``.
    """
    await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.read"))
    return await _validated(compiler, caller, body)


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
    compiler: Compiler,
) -> Response:
    """Check a spec and make it the current one. Errors: ``SPEC_INVALID``, ``SPEC_CONFLICT``, ``INPUT_TOO_COSTLY``."""
    file = await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write").file_path)
    compiled = await compiler.compile(caller, body.spec, file)

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


async def _validated(compiler: SpecCompiler, caller: Principal, body: ValidateSpec) -> Response:
    checked = await compiler.check(caller, body.spec, body.fileName)
    described = [warning.describe(body.fileName or "<spec>") for warning in checked.warnings]
    details = [warning.as_json() for warning in checked.warnings]
    return envelope({"jobsCount": checked.jobs, "warnings": described, "warningDetails": details})
