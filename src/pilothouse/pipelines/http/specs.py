"""Routes of pipelines' specs: checked, saved, shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.engine.names import NamesUsed
from pilothouse.engine.problems import SpecError
from pilothouse.identity.http.services import IdentityService
from pilothouse.pipelines import examples, store
from pilothouse.pipelines.bodies import (
    CheckSpec,
    CheckText,
    SaveSpec,
)
from pilothouse.pipelines.compiled import compile_source, names_in, read_spec
from pilothouse.pipelines.errors import SpecMissing
from pilothouse.pipelines.http.services import PipelineService, allowed
from pilothouse.pipelines.model import SAVE_DIRECT
from pilothouse.pipelines.service import Pipelines
from pilothouse.pipelines.spec.places import located
from pilothouse.storage import Storage, Tx

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"])


@router.post(
    "/spec/validate",
    dependencies=[allow("pipeline.read")],
    summary="Check a spec",
    responses=examples.VALID,
)
async def validate_text(
    body: CheckText, caller: Caller, database: Database, identity: IdentityService, pipelines: PipelineService
) -> Response:
    """Without a pipeline. ``variables`` (requires ``run.trigger`` in the project): ``SPEC_INVALID`` then also names
    secrets and variables that a run would lack, as ``POST …/trigger`` does. Errors: that, with ``details.problems``.
    """
    project = ""
    if body.variables is not None:
        project = await identity.project_id(caller, body.projectId)
        require(caller, "run.trigger", project)
    checked = await asyncio.to_thread(_checked, body)
    await _check_run(body, checked, project, database, pipelines)
    return envelope(checked.answer)


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
async def validate(
    pipeline_id: str, body: CheckSpec, caller: Caller, database: Database, pipelines: PipelineService
) -> Response:
    """``variables`` (requires ``run.trigger``): also check what a run with them would lack.

    Errors: ``SPEC_INVALID`` with ``details.problems``: message, line, column, expected, path.
    """
    action = "pipeline.read" if body.variables is None else "run.trigger"
    pipeline = await database.read(lambda conn: allowed(conn, caller, pipeline_id, action))
    checked = await asyncio.to_thread(_checked, body)
    await _check_run(body, checked, pipeline.project, database, pipelines)
    return envelope(checked.answer)


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
    known = await database.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write").file_path)
    compiled = await asyncio.to_thread(compile_source, body.spec, body.fileName or known)

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


@dataclass(frozen=True, slots=True)
class _Checked:
    """The answer about a valid spec; ``names``: what it names, where that is to be checked, too."""

    answer: dict[str, Any]
    declared: Mapping[str, str]
    names: NamesUsed


def _checked(body: CheckSpec) -> _Checked:
    parsed = read_spec(body.spec, body.fileName)
    described = [warning.describe(body.fileName or "<spec>") for warning in parsed.warnings]
    details = [warning.as_json() for warning in parsed.warnings]
    answer = {"jobsCount": len(parsed.spec.jobs), "warnings": described, "warningDetails": details}
    names = NamesUsed() if body.variables is None else names_in(parsed)
    return _Checked(answer, parsed.spec.variables, names)


async def _check_run(
    body: CheckSpec, checked: _Checked, project: str, database: Storage, pipelines: Pipelines
) -> None:
    """Refuse what a trigger with ``body.variables`` would refuse. Raises ``SpecError``."""
    given = body.variables
    if given is None:
        return
    try:
        await database.read(
            lambda conn: pipelines.check_run(conn, project, checked.names, checked.declared, given)
        )
    except SpecError as refusal:
        if not isinstance(body.spec, str):
            raise
        raise await asyncio.to_thread(located, refusal, body.spec, body.fileName or "<spec>") from None
