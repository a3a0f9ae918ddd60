"""Routes of pipelines (decisions.md, Arcentra: envelope, camelCase as in pipeline.v1, enums by number)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal, Role
from pilothouse.edge.web import Caller, Idem, allow, envelope
from pilothouse.engine import store as engine_store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.model import Run
from pilothouse.engine.runs import require_run
from pilothouse.engine.service import Engine
from pilothouse.identity.service import Identity
from pilothouse.pipelines import examples, store
from pilothouse.pipelines.bodies import (
    CreatePipeline,
    SaveSpec,
    StopRun,
    TriggerPipeline,
    UpdatePipeline,
    ValidateSpec,
)
from pilothouse.pipelines.errors import PipelineNotFound, SpecMissing
from pilothouse.pipelines.model import SAVE_DIRECT, Pipeline
from pilothouse.pipelines.service import (
    Pipelines,
    ReadSpec,
    SpecSource,
    TriggerRequest,
    read_spec,
    read_whole,
    require_pipeline,
)
from pilothouse.pipelines.spec import SpecError, spec_to_json
from pilothouse.pipelines.spec.places import located
from pilothouse.pipelines.views import pipeline_detail, run_detail, run_status, status_words
from pilothouse.storage import Tx
from pilothouse.wire import entries

Page = Annotated[int, Query(ge=1, le=1_000_000)]
PageSize = Annotated[int, Query(ge=1, le=100)]
StatusNumber = Annotated[int, Query(ge=0, le=6, description="a number of pipeline.v1.PipelineStatus, 0: any")]


def pipelines_router(identity: Identity, pipelines: Pipelines, engine: Engine) -> APIRouter:
    """``/api/v1/pipelines``."""
    routes = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"])

    def allowed(conn: Connection, caller: Principal, pipeline_id: str, action: str) -> Pipeline:
        pipeline = require_pipeline(conn, pipeline_id)
        if not caller.sees(entries.project_scope(pipeline.project)):
            raise PipelineNotFound(pipeline_id)
        require(caller, action, pipeline.project)
        return pipeline

    def run_of(conn: Connection, caller: Principal, pipeline_id: str, run_id: str, action: str) -> Run:
        allowed(conn, caller, pipeline_id, action)
        run = require_run(conn, run_id)
        if run.pipeline_id != pipeline_id:
            raise RunNotFound(run_id)
        return run

    async def spec_for(
        caller: Principal, pipeline_id: str, body: TriggerPipeline
    ) -> tuple[ReadSpec | None, str]:
        """The spec of a run, read where it holds up nobody, and the name of its file; ``None`` if none is saved."""

        def find(conn: Connection) -> tuple[SpecSource | None, str]:
            pipeline = allowed(conn, caller, pipeline_id, "run.trigger")
            saved = store.newest_spec(conn, pipeline_id) if body.spec is None else None
            return (saved.text if saved else body.spec), body.fileName or pipeline.file_path

        source, file = await identity.storage.read(find)
        return (None if source is None else await asyncio.to_thread(read_whole, source, file)), file

    @routes.post(
        "",
        dependencies=[allow("pipeline.write")],
        status_code=201,
        summary="Create a pipeline",
        responses=examples.CREATED,
    )
    async def create(body: CreatePipeline, caller: Caller, idem: Idem) -> Response:
        """Errors: ``PIPELINE_ALREADY_EXISTS``, ``VALIDATION_FAILED``."""
        named = body.projectId or None
        found = await identity.storage.read(lambda conn: identity.projects.resolve(conn, caller, named))
        project = found.id
        require(caller, "pipeline.write", project)

        def use_case(tx: Tx) -> dict[str, Any]:
            made = pipelines.create(
                tx,
                caller,
                project,
                body.name,
                description=body.description,
                default_branch=body.defaultBranch,
                file_path=body.pipelineFilePath,
                metadata=body.metadata,
                repository=body.repository,
            )
            return {"pipelineId": made.id}

        return await idem(use_case, 201, envelope=True)

    @routes.get(
        "", dependencies=[allow("pipeline.read")], summary="List pipelines", responses=examples.PIPELINES
    )
    async def list_pipelines(
        caller: Caller,
        projectId: str = "",
        name: str = "",
        repository: Annotated[str, Query(max_length=1000)] = "",
        status: StatusNumber = 0,
        page: Page = 1,
        pageSize: PageSize = 20,
    ) -> Response:
        """The pipelines of the caller's projects, by name; a pipeline's ``status`` is that of its newest run.

        ``name`` is an exact one, ``repository`` the key of a repository (docs/checkout.md).
        """
        projects = None if caller.role in (Role.ADMIN, Role.OPERATOR) else caller.projects

        def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
            found, total = store.list_pipelines(
                conn,
                projects=projects,
                project=projectId,
                name=name,
                repository=repository,
                statuses=status_words(status) if status else None,
                page=page,
                size=pageSize,
            )
            return [pipeline_detail(conn, pipeline) for pipeline in found], total

        listed, total = await identity.storage.read(read)
        return envelope({"list": listed, "total": total, "page": page, "pageSize": pageSize})

    @routes.post(
        "/spec/validate",
        dependencies=[allow("pipeline.read")],
        summary="Check a spec",
        responses=examples.VALID,
    )
    async def validate_text(body: ValidateSpec) -> Response:
        """Without a pipeline. Errors: ``SPEC_INVALID`` with ``details.problems``."""
        return await asyncio.to_thread(_validated, body)

    @routes.get(
        "/{pipeline_id}",
        dependencies=[allow("pipeline.read")],
        summary="Show a pipeline",
        responses=examples.PIPELINE,
    )
    async def get(pipeline_id: str, caller: Caller) -> Response:
        """Errors: ``PIPELINE_NOT_FOUND``."""

        def read(conn: Connection) -> dict[str, Any]:
            return pipeline_detail(conn, allowed(conn, caller, pipeline_id, "pipeline.read"))

        return envelope(await identity.storage.read(read))

    @routes.put(
        "/{pipeline_id}",
        dependencies=[allow("pipeline.write")],
        summary="Change a pipeline",
        responses=examples.PIPELINE,
    )
    async def change(pipeline_id: str, body: UpdatePipeline, caller: Caller) -> Response:
        """Errors: ``PIPELINE_NOT_FOUND``, ``PIPELINE_ALREADY_EXISTS``."""
        given = {
            "name": body.name,
            "description": body.description,
            "default_branch": body.defaultBranch,
            "file_path": body.pipelineFilePath,
            "metadata": body.metadata,
            "repository": body.repository,
            "enabled": None if body.isEnabled is None else bool(body.isEnabled),
        }
        fields = {name: value for name, value in given.items() if value is not None}

        def use_case(tx: Tx) -> dict[str, Any]:
            allowed(tx.conn, caller, pipeline_id, "pipeline.write")
            return pipeline_detail(tx.conn, pipelines.change(tx, caller, pipeline_id, **fields))

        return envelope(await identity.storage.write(use_case))

    @routes.delete(
        "/{pipeline_id}",
        dependencies=[allow("pipeline.write")],
        summary="Delete a pipeline",
        responses=examples.DELETED,
    )
    async def delete(pipeline_id: str, caller: Caller) -> Response:
        """Its runs stay. Errors: ``PIPELINE_NOT_FOUND``."""

        def use_case(tx: Tx) -> None:
            allowed(tx.conn, caller, pipeline_id, "pipeline.write")
            pipelines.delete(tx, caller, pipeline_id)

        await identity.storage.write(use_case)
        return envelope({"pipelineId": pipeline_id})

    @routes.get(
        "/{pipeline_id}/spec",
        dependencies=[allow("pipeline.read")],
        summary="Show a pipeline's spec",
        responses=examples.SPEC,
    )
    async def get_spec(pipeline_id: str, caller: Caller) -> Response:
        """The spec in force: as an object, and its source text. Errors: ``SPEC_NOT_FOUND``."""

        def read(conn: Connection) -> dict[str, Any]:
            pipeline = allowed(conn, caller, pipeline_id, "pipeline.read")
            saved = store.newest_spec(conn, pipeline_id)
            if saved is None:
                raise SpecMissing(f"pipeline '{pipeline.name}' has no spec yet")
            return {
                "spec": spec_to_json(read_spec(saved.text).spec),
                "text": saved.text,
                "format": int(saved.format),
                "headCommitSha": saved.head,
                "branch": pipeline.default_branch,
                "pipelineFilePath": pipeline.file_path,
            }

        return envelope(await identity.storage.read(read))

    @routes.post(
        "/{pipeline_id}/spec/validate",
        dependencies=[allow("pipeline.read")],
        summary="Check a spec for a pipeline",
        responses=examples.VALID,
    )
    async def validate(pipeline_id: str, body: ValidateSpec, caller: Caller) -> Response:
        """Errors: ``SPEC_INVALID`` with ``details.problems``: message, line, column, expected, path."""
        await identity.storage.read(lambda conn: allowed(conn, caller, pipeline_id, "pipeline.read"))
        return await asyncio.to_thread(_validated, body)

    @routes.post(
        "/{pipeline_id}/spec/save",
        dependencies=[allow("pipeline.write")],
        summary="Save a pipeline's spec",
        responses=examples.SAVED,
    )
    async def save(pipeline_id: str, body: SaveSpec, caller: Caller, idem: Idem) -> Response:
        """Checked, then in force. Errors: ``SPEC_INVALID``, ``SPEC_CONFLICT``."""

        # Reading a large spec takes long: beside the event loop, and the transaction.
        file = await identity.storage.read(
            lambda conn: allowed(conn, caller, pipeline_id, "pipeline.write").file_path
        )
        await asyncio.to_thread(read_spec, body.spec, file)

        def use_case(tx: Tx) -> dict[str, Any]:
            pipeline = allowed(tx.conn, caller, pipeline_id, "pipeline.write")
            saved = pipelines.save_spec(
                tx,
                caller,
                pipeline_id,
                body.spec,
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

    @routes.post(
        "/{pipeline_id}/trigger",
        dependencies=[allow("run.trigger")],
        status_code=201,
        summary="Start a run",
        responses=examples.TRIGGERED,
    )
    async def trigger(
        pipeline_id: str, caller: Caller, idem: Idem, body: TriggerPipeline | None = None
    ) -> Response:
        """``SPEC_INVALID`` also names secrets and variables that the run would need and has not, and variables that
        are given and nothing uses. Errors: that, ``SPEC_NOT_FOUND``, ``PIPELINE_DISABLED``, ``BLOB_NOT_FOUND``.
        """
        body = body or TriggerPipeline()
        read, file = await spec_for(caller, pipeline_id, body)
        request = TriggerRequest(
            variables=body.variables,
            spec=body.spec,
            file_name=body.fileName,
            checkout=body.checkout,
            branch=body.branch,
            commit_sha=body.commitSha,
            repositories=tuple(each.commit_of() for each in body.repositories),
            dirty=body.dirty,
            tag=body.tag,
            read=read,
        )

        def use_case(tx: Tx) -> dict[str, Any]:
            allowed(tx.conn, caller, pipeline_id, "run.trigger")
            return {"runId": pipelines.trigger(tx, caller, pipeline_id, request).id}

        try:
            return await idem(use_case, 201, envelope=True)
        except SpecError as refusal:
            if read is None or not isinstance(read.source, str):
                raise
            raise await asyncio.to_thread(located, refusal, read.source, file or "<spec>") from None

    @routes.get(
        "/{pipeline_id}/runs",
        dependencies=[allow("run.read")],
        summary="List a pipeline's runs",
        responses=examples.RUNS,
    )
    async def list_runs(
        pipeline_id: str,
        caller: Caller,
        status: StatusNumber = 0,
        page: Page = 1,
        pageSize: PageSize = 20,
    ) -> Response:
        """Newest first; ``status`` is a pipeline.v1.PipelineStatus number."""

        def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
            pipeline = allowed(conn, caller, pipeline_id, "run.read")
            filters = {"pipeline_id": pipeline_id}
            if status:
                words = status_words(status)
                if not words:
                    return [], 0
                filters["status"] = words[0]
            rows, total = engine_store.list_runs(
                conn, filters=filters, projects=None, page=page, limit=pageSize
            )
            return [run_detail(require_run(conn, row.id), pipeline) for row in rows], total

        listed, total = await identity.storage.read(read)
        return envelope({"list": listed, "total": total, "page": page, "pageSize": pageSize})

    @routes.get(
        "/{pipeline_id}/runs/{run_id}",
        dependencies=[allow("run.read")],
        summary="Show a pipeline's run",
        responses=examples.RUN,
    )
    async def get_run(pipeline_id: str, run_id: str, caller: Caller) -> Response:
        """Errors: ``RUN_NOT_FOUND``."""

        def read(conn: Connection) -> dict[str, Any]:
            run = run_of(conn, caller, pipeline_id, run_id, "run.read")
            return run_detail(run, require_pipeline(conn, pipeline_id))

        return envelope(await identity.storage.read(read))

    @routes.post(
        "/{pipeline_id}/runs/{run_id}/stop",
        dependencies=[allow("run.control")],
        summary="Stop a run",
        responses=examples.STOPPED,
    )
    async def stop(
        pipeline_id: str, run_id: str, caller: Caller, idem: Idem, body: StopRun | None = None
    ) -> Response:
        """Steps and jobs that clean up still run, unless ``force``. Errors: ``RUN_NOT_FOUND``,
        ``INVALID_STATE_TRANSITION``.
        """
        reason, force = (body.reason, body.force) if body else ("", False)

        def use_case(tx: Tx) -> dict[str, Any]:
            run_of(tx.conn, caller, pipeline_id, run_id, "run.control")
            run = engine.cancel(tx, caller, run_id, reason, force=force)
            return {"runId": run.id, "status": int(run_status(run))}

        return await idem(use_case, 200, envelope=True)

    return routes


def _validated(body: ValidateSpec) -> Response:
    parsed = read_spec(body.spec, body.fileName)
    described = [warning.describe(body.fileName or "<spec>") for warning in parsed.warnings]
    details = [warning.as_json() for warning in parsed.warnings]
    return envelope({"jobsCount": len(parsed.spec.jobs), "warnings": described, "warningDetails": details})
