"""Routes of pipelines' specs: check, save, show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.edge.work import WORK_ERRORS
from pilothouse.engine.problems import SpecError
from pilothouse.identity.http.services import IdentityService
from pilothouse.pipelines.compiled import Spec
from pilothouse.pipelines.compiler import Checked, SpecCompiler
from pilothouse.pipelines.http.large_bodies import SpecRoute
from pilothouse.pipelines.http.services import Compiler, PipelineService, SpecService
from pilothouse.pipelines.jobs import written_text
from pilothouse.pipelines.rights import allowed
from pilothouse.pipelines.service import Pipelines
from pilothouse.pipelines.specs import Save, SavedAs
from pilothouse.storage import Storage, Tx
from pilothouse.wire.rest import specs as shown
from pilothouse.wire.rest.specs import CheckSpec, CheckText, SaveSpec

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
    responses=enveloped(shown.SavedSpec)
    | errors(
        "PIPELINE_NOT_FOUND",
        "SPEC_NOT_FOUND",
        "REPOSITORY_UNAVAILABLE",
        "SPEC_INVALID",
        "INPUT_TOO_COSTLY",
        *WORK_ERRORS,
    ),
)
async def get_pipeline_spec(pipeline_id: str, caller: Caller, specs: SpecService) -> Response:
    """The current spec, as an object and as its source text; of a pipeline in a git repository that at the head of
    its branch. Errors: ``SPEC_NOT_FOUND``, ``REPOSITORY_UNAVAILABLE``."""
    found = await specs.shown(caller, pipeline_id)
    view = {
        "spec": orjson.Fragment(found.spec),
        "text": found.text,
        "format": int(found.format),
        "headCommitSha": found.head,
        "branch": found.branch,
        "pipelineFilePath": found.file,
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
    run = RunCheck(database, pipelines, compiler, caller, pipeline.project, pipeline.id)
    return await _validated(run, body)


@router.post(
    "/{pipeline_id}/spec/save",
    dependencies=[allow("pipeline.write")],
    summary="Save a pipeline's spec",
    responses=enveloped(shown.SpecSaved)
    | errors("PIPELINE_NOT_FOUND", "SPEC_CONFLICT", "REPOSITORY_UNAVAILABLE")
    | _SPEC_ERRORS,
)
async def save_pipeline_spec(
    pipeline_id: str, body: SaveSpec, caller: Caller, idem: Idem, specs: SpecService
) -> Response:
    """Check a spec and make it the current one: in the database, or as a commit that is pushed to the pipeline's
    repository. Errors: ``SPEC_INVALID``, ``SPEC_CONFLICT``, ``REPOSITORY_UNAVAILABLE``, ``INPUT_TOO_COSTLY``."""
    save = Save(body.spec, body.fileName, body.expectedHeadCommitSha, body.commitMessage, body.saveMode)
    saving = await specs.save(caller, pipeline_id, save)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return saved_answer(saving(tx, by))

    return await idem(
        use_case,
        200,
        envelope=True,
        permit=lambda conn, by: allowed(conn, by, pipeline_id, "pipeline.write"),
    )


@dataclass(frozen=True, slots=True)
class RunCheck:
    """What a spec is checked with, and whose runs in which project it is for."""

    database: Storage
    pipelines: Pipelines
    compiler: SpecCompiler
    caller: Principal
    project: str
    pipeline_id: str = ""

    async def check(self, checked: Checked, source: Spec, file: str, given: Mapping[str, str]) -> None:
        """Refuse what a trigger with the variables ``given`` would refuse. Raises ``SpecError``."""
        names, declared = checked.names, checked.variables
        try:
            await self.database.read(
                lambda conn: self.pipelines.check_run(
                    conn, self.project, names, declared, given, checked.inputs, self.pipeline_id
                )
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


def saved_answer(saved: SavedAs) -> dict[str, Any]:
    """What a client learns of a spec that it has saved."""
    return {
        "commitSha": saved.head,
        "branch": saved.branch,
        "saveMode": saved.mode,
        "prUrl": saved.pr_url,
        "prBranch": saved.pr_branch,
    }
