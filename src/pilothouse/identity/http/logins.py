"""``/api/v1/auth/sessions``: the logins of a user."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Change, allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import login_json
from pilothouse.wire.rest import users as shown

router = APIRouter(prefix="/api/v1/auth/sessions", tags=["auth"], dependencies=[allow("login.own")])


@router.get(
    "",
    summary="List logins",
    responses=answer(shown.LoginSessionList) | errors("USER_NOT_FOUND"),
)
async def list_logins(
    caller: Caller,
    identity: IdentityService,
    database: Database,
    paging: Paged,
    user: Annotated[str, Query(description="Admins: another user's, by name or id, or `*`.")] = "",
) -> dict[str, Any]:
    """The caller's logins that are valid, newest first. ``current``: the one of this request."""
    logins, total = await database.read(
        lambda conn: identity.logins.list(
            conn, caller, identity.now(), user=user, page=paging.page, limit=paging.limit
        )
    )
    return paginated("sessions", [login_json(login, caller.token_id) for login in logins], paging, total)


@router.delete(
    "", summary="End all other logins", responses=answer(shown.EndedLogins) | errors("USER_NOT_FOUND")
)
async def end_other_logins(
    identity: IdentityService,
    change: Change,
    user: Annotated[str, Query(description="Admins: all logins of this user, by name or id.")] = "",
) -> dict[str, int]:
    """End all logins of the caller but the one of this request; API tokens stay valid."""
    return {"ended": await change(lambda tx, by: identity.logins.end_others(tx, by, user=user))}


@router.delete("/{session}", status_code=204, summary="End a login", responses=errors("TOKEN_NOT_FOUND"))
async def end_login(identity: IdentityService, change: Change, session: str) -> Response:
    """End one login and its streams; admins: of any user. Errors: ``TOKEN_NOT_FOUND``."""
    await change(lambda tx, by: identity.logins.end(tx, by, session))
    return Response(status_code=204)
