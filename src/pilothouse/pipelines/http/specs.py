"""Routes of pipelines' specs: check, save, show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.edge.work import WORK_ERRORS
from pilothouse.engine.problems import SpecError
from pilothouse.identity.http.services import IdentityService
from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import Spec
from pilothouse.pipelines.compiler import Checked, SpecCompiler
from pilothouse.pipelines.errors import SpecMissing
from pilothouse.pipelines.http.large_bodies import SpecRoute
from pilothouse.pipelines.http.services import Compiler, PipelineService, allowed
from pilothouse.pipelines.jobs import written_text
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.pipelines.service import Pipelines
from pilothouse.storage import Storage, Tx
from pilothouse.wire.rest import specs as shown
from pilothouse.wire.rest.specs import CheckSpec, CheckText, SaveSpec
from pilothouse.wire.specs import SAVE_DIRECT

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"], route_class=SpecRoute)

_SPEC_ERRORS = errors("SPEC_INVALID", "INPUT_TOO_COSTLY", *WORK_ERRORS)


@router.post(
    "/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec",
    responses=enveloped(shown.Validation) | errors("PROJECT_NOT_FOUND") | _SPEC_ERRORS,
)
async def validate_spec(
    body: CheckText,
    caller: Caller,
    database: Database,
    identity: IdentityService,
    pipelines: PipelineService,
    compiler: Compiler,
) -> Response:
    """Without a pipeline. ``variables`` (requires ``run.trigger`` in the project): ``SPEC_INVALID`` then also names
    secrets and variables that a run would lack, as ``POST …/trigger`` does. Errors: that, with ``details.problems``,
    ``INPUT_TOO_COSTLY``.
    """
    project = ""
    if body.variables is not None:
        project = await identity.project_id(caller, body.projectId)
        require(caller, "run.trigger", project)
    return await _validated(RunCheck(database, pipelines, compiler, caller, project), body)


@router.get(
    "/{pipeline_id}/spec",
    dependencies=[allow("pipeline.read")],
    summary="Show a pipeline's spec",
    responses=enveloped(shown.SavedSpec) | errors("PIPELINE_NOT_FOUND", "SPEC_NOT_FOUND"),
)
async def get_pipeline_spec(
    pipeline_id: str, caller: Caller, database: Database, compiler: Compiler
) -> Response:
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
    view = {
        "spec": orjson.Fragment(spec),
        "text": saved.text,
        "format": int(saved.format),
        "headCommitSha": saved.head,
        "branch": pipeline.default_branch,
        "pipelineFilePath": pipeline.file_path,
    }
    return envelope(view)


@router.post(
    "/{pipeline_id}/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec for a pipeline",
    responses=enveloped(shown.Validation) | errors("PIPELINE_NOT_FOUND") | _SPEC_ERRORS,
)
async def validate_pipeline_spec(
    pipeline_id: str,
    body: CheckSpec,
    caller: Caller,
    database: Database,
    pipelines: PipelineService,
    compiler: Compiler,
) -> Response:
    """``variables`` (requires ``run.trigger``): also check what a run with them would lack.

    Errors: ``SPEC_INVALID`` with ``details.problems`` (message, line, column, expected, path), ``INPUT_TOO_COSTLY``.
    """
    action = "pipeline.read" if body.variables is None else "run.trigger"
    pipeline = await database.read(lambda conn: allowed(conn, caller, pipeline_id, action))
    return await _validated(RunCheck(database, pipelines, compiler, caller, pipeline.project), body)


@router.post(
    "/{pipeline_id}/spec/save",
    dependencies=[allow("pipeline.write")],
    summary="Save a pipeline's spec",
    responses=enveloped(shown.SpecSaved) | errors("PIPELINE_NOT_FOUND", "SPEC_CONFLICT") | _SPEC_ERRORS,
)
async def save_pipeline_spec(
    pipeline_id: str,
    body: SaveSpec,
    caller: Caller,
    idem: Idem,
    database: Database,
    pipelines: PipelineService,
    compiler: Compiler,
) -> Response:
    """Check a spec and make it the current one. Errors: ``SPEC_INVALID``, ``SPEC_CONFLICT``, ``INPUT_TOO_COSTLY``."""
    known = await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write").file_path)
    compiled = await compiler.compile(caller, body.spec, body.fileName or known)

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
        return saved_answer(pipeline, saved)

    return await idem(
        use_case,
        200,
        envelope=True,
        permit=lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write"),
    )


@dataclass(frozen=True, slots=True)
class RunCheck:
    """What a spec is checked with, and whose runs in which project it is for."""

    database: Storage
    pipelines: Pipelines
    compiler: SpecCompiler
    caller: Principal
    project: str

    async def check(self, checked: Checked, source: Spec, file: str, given: Mapping[str, str]) -> None:
        """Refuse what a trigger with the variables ``given`` would refuse. Raises ``SpecError``."""
        names, declared = checked.names, checked.variables
        try:
            await self.database.read(
                lambda conn: self.pipelines.check_run(conn, self.project, names, declared, given)
            )
        except SpecError as refusal:
            text = written_text(source)
            if text is None:
                raise
            raise await self.compiler.located(self.caller, refusal, text, file or "<spec>") from None


async def _validated(run: RunCheck, body: CheckSpec) -> Response:
    checked = await run.compiler.check(run.caller, body.spec, body.fileName, names=body.variables is not None)
    if body.variables is not None:
        await run.check(checked, body.spec, body.fileName, body.variables)
    described = [warning.describe(body.fileName or "<spec>") for warning in checked.warnings]
    details = [warning.as_json() for warning in checked.warnings]
    return envelope({"jobsCount": checked.jobs, "warnings": described, "warningDetails": details})


def saved_answer(pipeline: Pipeline, saved: SavedSpec) -> dict[str, Any]:
    """What a client learns of a spec that it has saved."""
    return {
        "commitSha": saved.head,
        "branch": pipeline.default_branch,
        "saveMode": SAVE_DIRECT,
        "prUrl": "",
        "prBranch": "",
    }
