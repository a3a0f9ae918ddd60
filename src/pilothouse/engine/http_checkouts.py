"""Routes of checkouts (docs/checkout.md)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, allow, json_response
from pilothouse.engine.checkouts import known
from pilothouse.identity.http.services import IdentityService
from pilothouse.wire.bounds import MAX_KEY
from pilothouse.wire.rest.blobs import KnownCommits

Key = Annotated[str, Query(min_length=1, max_length=MAX_KEY, description="the repository's key")]


router = APIRouter(prefix="/api/v1/checkouts", tags=["blobs"])


@router.get(
    "/known",
    dependencies=[allow("blob.write")],
    summary="Commits that are known",
    responses=answer(KnownCommits) | errors("PROJECT_NOT_FOUND"),
)
async def list_known_commits(
    caller: Caller, repository: Key, database: Database, identity: IdentityService, project: str = ""
) -> Response:
    """The commits of a repository whose packs the server has, most recently used first, at most 20."""
    home = await identity.project_id(caller, project)
    require(caller, "blob.write", home)
    return json_response({"commits": await database.read(lambda conn: known(conn, home, repository))})
