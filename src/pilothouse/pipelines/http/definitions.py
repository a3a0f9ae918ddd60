"""Routes of pipelines themselves (decisions.md, Arcentra: envelope, camelCase, enums by number)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Change, Idem, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.pipelines import store
from pilothouse.pipelines.git.definitions import GitDefinitions
from pilothouse.pipelines.http.large_bodies import SpecRoute
from pilothouse.pipelines.http.services import GitService, PipelineService
from pilothouse.pipelines.rights import allowed
from pilothouse.pipelines.views import pipeline_detail, pipeline_details, status_words
from pilothouse.storage import Tx
from pilothouse.wire.rest import pipelines as shown
from pilothouse.wire.rest.pipelines import CreatePipeline, UpdatePipeline
from pilothouse.wire.specs import SAVE_DIRECT

StatusNumber = Annotated[int, Query(ge=0, le=6, description="a number of pipeline.v1.PipelineStatus, 0: any")]

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"], route_class=SpecRoute)


@router.post(
    "",
    dependencies=[allow("pipeline.write")],
    status_code=201,
    summary="Create a pipeline",
    responses=enveloped(shown.PipelineId, 201)
    | errors("PIPELINE_ALREADY_EXISTS", "PROJECT_NOT_FOUND", "QUOTA_EXCEEDED"),
)
async def create_pipeline(
    body: CreatePipeline,
    caller: Caller,
    idem: Idem,
    database: Database,
    identity: IdentityService,
    pipelines: PipelineService,
    git: GitService,
) -> Response:
    """Errors: ``PIPELINE_ALREADY_EXISTS``, ``VALIDATION_FAILED``."""
    project = await identity.project_id(caller, body.projectId)
    require(caller, "pipeline.write", project)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        made = pipelines.create(tx, by, project, body.name, **new_fields(body, git))
        git.check(made)
        return {"pipelineId": made.id}

    return await idem(
        use_case, 201, envelope=True, permit=lambda _, by: require(by, "pipeline.write", project)
    )


@router.get(
    "",
    dependencies=[allow("pipeline.read")],
    summary="List pipelines",
    responses=enveloped_list(shown.Pipeline),
)
async def list_pipelines(
    caller: Caller,
    paging: ArcentraPaged,
    database: Database,
    projectId: str = "",
    name: str = "",
    repository: Annotated[str, Query(max_length=1000)] = "",
    status: StatusNumber = 0,
) -> Response:
    """The pipelines of the caller's projects, by name; a pipeline's ``status`` is that of its newest run.

    ``name`` matches exactly; ``repository`` is the key of a repository (docs/checkout.md).
    """
    projects = caller.among

    def read(conn: Connection) -> Response:
        found, total = store.list_pipelines(
            conn,
            projects=projects,
            project=projectId,
            name=name,
            repository=repository,
            statuses=status_words(status) if status else None,
            page=paging.page,
            size=paging.limit,
        )
        # Encoded here, in the thread: a page of pipelines with much metadata has some hundred KiB.
        return envelope(listed(pipeline_details(conn, found), paging, total))

    return await database.read(read)


@router.get(
    "/{pipeline_id}",
    dependencies=[allow("pipeline.read")],
    summary="Show a pipeline",
    responses=enveloped(shown.Pipeline) | errors("PIPELINE_NOT_FOUND"),
)
async def get_pipeline(pipeline_id: str, caller: Caller, database: Database) -> Response:
    """Errors: ``PIPELINE_NOT_FOUND``."""

    def read(conn: Connection) -> dict[str, Any]:
        return pipeline_detail(conn, allowed(conn, caller, pipeline_id, "pipeline.read"))

    return envelope(await database.read(read))


@router.put(
    "/{pipeline_id}",
    dependencies=[allow("pipeline.write")],
    summary="Change a pipeline",
    responses=enveloped(shown.Pipeline) | errors("PIPELINE_NOT_FOUND", "PIPELINE_ALREADY_EXISTS"),
)
async def update_pipeline(
    pipeline_id: str, body: UpdatePipeline, change: Change, pipelines: PipelineService, git: GitService
) -> Response:
    """Errors: ``PIPELINE_NOT_FOUND``, ``PIPELINE_ALREADY_EXISTS``."""
    fields = changed_fields(body)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        allowed(tx.conn, by, pipeline_id, "pipeline.write")
        changed = pipelines.change(tx, by, pipeline_id, **fields)
        git.check(changed)
        return pipeline_detail(tx.conn, changed)

    return envelope(await change(use_case))


@router.delete(
    "/{pipeline_id}",
    dependencies=[allow("pipeline.write")],
    summary="Delete a pipeline",
    responses=enveloped(shown.PipelineId) | errors("PIPELINE_NOT_FOUND"),
)
async def delete_pipeline(pipeline_id: str, change: Change, pipelines: PipelineService) -> Response:
    """Its runs stay. Errors: ``PIPELINE_NOT_FOUND``."""

    def use_case(tx: Tx, by: Principal) -> None:
        allowed(tx.conn, by, pipeline_id, "pipeline.write")
        pipelines.delete(tx, by, pipeline_id)

    await change(use_case)
    return envelope({"pipelineId": pipeline_id})


def new_fields(body: CreatePipeline, git: GitDefinitions) -> dict[str, Any]:
    """The fields of a new pipeline besides its project and name, as parameters of its use case."""
    return {
        "description": body.description,
        "default_branch": body.defaultBranch,
        "file_path": body.pipelineFilePath,
        "metadata": body.metadata,
        "repository": body.repository or git.key(body.repoUrl),
        "repo_url": body.repoUrl,
        "repo_secret": body.repoSecret,
        "save_mode": body.saveMode or SAVE_DIRECT,
        "pr_target": body.prTargetBranch,
    }


def changed_fields(body: UpdatePipeline) -> dict[str, Any]:
    """The fields that are given, as parameters of the use case."""
    given = {
        "name": body.name,
        "description": body.description,
        "default_branch": body.defaultBranch,
        "file_path": body.pipelineFilePath,
        "metadata": body.metadata,
        "repository": body.repository,
        "repo_url": body.repoUrl,
        "repo_secret": body.repoSecret,
        "save_mode": body.saveMode or None,
        "pr_target": body.prTargetBranch,
        "enabled": None if body.isEnabled is None else bool(body.isEnabled),
    }
    return {name: value for name, value in given.items() if value is not None}
