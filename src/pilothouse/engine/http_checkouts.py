"""Routes of checkouts (docs/checkout.md)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.edge.openapi import example
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, allow, json_response
from pilothouse.engine.checkouts import MAX_KEY, known
from pilothouse.identity.http.services import IdentityService

Key = Annotated[str, Query(min_length=1, max_length=MAX_KEY, description="the repository's key")]


router = APIRouter(prefix="/api/v1/checkouts", tags=["blobs"])

_PACK = {
    "id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
    "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
    "size": 4096,
}
_KNOWN = {"commits": [{"commit": "9fceb02d0ae598e95dc970b74767f19372d61af8", "depth": 1, "packs": [_PACK]}]}


@router.get(
    "/known",
    dependencies=[allow("blob.write")],
    summary="Commits that are known",
    responses=example(_KNOWN),
)
async def known_commits(
    caller: Caller, repository: Key, database: Database, identity: IdentityService, project: str = ""
) -> Response:
    """The commits of a repository whose packs the server has, most recently used first, at most 20."""
    home = await identity.project_id(caller, project)
    require(caller, "blob.write", home)
    return json_response({"commits": await database.read(lambda conn: known(conn, home, repository))})
